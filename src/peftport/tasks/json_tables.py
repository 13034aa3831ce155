"""Tables as JSON: one object a line, a list of objects, or an object of columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from peftport.core.errors import TaskRefused

Table: TypeAlias = dict[str, Sequence[object]]


def read_jsonl(path: Path, text: str) -> Table:
    """One JSON object a line; a key that a line lacks is a missing value. Only line feeds end a line, as in JSON.

    Raises:
        TaskRefused: the first line that is no object, or an empty file.

    """
    rows: list[dict[str, object]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise TaskRefused(f"{path}, line {number}: {error}, expected one JSON object; correct the line") from error
        if not isinstance(row, dict):
            type_name = type(row).__name__
            raise TaskRefused(f"{path}, line {number}: JSON of type {type_name}, expected an object; correct the line")
        rows.append(row)
    if not rows:
        raise TaskRefused(f"{path}: the file is empty, expected one JSON object a line; check the path")
    return _by_column(rows)


def read_json(path: Path, text: str) -> tuple[Table, tuple[str, ...]]:
    """A list of objects, an object with one such list, or an object of columns; also an object a line.

    Notes say what was guessed: the key of the list, or that a line is an item.

    Raises:
        TaskRefused: anything else, or an empty file.

    """
    if not text.strip():
        raise TaskRefused(f"{path}: the file is empty, expected a JSON list of objects; check the path")
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise TaskRefused(f"{path}: {error}, expected a list of objects; correct the file") from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return read_jsonl(path, text), ("one JSON object a line",)
        raise TaskRefused(f"{path}: {error}, expected a JSON list of objects; correct the file") from error
    if isinstance(value, list):
        return _items(path, value), ()
    if isinstance(value, dict) and value:
        return _of_object(path, value)
    raise TaskRefused(f"{path}: JSON of type {type(value).__name__}, expected a list of objects; correct the file")


def is_object(text: str) -> bool:
    """Whether a JSON text is an object, not a list of them."""
    return text.lstrip().startswith("{")


def _of_object(path: Path, value: Mapping[str, Any]) -> tuple[Table, tuple[str, ...]]:
    """An object's one list of objects, or its columns: lists of the same length, or objects of the same keys."""
    lists = [key for key, part in value.items() if isinstance(part, list) and part and isinstance(part[0], dict)]
    if len(lists) == 1:
        return _items(path, value[lists[0]]), (f"items from the list {lists[0]!r}",)
    if len(lists) > 1:
        raise TaskRefused(
            f"{path}: lists of objects under {', '.join(lists)}, expected one; save the list that is meant as a file"
        )
    columns = list(value.values())
    if all(isinstance(column, list) for column in columns) and len(set(map(len, columns))) == 1:
        return dict(value), ("an object of columns",)
    if all(isinstance(column, dict) for column in columns) and len({tuple(column) for column in columns}) == 1:
        return {name: list(column.values()) for name, column in value.items()}, ("an object of columns",)
    if not any(isinstance(column, (list, dict)) for column in columns):
        return _items(path, [value]), ("one JSON object a line",)
    raise TaskRefused(
        f"{path}: a JSON object with {', '.join(list(value)[:5])}, expected a list of objects, "
        "or columns of one length; save the items as a list"
    )


def _items(path: Path, rows: Sequence[object]) -> Table:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise TaskRefused(
                f"{path}, item {number}: JSON of type {type(row).__name__}, expected an object; correct the item"
            )
    if not rows:
        raise TaskRefused(f"{path}: the list is empty, expected objects; check the path")
    return _by_column(rows)  # type: ignore[arg-type]  # checked above


def _by_column(rows: Sequence[Mapping[str, object]]) -> Table:
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)}
