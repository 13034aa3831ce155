"""Data sets of the hub, or of a local folder laid out like one, by way of ``datasets``.

``org/name[:config][@revision]``. Its own splits are used. A test split without labels is as good as none: validation is
then the test, and part of train the validation. Scripts of a data set are never run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from peftport.core.errors import TaskRefused, first_line
from peftport.tasks.columns import SPLIT_NAMES, Columns, Names, is_empty
from peftport.tasks.guess import resolved
from peftport.tasks.kinds.guess import refuse_tag_columns
from peftport.tasks.task import Dropped

if TYPE_CHECKING:
    import datasets

HUB_REFERENCE = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, eq=False)
class _Rows:
    """The labelled rows of one or more splits, and what was left out. ``texts``: a list for each field."""

    texts: list[list[object]]
    labels: list[object]
    groups: list[object]
    splits: list[object]
    unlabelled: int = 0
    empty_texts: int = 0


def read_hub(reference: str, names: Names) -> Columns:
    """Read a data set of the hub.

    Raises TaskRefused if it cannot be reached or read, or lacks a column.
    """
    match = HUB_REFERENCE.fullmatch(reference)
    if match is None:
        raise TaskRefused(f"{reference}: not a hub id, expected org/name[:config][@revision]; correct it")
    return _labelled(reference, _load(match["id"], match["config"], match["revision"]), names)


def read_folder(folder: Path, names: Names) -> Columns:
    """Read a local folder of Parquet, CSV or JSON files named by split, or one that ``save_to_disk`` wrote.

    Raises TaskRefused as ``read_hub`` does.
    """
    return _labelled(str(folder), _load(str(folder), None, None), names)


def _load(path: str, config: str | None, revision: str | None) -> datasets.DatasetDict:
    import datasets

    try:
        if (Path(path) / "dataset_dict.json").is_file():
            return datasets.DatasetDict.load_from_disk(path)
        loaded = datasets.load_dataset(path, config, revision=revision)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise _refused(path, error, "check the id, and log in (hf auth login) if it is private or gated") from error
    except ConnectionError as error:
        remedy = "go online, or set HF_HUB_OFFLINE=1 to use what was fetched before, or give a local file or folder"
        raise _refused(path, error, remedy) from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise _refused(path, error, "give org/name:config if it has several, or a local file") from error
    return loaded


def _refused(path: str, error: Exception, remedy: str) -> TaskRefused:
    said = first_line(error).rstrip(".")
    return TaskRefused(f"{path}: cannot be read ({said}), expected a data set of text files; {remedy}")


def _labelled(where: str, loaded: datasets.DatasetDict, names: Names) -> Columns:
    """The rows of the labelled splits; class names, where the data set has them, in its own order."""
    known = {split: SPLIT_NAMES[split] for split in loaded if split in SPLIT_NAMES}
    if len(loaded) == 1:
        known = dict.fromkeys(loaded, "train")
    if not known:
        raise TaskRefused(f"{where}: splits {', '.join(loaded)}, expected train, validation or test; use a local file")
    label = _label(where, loaded, known, names)
    labelled = {split: place for split, place in known.items() if label in loaded[split].column_names} or known
    first = loaded[next(iter(labelled))]
    names, notes = resolved(where, first.column_names, names)
    label = names.label
    assert names.text is not None and label is not None, "columns are resolved"
    for split in labelled:
        if not {*names.text, label} <= set(loaded[split].column_names):
            refuse_tag_columns(f"{where} [{split}]", loaded[split].column_names)
        _check_names(f"{where} [{split}]", names, loaded[split].column_names)
    merged = _merged([_rows(loaded[split], names, place) for split, place in labelled.items()])
    classes = getattr(first.features[label], "names", None)
    return Columns(
        f"{where} (labelled rows of {', '.join(labelled)})",
        dict(zip(names.fields, merged.texts, strict=True)),
        merged.labels,
        groups=merged.groups if names.group else None,
        splits=merged.splits,
        classes=tuple(name for name in classes if name in set(merged.labels)) if classes else None,
        dropped=Dropped(unlabelled=merged.unlabelled, empty_texts=merged.empty_texts),
        notes=notes,
        kind=names.kind,
    )


def _label(where: str, loaded: datasets.DatasetDict, known: Iterable[str], names: Names) -> str | None:
    """The column of labels: as named, or guessed from the columns of all splits, since a test may lack it."""
    columns = dict.fromkeys(column for split in known for column in loaded[split].column_names)
    return resolved(where, tuple(columns), names)[0].label


def _check_names(where: str, names: Names, present: Sequence[str]) -> None:
    texts = [("text", name) for name in names.text or ()]
    for option, name in (*texts, ("label", names.label), ("group", names.group)):
        if name is not None and name not in present:
            raise TaskRefused(
                f"{where}: no column {name!r}, expected one of those present ({', '.join(present)}); "
                f"name it with --{option}"
            )


def _rows(split: datasets.Dataset, names: Names, place: str) -> _Rows:
    """The rows of one split that have a label and all texts; none of a split whose labels are all absent or -1."""
    assert names.text is not None and names.label is not None, "columns are resolved before rows are read"
    rows = _Rows([[] for _ in names.text], [], [], [])
    feature, labels = split.features[names.label], list(split[names.label])
    if all(label in (None, -1) for label in labels):
        return rows
    classes = getattr(feature, "names", None)
    texts, unlabelled, empty = [list(split[name]) for name in names.text], 0, 0
    groups = list(split[names.group]) if names.group else [None] * len(labels)
    for row, label, group in zip(zip(*texts, strict=True), labels, groups, strict=True):
        if label is None or (classes and label == -1):
            unlabelled += 1
        elif (all if names.kind == "completion" else any)(map(is_empty, row)):  # an instruction may have no input
            empty += 1
        else:
            for column, text in zip(rows.texts, row, strict=True):
                column.append(text)
            rows.labels.append(classes[label] if classes and isinstance(label, int) else label)
            rows.groups.append(group)
            rows.splits.append(place)
    return replace(rows, unlabelled=unlabelled, empty_texts=empty)


def _merged(rows: list[_Rows]) -> _Rows:
    return _Rows(
        texts=[
            [value for column in columns for value in column] for columns in zip(*(p.texts for p in rows), strict=True)
        ],
        labels=[value for part in rows for value in part.labels],
        groups=[value for part in rows for value in part.groups],
        splits=[value for part in rows for value in part.splits],
        unlabelled=sum(part.unlabelled for part in rows),
        empty_texts=sum(part.empty_texts for part in rows),
    )
