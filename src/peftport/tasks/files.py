"""A user's own labelled files as they come: CSV, TSV, JSON, JSONL or Parquet, packed or not, one item a row.

A ``split`` column (train, valid or test) is honoured where there is one; a folder of files named by split is one table.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from peftport.core.errors import TaskRefused
from peftport.tasks.columns import SPLIT_NAMES, Columns, Names
from peftport.tasks.content import PACKED, as_text, read_bytes, refuse_other_kinds
from peftport.tasks.delimited import delimiter_of, no_header, read_delimited, short_row
from peftport.tasks.guess import resolved
from peftport.tasks.json_tables import Table, is_object, read_json, read_jsonl
from peftport.tasks.kinds.guess import refuse_tag_columns

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
_OWN_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_REMEDIES = {
    ".txt": "rename it to .csv or .tsv if it has a header line and columns; else make it such a table, an item a row",
    ".xls": "open it and save it as CSV (UTF-8)",
    ".xlsx": "open it and save it as CSV (UTF-8)",
    ".ods": "open it and save it as CSV (UTF-8)",
    ".zip": "unpack it and give a file or folder of what is in it",
}


@dataclass(frozen=True, eq=False)
class _Read:
    """A table, and notes on what was guessed of its format."""

    table: Table
    notes: tuple[str, ...] = ()


def read_file(path: Path, names: Names) -> Columns:
    """Read a file of one of SUFFIXES, packed (PACKED) or not; columns that are not named are guessed by their names.

    Raises TaskRefused for a file that is absent, of another kind, damaged or not UTF-8, and for a column it lacks.
    """
    if not path.is_file():
        near = file_like(path)
        remedy = "check the path" if near is None else f"did you mean {near}?"
        raise TaskRefused(f"{path}: no such file, expected a {', '.join(SUFFIXES)} file; {remedy}")
    return _columns(path, _read(path), names)


def file_like(path: Path) -> Path | None:
    """Return the file that a path nearly names, with the suffix of a data set."""
    names: list[str] = []
    with suppress(OSError, ValueError):
        names = [name for name in os.listdir(path.parent) if path.suffix and Path(name).suffix in SUFFIXES]
    near = get_close_matches(path.name, sorted(names), n=1)
    return path.with_name(near[0]) if near else None


def stem_of(path: Path) -> str:
    """A file's name without its suffix, and without that of its packing."""
    return (Path(path.stem) if path.suffix.lower() in PACKED else path).stem


def split_files(folder: Path) -> dict[str, Path]:
    """The data files of a folder that are named by a split (train.csv, dev.tsv.gz), by that name in SPLITS' words.

    Raises TaskRefused for two of the same split.
    """
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        split = SPLIT_NAMES.get(stem_of(path).lower())
        if split is None or format_of(path) not in SUFFIXES or not path.is_file():
            continue
        if split in paths:
            raise TaskRefused(
                f"{folder}: {paths[split].name} and {path.name} are both {split}, expected one; take one away"
            )
        paths[split] = path
    return paths


def only_here(files: dict[str, Path]) -> bool:
    """Whether ``datasets`` would misread one of these files: another delimiter, JSON of one object, zstd."""
    return any(map(_only_here, files.values()))


def read_split_files(folder: Path, files: dict[str, Path], names: Names) -> Columns:
    """Read the files of a folder as one table, with their splits. Raises TaskRefused as `read_file` does."""
    parts = {split: _columns(path, _read(path), names) for split, path in files.items()}
    first = next(iter(parts.values()))
    return Columns(
        f"{folder} ({', '.join(path.name for path in files.values())})",
        {field: [text for part in parts.values() for text in part.fields[field]] for field in first.fields},
        [target for part in parts.values() for target in part.targets],
        groups=[group for part in parts.values() for group in part.groups or ()] if names.group else None,
        splits=[split for split, part in parts.items() for _ in part.targets],
        notes=tuple(dict.fromkeys(note for part in parts.values() for note in part.notes)),
        kind=first.kind,
    )


def format_of(path: Path) -> str:
    """The suffix that says how a file is read, that of a packing left out."""
    return (Path(path.stem) if path.suffix.lower() in PACKED else path).suffix.lower()


def _only_here(path: Path) -> bool:
    suffix = format_of(path)
    if path.suffix.lower() == ".zst":
        return True
    if suffix == ".json":
        return is_object(as_text(path, read_bytes(path)))
    usual = _OWN_DELIMITERS.get(suffix)
    return usual is not None and delimiter_of(path, as_text(path, read_bytes(path)), usual) != usual


def _read(path: Path) -> _Read:
    suffix = format_of(path)
    if suffix not in SUFFIXES:
        if path.suffix.lower() not in PACKED:
            refuse_other_kinds(path, _start(path))
        remedy = _REMEDIES.get(suffix, "convert the file")
        raise TaskRefused(f"{path}: suffix {suffix!r}, expected one of {', '.join(SUFFIXES)}; {remedy}")
    data = read_bytes(path)
    if suffix == ".parquet":
        return _Read(_read_parquet(path, data))
    if data.startswith(b"PAR1"):
        raise TaskRefused(f"{path}: Parquet, expected {suffix[1:].upper()}; rename it to .parquet")
    text = as_text(path, data)
    if suffix == ".jsonl":
        return _Read(read_jsonl(path, text))
    return _Read(*(read_json(path, text) if suffix == ".json" else read_delimited(path, text, _OWN_DELIMITERS[suffix])))


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2**16)


def _columns(path: Path, read: _Read, names: Names) -> Columns:
    """The columns that are named or guessed. Raises TaskRefused for one that is not there."""
    table = read.table
    wanted, notes = resolved(str(path), tuple(table), names)
    assert wanted.text is not None and wanted.label is not None, "columns are resolved"
    columns = [*(("text", name) for name in wanted.text), ("label", wanted.label), ("group", wanted.group)]
    used = [(option, name) for option, name in columns if name is not None]
    if not {name for _, name in used} <= table.keys():
        refuse_tag_columns(str(path), list(table))
    for option, name in used:
        if name not in table:
            raise _no_column(path, table, option, name)
    delimiter = _OWN_DELIMITERS.get(format_of(path))
    if delimiter and any(None in table[name] for _, name in used):
        short_row(path, as_text(path, read_bytes(path)), delimiter)
    splits = table.get("split") if "split" not in [name for _, name in used] else None
    return Columns(
        str(path),
        {field: table[name] for field, name in zip(wanted.fields, wanted.text, strict=True)},
        table[wanted.label],
        groups=table[wanted.group] if wanted.group else None,
        splits=splits,
        kind=wanted.kind,
        notes=(*read.notes, *notes, *(("splits from column split",) if splits is not None else ())),
    )


def _no_column(path: Path, table: Table, option: str, name: str) -> TaskRefused:
    present = ", ".join(table)
    if format_of(path) in _OWN_DELIMITERS and no_header(table):
        return TaskRefused(
            f"{path}, line 1: no column {name!r}, and the line looks like an item ({present[:80]}), expected a header "
            f"line that names the columns; put one before it, such as text,label"
        )
    return TaskRefused(
        f"{path}: no column {name!r}, expected one of those present ({present}); name it with --{option}"
    )


def _read_parquet(path: Path, data: bytes) -> Table:
    import polars

    try:
        frame = polars.read_parquet(io.BytesIO(data))
    except (polars.exceptions.PolarsError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TaskRefused(f"{path}: cannot be read ({first}), expected Parquet; write the file anew") from error
    columns: dict[str, Sequence[object]] = {name: frame[name].to_list() for name in frame.columns}
    return columns
