"""The ledger of a study: what is done, what failed and why, in SQLite; and who may write to it.

A job's row is written after its artifact is safe on disk, in one transaction with the rest of its stack: what is
recorded stays recorded whatever happens next, and nothing is done twice after it was recorded.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from peftport.errors import BadRequest, PeftportError
from peftport.store.opening import connect, connect_to_read, refusal

State = Literal["done", "failed", "blocked"]
FILE, LOCK = "ledger.sqlite", "driver.lock"
_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, state TEXT NOT NULL, attempt INTEGER NOT NULL,
    artifact TEXT, metrics TEXT, error TEXT, seconds REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS failures (
    job TEXT NOT NULL, attempt INTEGER NOT NULL, error TEXT NOT NULL, at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one job. ``artifact``: sha256 of the file it is in; ``error``: last line first, then traceback."""

    id: str
    kind: str
    state: State
    attempt: int
    artifact: str | None = None
    metrics: dict[str, Any] | None = None
    error: str | None = None
    seconds: float = 0.0


class Ledger:
    """The ledger of one study folder. Anyone may read; only the one driver writes."""

    def __init__(self, folder: Path, *, reading: bool = False) -> None:
        """Open (and make, if need be) the ledger in ``folder``; ``reading``: nothing is written, nor need it be.

        Raises:
            BadRequest: the file there is no ledger.
            PeftportError: the disk is full or broken, or the rights are not there.

        """
        self.folder = folder
        try:
            self._base = connect_to_read(folder / FILE) if reading else connect(folder / FILE)
            self._base.execute("PRAGMA cache_size=-65536")  # KiB: ids come in no order, their index stays in memory
            if reading:
                return
            self._base.execute("PRAGMA synchronous=FULL")
            self._base.execute("PRAGMA wal_autocheckpoint=8192")  # pages
            self._base.executescript(f"BEGIN; {_TABLES} COMMIT;")  # all of them or none
        except sqlite3.DatabaseError as error:
            if hasattr(self, "_base"):
                self._base.close()
            raise refusal(folder / FILE, error) from error

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()

    def record(self, rows: Sequence[Row], failures: Sequence[tuple[str, int, str]] = ()) -> None:
        """Write rows, and failed attempts (job, attempt, error), all or none."""
        values = [
            (r.id, r.kind, r.state, r.attempt, r.artifact, _text(r.metrics), r.error, round(r.seconds, 3)) for r in rows
        ]
        with self._transaction():
            self._base.executemany("INSERT OR REPLACE INTO jobs VALUES (?,?,?,?,?,?,?,?)", values)
            self._base.executemany("INSERT INTO failures (job, attempt, error) VALUES (?,?,?)", failures)

    def forget(self, ids: Iterable[str]) -> None:
        """Take jobs out, so that they are done again."""
        with self._transaction():
            self._base.executemany("DELETE FROM jobs WHERE id = ?", [(job,) for job in ids])

    def states(self) -> dict[str, State]:
        """The state of every job on record."""
        return dict(self._base.execute("SELECT id, state FROM jobs"))

    def states_of(self, ids: Iterable[str]) -> dict[str, State]:
        """The states of these jobs, of those that are on record."""
        asked = json.dumps(list(dict.fromkeys(ids)))
        return dict(
            self._base.execute("SELECT id, state FROM jobs WHERE id IN (SELECT value FROM json_each(?))", (asked,))
        )

    def artifacts(self) -> dict[str, list[str]]:
        """Jobs by the artifact that holds them."""
        found: dict[str, list[str]] = {}
        for sha, job in self._base.execute("SELECT artifact, id FROM jobs WHERE artifact IS NOT NULL ORDER BY id"):
            found.setdefault(sha, []).append(job)
        return found

    def row(self, job: str) -> Row | None:
        """One job's row."""
        found = self._base.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone()
        return _row(found) if found else None

    def rows(self) -> Iterator[Row]:
        """Every row, by id."""
        for values in self._base.execute("SELECT * FROM jobs ORDER BY id"):
            yield _row(values)

    def failures(self) -> list[tuple[str, int, str, str]]:
        """Every failed attempt: job, attempt, error, UTC time."""
        return list(self._base.execute("SELECT job, attempt, error, at FROM failures ORDER BY rowid"))

    def fact(self, key: str) -> Any:
        """A fact about the study (None if it is not there)."""
        found = self._base.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return json.loads(found[0]) if found else None

    def set_fact(self, key: str, value: Any) -> None:
        """Set a fact about the study."""
        with self._transaction():
            self._base.execute("INSERT OR REPLACE INTO facts VALUES (?,?)", (key, _text(value)))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._base.execute("BEGIN IMMEDIATE")
            yield
            self._base.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._roll_back()
            raise PeftportError(
                f"{self.folder / FILE}: cannot be written ({error}); make room or wait, and run again: what is "
                "recorded stays"
            ) from error
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._base.in_transaction:
            self._base.execute("ROLLBACK")


def open_ledger(folder: Path) -> Ledger:
    """The ledger of a study that was begun, to read: on a read-only disk too.

    Raises:
        BadRequest: there is none in ``folder``.

    """
    if not (folder / FILE).is_file():
        raise BadRequest(f"{folder}: expected a study that was begun, found no {FILE}; start it: peftport study run")
    return Ledger(folder, reading=True)


@contextmanager
def only_driver(folder: Path) -> Iterator[None]:
    """Be the one driver of a study folder; the system lets go of the lock when the process ends, however it ends.

    Raises:
        BadRequest: another process drives this study now.

    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BadRequest(
            f"{folder}: another process is running this study; wait for it or stop it (peftport study status shows it)"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _row(values: tuple[Any, ...]) -> Row:
    job, kind, state, attempt, artifact, metrics, error, seconds = values
    return Row(job, kind, state, attempt, artifact, json.loads(metrics) if metrics else None, error, seconds)


def _text(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, allow_nan=False)
