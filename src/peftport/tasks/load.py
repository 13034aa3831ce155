"""From what a user calls a task to the task: a built-in name, a file, a folder or a hub id."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from peftport.core.errors import TaskRefused, UnknownName
from peftport.tasks import hub
from peftport.tasks.columns import Columns, Names, Wording, examples_of, field_names, items_of
from peftport.tasks.files import SUFFIXES, read_file
from peftport.tasks.kinds import KINDS
from peftport.tasks.kinds.guess import GuessedKind, guess_kind, refuse_token_tags
from peftport.tasks.kinds.multi_label import guess_separator
from peftport.tasks.sources import TASKS
from peftport.tasks.spec import TaskSpec
from peftport.tasks.split import make_task
from peftport.tasks.task import Task

_OTHER_SUFFIXES = (".json", ".tsv", ".txt", ".xls", ".xlsx", ".arrow", ".feather", ".gz", ".zip")


def load_task(
    ref: str,
    *,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    group: str | None = None,
    labels: tuple[str, ...] | None = None,
    words: tuple[str, ...] | None = None,
    descriptions: tuple[str, ...] | None = None,
    prompt: str | None = None,
    kind: str | None = None,
    separator: str | None = None,
) -> Task:
    """Load the task that ``ref`` names, split without leaks.

    ``ref`` is a built-in name (a key of TASKS), a path to a .csv, .jsonl or .parquet file or to a local data set
    folder, or a hub id ``org/name[:config][@revision]``. ``text``, ``label`` and ``group`` name columns, and ``labels``
    declares the labels and their order; all four are for data of the user's own, as are ``kind`` (a key of KINDS; None:
    guessed from the targets, `Task.remarks` says how) and ``separator``, which stands between several labels of one
    item. Two columns of ``text`` (``("premise", "hypothesis")``, or with a comma between) make pairs of texts.
    ``words`` and ``descriptions`` (one for each label) and ``prompt`` (with ``{text}`` in it, or with both columns of
    pairs) replace the default wording of any task.

    Raises UnknownName if ``ref`` or ``kind`` names nothing, TaskRefused if what it names cannot be read or split as
    asked.
    """
    wording, names = Wording(labels, words, descriptions, prompt, separator), Names(field_names(text), label, group)
    if kind is not None and kind not in KINDS:
        raise UnknownName.of("kind of task", kind, KINDS)
    if ref in TASKS:
        return _built_in(ref, names, wording, kind)
    name, columns = _columns(ref, names)
    refuse_token_tags(columns.where, list(columns.fields.values()), columns.targets)
    examples_of(columns)  # a text that is missing is told before the target that is
    guess = GuessedKind(kind) if kind is not None else _guess(columns, wording)
    spec, targets = KINDS[guess.kind].read(name, columns, wording)
    task = make_task(spec, items_of(columns, targets))
    return replace(task, remarks=tuple(remark for remark in (guess.remark, *_parted(columns, wording, spec)) if remark))


def _guess(columns: Columns, wording: Wording) -> GuessedKind:
    """The kind of task that was not named: what the wording is for, or what the targets look like."""
    if wording.separator is not None:
        return GuessedKind("multi_label")
    if wording.words or wording.descriptions or columns.classes:
        return GuessedKind("classification")
    guess = guess_kind(columns.where, columns.targets)
    if wording.labels and guess.kind == "regression":
        return GuessedKind("classification")
    return guess


def _parted(columns: Columns, wording: Wording, spec: TaskSpec) -> list[str]:
    """What to say of a separator that was guessed."""
    if spec.kind != "multi_label" or wording.separator or any(isinstance(v, list | tuple) for v in columns.targets):
        return []
    sign = guess_separator(columns.targets)
    if sign is None:
        return [f"{columns.where}: no separator found, so every item has one label at most; name it with --separator"]
    return [f"{columns.where}: labels are parted at {sign!r}; --separator parts them elsewhere"]


def _built_in(ref: str, names: Names, wording: Wording, kind: str | None) -> Task:
    from peftport.tasks.prepared import built_in_task

    own = TASKS[ref].spec.kind
    if kind not in (None, own):
        raise TaskRefused(f"--kind {kind}: expected {own}, as {ref} is built in; drop the option")
    if names != Names() or wording.labels is not None or wording.separator is not None:
        raise TaskRefused(
            f"{ref}: a built-in task has its own columns and labels, expected none named; drop the options"
        )
    task = built_in_task(TASKS[ref])
    return task if wording == Wording() else replace(task, spec=task.spec.reworded(wording))


def _columns(ref: str, names: Names) -> tuple[str, Columns]:
    """The name and the columns of a user's data set: a folder, a file or one of the hub."""
    path = Path(os.path.expanduser(ref))
    # os.path says no where pathlib raises: a name that is too long, a home that nobody has.
    if ref and os.path.isdir(path):
        return path.resolve().name, hub.read_folder(path, names)
    if (ref and os.path.exists(path)) or _looks_like_a_file(ref):
        return path.stem, read_file(path, names)
    if hub.HUB_REFERENCE.fullmatch(ref):
        return ref, hub.read_hub(ref, names)
    remedy = f"or give a {', '.join(SUFFIXES)} file, a data set folder, or a hub id org/name"
    raise UnknownName.of("task", ref, TASKS, remedy)


def _looks_like_a_file(ref: str) -> bool:
    return ref.startswith((".", "/", "~")) or Path(ref).suffix.lower() in SUFFIXES + _OTHER_SUFFIXES
