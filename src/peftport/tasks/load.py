"""From what a user calls a task to the task: a built-in name, a file, a folder or a hub id."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from peftport.core.errors import TaskRefused, UnknownName
from peftport.tasks import hub
from peftport.tasks.columns import Wording, own_spec, reworded
from peftport.tasks.files import SUFFIXES, Names, read_file
from peftport.tasks.sources import TASKS
from peftport.tasks.split import make_task
from peftport.tasks.task import Task

_OTHER_SUFFIXES = (".json", ".tsv", ".txt", ".xls", ".xlsx", ".arrow", ".feather", ".gz", ".zip")


def load_task(
    ref: str,
    *,
    text: str | None = None,
    label: str | None = None,
    group: str | None = None,
    labels: tuple[str, ...] | None = None,
    words: tuple[str, ...] | None = None,
    descriptions: tuple[str, ...] | None = None,
    prompt: str | None = None,
) -> Task:
    """Load the task that ``ref`` names, split without leaks.

    ``ref`` is a built-in name (a key of TASKS), a path to a .csv, .jsonl or .parquet file or to a local data set
    folder, or a hub id ``org/name[:config][@revision]``. ``text``, ``label`` and ``group`` name columns, and ``labels``
    declares the labels and their order; all four are for data of the user's own. ``words`` and ``descriptions`` (one
    for each label) and ``prompt`` (with ``{text}`` in it) replace the default wording of any task.

    Raises UnknownName if ``ref`` names nothing, TaskRefused if what it names cannot be read or split as asked.
    """
    wording, names = Wording(words, descriptions, prompt), Names(text, label, group)
    if ref in TASKS:
        from peftport.tasks.prepared import built_in_task

        if names != Names() or labels is not None:
            raise TaskRefused(
                f"{ref}: a built-in task has its own columns and labels, expected none named; drop the options"
            )
        task = built_in_task(TASKS[ref])
        return task if wording == Wording() else replace(task, spec=reworded(task.spec, wording))
    path = Path(os.path.expanduser(ref))
    # os.path says no where pathlib raises: a name that is too long, a home that nobody has.
    if ref and os.path.isdir(path):
        name, read = path.resolve().name, hub.read_folder(path, names, labels)
    elif (ref and os.path.exists(path)) or _looks_like_a_file(ref):
        name, read = path.stem, read_file(path, names, labels)
    elif hub.HUB_REFERENCE.fullmatch(ref):
        name, read = ref, hub.read_hub(ref, names, labels)
    else:
        remedy = f"or give a {', '.join(SUFFIXES)} file, a data set folder, or a hub id org/name"
        raise UnknownName.of("task", ref, TASKS, remedy)
    return make_task(own_spec(name, read.names, wording), read.items)


def _looks_like_a_file(ref: str) -> bool:
    return ref.startswith((".", "/", "~")) or Path(ref).suffix.lower() in SUFFIXES + _OTHER_SUFFIXES
