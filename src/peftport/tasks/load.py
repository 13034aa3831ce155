"""From what a user calls a task to the task: a built-in name, a file, a folder or a hub id."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from peftport.core.errors import TaskRefused, UnknownName
from peftport.core.progress import Progress, step
from peftport.tasks import hub
from peftport.tasks.chats import conversational, read_template
from peftport.tasks.columns import Columns, Names, Wording, examples_of, field_names, items_of
from peftport.tasks.content import PACKED
from peftport.tasks.files import SUFFIXES, file_like, only_here, read_file, read_split_files, split_files, stem_of
from peftport.tasks.kinds import KINDS
from peftport.tasks.kinds.completion import Completion
from peftport.tasks.kinds.guess import GuessedKind, guess_kind, refuse_token_tags
from peftport.tasks.kinds.multi_label import guess_separator
from peftport.tasks.sources import TASKS
from peftport.tasks.spec import TaskSpec
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
    template: str | None = None,
    kind: str | None = None,
    separator: str | None = None,
    progress: Progress | None = None,
) -> Task:
    """Load the task that ``ref`` names, split without leaks.

    ``ref`` is a built-in name (a key of TASKS), a path to a .csv, .tsv, .json, .jsonl or .parquet file (as it is, or
    with .gz or .zst) or to a folder of them, or a hub id ``org/name[:config][@revision]``.

    These are for data of the user's own:

    - ``text``, ``label`` and ``group`` name columns; texts and labels that are not named are guessed by common names.
      Two columns of ``text`` (``("premise", "hypothesis")``, or with a comma between) make pairs of texts.
    - ``labels`` declares the labels and their order. ``separator`` stands between several labels of one item.
    - ``kind`` is a key of KINDS; None: guessed from the columns and the targets.

    What was guessed stands in the task's ``remarks``. ``words`` and ``descriptions`` (one for each label) and
    ``prompt`` (with ``{text}`` in it, or with both columns of pairs) replace the default wording of any task;
    ``template`` (auto, none or a file) says how prompts that are answered are put to hosts. ``progress`` is told how
    far the splitting is.

    Raises UnknownName if ``ref`` or ``kind`` names nothing, TaskRefused if what it names cannot be read or split as
    asked.
    """
    wording = Wording(labels, words, descriptions, prompt, read_template(template), separator)
    names = Names(field_names(text), label, group, kind)
    if kind is not None and kind not in KINDS:
        raise UnknownName.of("kind of task", kind, KINDS)
    if ref in TASKS:
        return _built_in(ref, names, wording, kind)
    with step(f"reading {ref}"):
        name, columns = _columns(ref, names)
        columns, guess = _with_kind(columns, wording, kind)
    if wording.template is not None and guess.kind != "completion":
        raise TaskRefused(
            f"{columns.where}: --template: expected a task of kind completion, got {guess.kind}; drop the option, or "
            "say --kind completion"
        )
    spec, targets = KINDS[guess.kind].read(name, columns, wording)
    task = make_task(spec, items_of(columns, targets), progress)
    remarks = (f"{name}: guessed {note}" for note in columns.notes)
    return replace(task, remarks=(*remarks, *filter(None, (guess.remark, *_parted(columns, wording, spec)))))


def kind_of(
    ref: str,
    *,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    labels: tuple[str, ...] | None = None,
    words: tuple[str, ...] | None = None,
    descriptions: tuple[str, ...] | None = None,
    separator: str | None = None,
) -> str:
    """The kind of task that `load_task` makes of data, which are read, but neither split nor checked.

    Raises UnknownName if ``ref`` names nothing, TaskRefused if what it names cannot be read.
    """
    if ref in TASKS:
        return TASKS[ref].spec.kind
    wording = Wording(labels, words, descriptions, None, None, separator)
    return _with_kind(_columns(ref, Names(field_names(text), label, None, None))[1], wording, None)[1].kind


def _with_kind(columns: Columns, wording: Wording, kind: str | None) -> tuple[Columns, GuessedKind]:
    """Columns as their kind of task takes them, and that kind: the one that is named or known, or a guess."""
    told = kind or columns.kind or ("completion" if conversational(columns) else None)
    if told == "completion":
        columns = Completion.prepared(columns)
    else:
        refuse_token_tags(columns.where, list(columns.fields.values()), columns.targets)
    examples_of(columns)  # a text that is missing is told before the target that is
    return columns, GuessedKind(told) if told is not None else _guess(columns, wording)


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

    task_kind = TASKS[ref].spec.kind
    if kind not in (None, task_kind):
        raise TaskRefused(f"--kind {kind}: expected {task_kind}, as {ref} is built in; drop the option")
    if names != Names() or wording.labels is not None or wording.separator is not None:
        raise TaskRefused(
            f"{ref}: a built-in task has its own columns and labels, expected none named; drop the options"
        )
    task = built_in_task(TASKS[ref])
    return task if wording == Wording() else replace(task, spec=task.spec.reworded(wording))


def check_task_name(ref: str) -> None:
    """Refuse what names no task, as `load_task` does, without reading or downloading one.

    Raises UnknownName if ``ref`` names nothing, TaskRefused if it names a file that is not there.
    """
    path = Path(os.path.expanduser(ref))
    if ref in TASKS or (ref and os.path.exists(path)):
        return
    if _looks_like_a_file(ref):
        read_file(path, Names())
    elif not hub.HUB_REFERENCE.fullmatch(ref):
        raise _unknown(ref)


def _unknown(ref: str) -> UnknownName:
    near = file_like(Path(ref))
    if near is not None:
        return UnknownName(f"unknown task {ref!r}: expected a file that is there; did you mean {near}?")
    remedy = f"or give a {', '.join(SUFFIXES)} file, a data set folder, or a hub id org/name"
    return UnknownName.of("task", ref, TASKS, remedy)


def _columns(ref: str, names: Names) -> tuple[str, Columns]:
    """The name and the columns of a user's data set: a folder, a file or one of the hub."""
    path = Path(os.path.expanduser(ref))
    # os.path says no where pathlib raises: a name that is too long, a home that nobody has.
    if ref and os.path.isdir(path):
        files = {} if os.path.isfile(path / "dataset_dict.json") else split_files(path)
        here = only_here(files)
        return path.resolve().name, read_split_files(path, files, names) if here else hub.read_folder(path, names)
    if (ref and os.path.exists(path)) or _looks_like_a_file(ref):
        return stem_of(path), read_file(path, names)
    if hub.HUB_REFERENCE.fullmatch(ref):
        return ref, hub.read_hub(ref, names)
    raise _unknown(ref)


def _looks_like_a_file(ref: str) -> bool:
    return ref.startswith((".", "/", "~")) or Path(ref).suffix.lower() in SUFFIXES + PACKED + _OTHER_SUFFIXES
