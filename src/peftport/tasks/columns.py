"""Raw columns of a user's data set, checked item by item: what a file and a hub data set have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from peftport.core.errors import TaskRefused
from peftport.tasks.spec import MASK, ONE_TEXT, PLACEHOLDER, Example, Targets
from peftport.tasks.split import Items
from peftport.tasks.task import Dropped

SPLIT_NAMES = {"train": "train", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}


@dataclass(frozen=True)
class Names:
    """The columns a user names; None leaves the default, or for ``group`` none. Two of ``text`` are a pair's.

    ``kind``: the kind of task that the user names, or that the names of the columns tell.
    """

    text: tuple[str, ...] | None = None
    label: str | None = None
    group: str | None = None
    kind: str | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """What the texts are called in prompts: ``text`` where there is one column, else as their columns."""
        return ONE_TEXT if self.text is None or len(self.text) == 1 else self.text


@dataclass(frozen=True, eq=False)
class Columns:
    """Values as read, None where a value is missing. ``where`` names the source in messages; rows count from 1.

    ``fields``: a column of texts for each field. ``classes``: the names of the classes, where the source has an order
    of them. ``dropped``: what the reader of the source has left out. ``notes``: what it has guessed. ``kind``: the kind
    of task that the columns are of, where their names tell it.
    """

    where: str
    fields: Mapping[str, Sequence[object]]
    targets: Sequence[object]
    groups: Sequence[object] | None = None
    splits: Sequence[object] | None = None
    classes: tuple[str, ...] | None = None
    dropped: Dropped = Dropped()
    notes: tuple[str, ...] = ()
    kind: str | None = None


@dataclass(frozen=True)
class Wording:
    """What a user may say about labels and prompts; None leaves the default.

    ``separator`` stands between the labels of an item, where a text holds several.
    """

    labels: tuple[str, ...] | None = None
    words: tuple[str, ...] | None = None
    descriptions: tuple[str, ...] | None = None
    prompt: str | None = None
    template: str | None = None
    separator: str | None = None

    def changes(self) -> dict[str, object]:
        """What is said of words and prompts, as fields of a spec; words stand for those of a mask too."""
        named = {"words": self.words, "masked_words": self.words, "descriptions": self.descriptions}
        return {name: value for name, value in named.items() if value} | self._prompts()

    def _prompts(self) -> dict[str, object]:
        """The prompts that the user's prompt stands for, by kind of host, and their names.

        One with ``{mask}`` is for masked language models; hosts that generate read what stands before the mask, which
        must have the same ``{field}`` in it as the whole.
        """
        if not self.prompt:
            return {}
        before, mask, _ = self.prompt.partition(MASK)
        prompts = {"prompt": before.rstrip(), "causal_prompt": before.rstrip()}
        if mask:
            whole = set(PLACEHOLDER.findall(self.prompt)) - {MASK[1:-1]}
            generating = prompts if whole and whole <= set(PLACEHOLDER.findall(before)) else {}
            prompts = {**generating, "masked_prompt": self.prompt}
        else:
            prompts = dict.fromkeys(prompts, self.prompt)
        return {**prompts, "own_prompts": tuple(prompts)}


def field_names(text: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """The columns that ``premise,hypothesis`` or a sequence of names stands for; None stays None.

    Raises:
        TaskRefused: more than two, the same twice, or a name that cannot stand in a prompt.

    """
    if text is None:
        return None
    names = tuple(text.split(",")) if isinstance(text, str) else tuple(text)
    names = tuple(name.strip() for name in names) if len(names) > 1 else names
    shown = ",".join(names)
    if len(names) > 2:
        raise TaskRefused(
            f"--text {shown}: {len(names)} columns, expected one, or two for pairs of texts; name two at most"
        )
    if not names or not all(names) or len(set(names)) < len(names):
        raise TaskRefused(
            f"--text {shown}: expected a column, or two different ones with a comma between; correct the names"
        )
    if len(names) == 2 and ("mask" in names or any("{" in name or "}" in name for name in names)):
        raise TaskRefused(
            f"--text {shown}: expected names that can stand in a prompt as {{name}}, not mask or with braces; "
            "rename the column"
        )
    return names


def items_of(columns: Columns, targets: Targets) -> Items:
    """The items of columns whose targets have been read.

    Raises:
        TaskRefused: the row of a text, group or split that is missing or unknown, or no rows at all.

    """
    where, groups, splits = columns.where, columns.groups, columns.splits
    return Items(
        examples_of(columns),
        targets,
        groups=None if groups is None else tuple(name_of(where, row, "group", v) for row, v in enumerate(groups, 1)),
        splits=None if splits is None else tuple(_split(where, row, v) for row, v in enumerate(splits, 1)),
        dropped=columns.dropped,
    )


def examples_of(columns: Columns) -> tuple[Example, ...]:
    """The texts of all rows: one each, or as many as there are fields. Raises TaskRefused as `items_of` does."""
    if not all(len(values) for values in columns.fields.values()):
        raise TaskRefused(f"{columns.where}: no items, expected labelled texts; check that this is the right data")
    texts = [
        tuple(values)
        if _all_are_texts(values)
        else tuple(_text(columns.where, row, field, value) for row, value in enumerate(values, 1))
        for field, values in columns.fields.items()
    ]
    return texts[0] if len(texts) == 1 else tuple(zip(*texts, strict=True))


def _all_are_texts(values: Sequence[object]) -> TypeGuard[Sequence[str]]:
    """Whether no value needs a second look: all are strings, not empty, without half surrogate pairs."""
    if set(map(type, values)) != {str}:
        return False
    texts = [value for value in values if isinstance(value, str)]
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return all(map(str.strip, texts))


def is_empty(text: object) -> bool:
    """Whether a value is no text at all."""
    return text is None or (isinstance(text, str) and not text.strip())


def _text(where: str, row: int, field: str, value: object) -> str:
    if is_empty(value):
        raise TaskRefused(f"{where}, row {row}: the {field} is empty, expected some; fill it in or delete the row")
    if not isinstance(value, str):
        type_name = type(value).__name__
        raise TaskRefused(
            f"{where}, row {row}: the {field} is of type {type_name}, expected text; name the column with --text"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise TaskRefused(
            f"{where}, row {row}: character {error.start + 1} of the {field} is half a surrogate pair, "
            "expected Unicode; correct the row"
        ) from error
    return value


def name_of(where: str, row: int, what: str, value: object) -> str:
    """A label's or group's name: an integer by its digits, a truth value as in JSON, a string less outer space.

    Raises:
        TaskRefused: there is none, or it is of another type; ``what`` it is, the row and the option are named.

    """
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
