"""Read what is left of a damaged ledger, row by row, and check each row against its checksum; skip the rest."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftport.store.ledger import COLUMNS, JobRow, columns_of, hold, row_of

GAP = 4096  # consecutive unreadable rows after which a table is assumed to end


@dataclass
class Salvaged:
    """What was read from a damaged ledger. ``unsummed`` names jobs with rows of version 0, without a checksum."""

    rows: dict[str, JobRow] = field(default_factory=dict)
    unsummed: set[str] = field(default_factory=set)
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: list[tuple[str, int, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    altered: int = 0  # rows that can be read but are not what was recorded


def salvage(file: Path) -> Salvaged:
    """Read what is readable of a ledger. Pass a copy, because SQLite may write to the file and to those beside it."""
    salvaged = Salvaged()
    try:
        with closing(sqlite3.connect(file, isolation_level=None)) as base:
            digests = _read_inputs(base, salvaged)
            _read_jobs(base, digests, salvaged)
            _read_failures(base, salvaged)
            _read_facts(base, salvaged)
    except sqlite3.Error:  # not even the first page is readable
        pass
    return salvaged


def _read_inputs(base: sqlite3.Connection, salvaged: Salvaged) -> dict[int, str]:
    digests = {}
    for number, digest, content in _every(base, "inputs", "id, digest, content"):
        if isinstance(content, str) and hashlib.sha256(content.encode()).hexdigest() == digest:
            salvaged.inputs[digest] = json.loads(content)
            digests[number] = digest
    return digests


def _read_jobs(base: sqlite3.Connection, digests: dict[int, str], salvaged: Salvaged) -> None:
    for *columns, number, checksum in _every(base, "jobs", f"{COLUMNS}, {_added(base, 'jobs', 'inputs', 'checksum')}"):
        try:
            row = row_of((*columns, digests.get(number), number, checksum))
        except (ValueError, TypeError, RecursionError):
            salvaged.altered += 1
            continue
        salvaged.rows[row.id] = row
        if checksum is None:
            salvaged.unsummed.add(row.id)


def _read_failures(base: sqlite3.Connection, salvaged: Salvaged) -> None:
    for values in _every(base, "failures", f"job, attempt, error, {_added(base, 'failures', 'checksum')}"):
        try:
            hold(values, "")
            salvaged.failures.append((str(values[0]), int(values[1]), str(values[2])))
        except (ValueError, TypeError):
            salvaged.altered += 1


def _read_facts(base: sqlite3.Connection, salvaged: Salvaged) -> None:
    for values in _every(base, "facts", f"key, value, {_added(base, 'facts', 'checksum')}"):
        try:
            hold(values, "")
            salvaged.facts[str(values[0])] = json.loads(values[1])
        except (ValueError, TypeError, RecursionError):
            salvaged.altered += 1


def _added(base: sqlite3.Connection, table: str, *columns: str) -> str:
    known = columns_of(base, table)
    return ", ".join(column if column in known else "NULL" for column in columns)


def _every(base: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """Yield every row that can be read; numbers of rows on unreadable pages are skipped one by one."""
    last, missed = -1, 0
    while missed < GAP:
        try:
            for number, *values in base.execute(
                f"SELECT rowid, {columns} FROM {table} WHERE rowid > ? ORDER BY rowid", (last + missed,)
            ):
                last, missed = number, 0
                yield tuple(values)
            return
        except sqlite3.Error:
            missed += 1
