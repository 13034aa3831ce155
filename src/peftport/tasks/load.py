"""From what a user calls a task to the task: a built-in name, a file, a folder or a hub id."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from peftport.core.errors import TaskRefused, UnknownName
from peftport.core.progress import Progress
from peftport.tasks import hub
from peftport.tasks.columns import Columns, Names, Wording, examples_of, field_names, items_of
from peftport.tasks.content import PACKED
from peftport.tasks.files import SUFFIXES, only_here, read_file, read_split_files, split_files, stem_of
from peftport.tasks.kinds import KINDS
from peftport.tasks.sources import TASKS
from peftport.tasks.split import make_task
from peftport.tasks.task import Task

_OTHER_SUFFIXES = (".txt", ".xls", ".xlsx", ".ods", ".arrow", ".feather", ".zip")


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
    kind: str = "classification",
    progress: Progress | None = None,
) -> Task:
    """Load the task that ``ref`` names, split without leaks.

    ``ref`` is a built-in name (a key of TASKS), a path to a .csv, .tsv, .json, .jsonl or .parquet file (as it is, or
    with .gz or .zst) or to a folder of them, or a hub id ``org/name[:config][@revision]``. ``text``, ``label`` and
    ``group`` name columns; texts and labels that are not named are guessed by common names, as the task's ``notes``
    say. ``labels`` declares the labels and their order. All four are for data of the user's own, as is ``kind`` (a key
    of KINDS). Two columns of ``text`` (``("premise", "hypothesis")``, or with a comma between) make pairs of texts.
    ``words`` and ``descriptions`` (one for each label) and ``prompt`` (with ``{text}`` in it, or with both columns of
    pairs) replace the default wording of any task. ``progress`` is told how far the splitting is.

    Raises UnknownName if ``ref`` or ``kind`` names nothing, TaskRefused if what it names cannot be read or split as
    asked.
    """
    wording, names = Wording(labels, words, descriptions, prompt), Names(field_names(text), label, group)
    if kind not in KINDS:
        raise UnknownName.of("kind of task", kind, KINDS)
    if ref in TASKS:
        return _built_in(ref, names, wording)
    name, columns = _columns(ref, names)
    examples_of(columns)  # a text that is missing is told before the target that is
    spec, targets = KINDS[kind].read(name, columns, wording)
    return make_task(spec, items_of(columns, targets), progress)


def _built_in(ref: str, names: Names, wording: Wording) -> Task:
    from peftport.tasks.prepared import built_in_task

    if names != Names() or wording.labels is not None:
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
        files = {} if os.path.isfile(path / "dataset_dict.json") else split_files(path)
        own = only_here(files)
        return path.resolve().name, read_split_files(path, files, names) if own else hub.read_folder(path, names)
    if (ref and os.path.exists(path)) or _looks_like_a_file(ref):
        return stem_of(path), read_file(path, names)
    if hub.HUB_REFERENCE.fullmatch(ref):
        return ref, hub.read_hub(ref, names)
    remedy = f"or give a {', '.join(SUFFIXES)} file, a data set folder, or a hub id org/name"
    raise UnknownName.of("task", ref, TASKS, remedy)


def _looks_like_a_file(ref: str) -> bool:
    return ref.startswith((".", "/", "~")) or Path(ref).suffix.lower() in SUFFIXES + PACKED + _OTHER_SUFFIXES
