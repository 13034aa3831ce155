"""A user's own labelled file: CSV with a header line, JSONL or Parquet, one item a row.

A ``split`` column (train, valid or test) is honoured where there is one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from peftport.core.errors import TaskRefused, first_line
from peftport.tasks.columns import Columns, Names
from peftport.tasks.kinds.guess import refuse_tag_columns
from peftport.tasks.spec import ONE_TEXT

SUFFIXES = (".csv", ".jsonl", ".parquet")

Table: TypeAlias = dict[str, Sequence[object]]


def read_file(path: Path, names: Names) -> Columns:
    """Read a file of one of SUFFIXES; columns default to ``text`` and ``label``.

    Raises TaskRefused for a file that is absent, of another kind, damaged or not UTF-8, and for a column it lacks.
    """
    if not path.is_file():
        raise TaskRefused(f"{path}: no such file, expected a {', '.join(SUFFIXES)} file; check the path")
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise TaskRefused(f"{path}: suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}; convert the file")
    texts, label = names.text or ONE_TEXT, names.label or "label"
    table = reader(path)
    if not {*texts, label} <= table.keys():
        refuse_tag_columns(str(path), list(table))
    wanted = [("text", name) for name in texts] + [("label", label)]
    for option, name in [*wanted, ("group", names.group)]:
        if name is not None and name not in table:
            raise TaskRefused(
                f"{path}: no column {name!r}, expected one of those present ({', '.join(table)}); "
                f"name it with --{option}"
            )
    named = {*texts, label, names.group}
    return Columns(
        str(path),
        {field: table[name] for field, name in zip(names.fields, texts, strict=True)},
        table[label],
        groups=table[names.group] if names.group else None,
        splits=table.get("split") if "split" not in named else None,
    )


def _utf8(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        raise TaskRefused(
            f"{path}: byte {start} (0x{data[start]:02x}) is not UTF-8, expected UTF-8 throughout; "
            "convert the file, for example with iconv"
        ) from error


def _read_csv(path: Path) -> Table:
    """Every value as a string: a text of digits stays a text, the label 01 stays apart from 1."""
    import polars

    text = _utf8(path).rstrip("\r\n")  # blank lines at the end are no items
    if not text:
        raise TaskRefused(f"{path}: the file is empty, expected a header line and items; check the path")
    try:
        frame = polars.read_csv(text.encode(), infer_schema=False)
    except polars.exceptions.PolarsError as error:
        raise _damaged(path, "CSV with one header line", error) from error
    return {name: frame[name].to_list() for name in frame.columns}


def _read_parquet(path: Path) -> Table:
    import polars

    try:
        frame = polars.read_parquet(path)
    except (polars.exceptions.PolarsError, OSError) as error:
        raise _damaged(path, "Parquet", error) from error
    return {name: frame[name].to_list() for name in frame.columns}


def _read_jsonl(path: Path) -> Table:
    """One JSON object a line; a key that a line lacks is a missing value. Only line feeds end a line, as in JSON."""
    rows: list[dict[str, object]] = []
    for number, line in enumerate(_utf8(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise TaskRefused(f"{path}, line {number}: {error}, expected one JSON object; correct the line") from error
        if not isinstance(row, dict):
            got = type(row).__name__
            raise TaskRefused(f"{path}, line {number}: JSON of type {got}, expected an object; correct the line")
        rows.append(row)
    if not rows:
        raise TaskRefused(f"{path}: the file is empty, expected one JSON object a line; check the path")
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)}


def _damaged(path: Path, kind: str, error: Exception) -> TaskRefused:
    return TaskRefused(f"{path}: cannot be read ({first_line(error)}), expected {kind}; write the file anew")
