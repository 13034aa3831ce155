"""Raw columns of a user's data set, checked item by item: what a file and a hub data set have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from peftport.core.errors import TaskRefused
from peftport.tasks.split import Items
from peftport.tasks.task import TaskSpec

MAX_LABELS = 100
SPLIT_NAMES = {"train": "train", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}


@dataclass(frozen=True, eq=False)
class Columns:
    """Values as read, None where a value is missing. ``where`` names the source in messages; rows count from 1."""

    where: str
    texts: Sequence[object]
    labels: Sequence[object]
    groups: Sequence[object] | None = None
    splits: Sequence[object] | None = None


@dataclass(frozen=True, eq=False)
class LabelledItems:
    """The label names, in order, and the items that carry them."""

    names: tuple[str, ...]
    items: Items


@dataclass(frozen=True)
class Wording:
    """What a user may say about labels and prompts; None leaves the default."""

    words: tuple[str, ...] | None = None
    descriptions: tuple[str, ...] | None = None
    prompt: str | None = None


def check_columns(columns: Columns, declared: tuple[str, ...] | None) -> LabelledItems:
    """Turn columns into items; label names are the declared ones, or else those found, in sorted order.

    Raises TaskRefused naming the row for an empty text, a missing label or group, a label that is not declared or an
    unknown split; also for fewer than 2 labels or more than MAX_LABELS.
    """
    where = columns.where
    if not columns.texts:
        raise TaskRefused(f"{where}: no items, expected labelled texts; check that this is the right data")
    texts = tuple(_text(where, row, value) for row, value in enumerate(columns.texts, 1))
    found = [_name(where, row, "label", value) for row, value in enumerate(columns.labels, 1)]
    names = declared or _sorted_names(set(found))
    if declared is None and not 2 <= len(names) <= MAX_LABELS:
        shown = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
        raise TaskRefused(
            f"{where}: {len(names)} different labels ({shown}), expected 2 to {MAX_LABELS}; "
            "name the right column with --label"
        )
    index = {name: i for i, name in enumerate(names)}
    for row, name in enumerate(found, 1):
        if name not in index:
            expected = ", ".join(names)
            raise TaskRefused(
                f"{where}, row {row}: label {name!r}, expected one of {expected}; correct the row or declare it"
            )
    groups, splits = columns.groups, columns.splits
    labels = np.array([index[name] for name in found], dtype=np.int64)
    items = Items(
        texts,
        labels,
        groups=None if groups is None else tuple(_name(where, row, "group", v) for row, v in enumerate(groups, 1)),
        splits=None if splits is None else tuple(_split(where, row, v) for row, v in enumerate(splits, 1)),
    )
    return LabelledItems(names, items)


def own_spec(name: str, labels: tuple[str, ...], wording: Wording) -> TaskSpec:
    """The spec of a user's data set: label names as label words, plain prompts, unless worded otherwise.

    Raises TaskRefused where the wording does not fit the labels.
    """
    words = wording.words or labels
    choice = f"{', '.join(words[:-1])} or {words[-1]}"
    try:
        return TaskSpec(
            name=name,
            labels=labels,
            words=words,
            descriptions=wording.descriptions or tuple(f"This text is {word}." for word in words),
            prompt=wording.prompt or f"Classify as {choice}: {{text}}",
            causal_prompt="Text: {text}\nLabel:",
            masked_prompt="{text} This is {mask}.",
            masked_words=words,
            domain=name,
        )
    except ValidationError as error:
        raise refused(name, error) from error


def reworded(spec: TaskSpec, wording: Wording) -> TaskSpec:
    """A built-in's spec with the user's wording in place of its own. Raises TaskRefused where that does not fit."""
    changes: dict[str, object] = {}
    if wording.words:
        changes |= {"words": wording.words, "masked_words": wording.words}
    if wording.descriptions:
        changes["descriptions"] = wording.descriptions
    if wording.prompt:
        changes["prompt"] = wording.prompt
    try:
        return TaskSpec.model_validate(spec.model_dump() | changes)
    except ValidationError as error:
        raise refused(spec.name, error) from error


def refused(name: str, error: ValidationError) -> TaskRefused:
    """The first complaint of a validation, as one line."""
    return TaskRefused(f"{name}: {error.errors()[0]['msg'].removeprefix('Value error, ')}; correct the option")


def _text(where: str, row: int, value: object) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise TaskRefused(f"{where}, row {row}: the text is empty, expected some; fill it in or delete the row")
    if not isinstance(value, str):
        got = type(value).__name__
        raise TaskRefused(f"{where}, row {row}: the text is of type {got}, expected text; name the column with --text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise TaskRefused(
            f"{where}, row {row}: character {error.start + 1} of the text is half a surrogate pair, expected Unicode; "
            "correct the row"
        ) from error
    return value


def _name(where: str, row: int, what: str, value: object) -> str:
    """A label's or group's name: an integer by its digits, a truth value as in JSON, a string less outer space."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    if value is None or isinstance(value, str) or value != value:  # the last: a NaN
        raise TaskRefused(f"{where}, row {row}: the {what} is missing, expected one; fill it in or delete the row")
    raise TaskRefused(
        f"{where}, row {row}: {what} {value!r} of type {type(value).__name__}, expected an integer or a string; "
        f"name the right column with --{what}"
    )


def _split(where: str, row: int, value: object) -> str:
    name = SPLIT_NAMES.get(value.strip().lower()) if isinstance(value, str) else None
    if name is None:
        raise TaskRefused(
            f"{where}, row {row}: split {value!r}, expected train, valid or test; correct it, or rename the column "
            "to have the items split for you"
        )
    return name


def _sorted_names(found: set[str]) -> tuple[str, ...]:
    """Label names in order: by number where all are integers, else alphabetically."""
    names = sorted(found)
    if all(name.removeprefix("-").isdecimal() for name in names):
        names.sort(key=int)
    return tuple(names)
