"""The ledger of a study: an SQLite file that records which jobs are done, and which failed and why.

The row of a job is written after its artifact is safe on disk, in one transaction with the rest of its stack. What is
recorded stays recorded whatever happens next, and a recorded job is not done again.

Every row carries a checksum of its own content, and the inputs that its job ran on: sets of inputs are kept once, by
their digest, and rows refer to them. Rows of ledgers from before version 1 have neither, and stay readable.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from peftport.core.errors import BadRequest, PeftportError
from peftport.core.hashing import canonical_json
from peftport.store.opening import connect, connect_to_read, in_the_way

State = Literal["done", "failed", "blocked"]
FILE, LOCK, ARTIFACTS = "ledger.sqlite", "driver.lock", "artifacts"
VERSION = 1  # 0: rows without checksums and inputs
_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, state TEXT NOT NULL, attempt INTEGER NOT NULL,
    artifact TEXT, metrics TEXT, error TEXT, seconds REAL NOT NULL, inputs INTEGER, checksum BLOB
);
CREATE TABLE IF NOT EXISTS failures (
    job TEXT NOT NULL, attempt INTEGER NOT NULL, error TEXT NOT NULL, at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    checksum BLOB
);
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum BLOB);
CREATE TABLE IF NOT EXISTS inputs (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, content TEXT NOT NULL);
"""
_ADDED = (
    ("jobs", "inputs INTEGER"),
    ("jobs", "checksum BLOB"),
    ("failures", "checksum BLOB"),
    ("facts", "checksum BLOB"),
)
COLUMNS = "id, kind, state, attempt, artifact, metrics, error, seconds"
_DIGEST = "(SELECT digest FROM inputs WHERE inputs.id = jobs.inputs)"


@dataclass(frozen=True, slots=True)
class JobRow:
    """The outcome of one job.

    Attributes:
        artifact: the sha256 of the file with its results.
        error: the last line of the error, then its traceback.
        inputs: the digest of the job's inputs, which the ledger holds; None where they are not known.

    """

    id: str
    kind: str
    state: State
    attempt: int
    artifact: str | None = None
    metrics: dict[str, Any] | None = None
    error: str | None = None
    seconds: float = 0.0
    inputs: str | None = None


class Ledger:
    """The ledger of one study folder. Any process may read it; only the driver of the study writes."""

    def __init__(self, folder: Path, *, reading: bool = False) -> None:
        """Open the ledger in ``folder`` and make it if needed; with ``reading``, nothing is written.

        Raises:
            BadRequest: the file is not a ledger.
            PeftportError: the disk is full or broken, or permissions are missing.

        """
        self.folder = folder
        self._check_file()
        try:
            self._base = connect_to_read(folder / FILE) if reading else connect(folder / FILE)
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        try:
            version = self._version()
            self._base.execute("PRAGMA cache_size=-65536")  # KiB; random ids need their index in memory
            if not reading:
                self._base.execute("PRAGMA synchronous=FULL")
                self._base.execute("PRAGMA wal_autocheckpoint=8192")  # pages
                if version != VERSION:
                    self._make_tables()
            self._new = "checksum" in columns_of(self._base, "jobs")
        except sqlite3.Error as error:
            self._base.close()
            raise self._refusal(error) from error
        except BadRequest:
            self._base.close()
            raise

    def _check_file(self) -> None:
        """Refuse an empty file, which SQLite would take for a new ledger, and a folder, where its error is unclear."""
        path = self.folder / FILE
        if path.exists() and not path.is_file():
            raise damaged(self.folder, "it is no file")
        if path.is_file() and not path.stat().st_size and any((self.folder / ARTIFACTS).glob("*/*.safetensors")):
            raise damaged(self.folder, "the file is empty, though there are artifacts beside it")

    def _version(self) -> int:
        version: int
        [(version,)] = self._base.execute("PRAGMA user_version")
        if not 0 <= version <= VERSION:
            raise BadRequest(
                f"{self.folder / FILE}: expected a study's ledger of version {VERSION} or before, got version "
                f"{version}; update peftport, or, if no newer one wrote it, {_repair(self.folder)}"
            )
        return version

    def _make_tables(self) -> None:
        """Make missing tables in one transaction; a ledger of version 0 gets the new columns, empty in its old rows."""
        known = {table: columns_of(self._base, table) for table, _ in _ADDED}
        added = "".join(
            f"ALTER TABLE {table} ADD COLUMN {column};"
            for table, column in _ADDED
            if known[table] and column.split()[0] not in known[table]
        )
        self._base.executescript(f"BEGIN; {_TABLES} {added} PRAGMA user_version = {VERSION}; COMMIT;")

    @property
    def _sum(self) -> str:
        return "checksum" if self._new else "NULL"

    @property
    def _columns(self) -> str:
        return f"{COLUMNS}, {_DIGEST}, inputs, checksum" if self._new else f"{COLUMNS}, NULL, NULL, NULL"

    def close(self) -> None:
        """Close the file of the ledger."""
        self._base.close()

    def record(
        self,
        rows: Sequence[JobRow],
        failures: Sequence[tuple[str, int, str]] = (),
        inputs: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Write rows, failed attempts (job, attempt, error) and sets of inputs by digest in one transaction."""
        with self._transaction():
            self._base.executemany(
                "INSERT OR IGNORE INTO inputs (digest, content) VALUES (?,?)",
                [(key, canonical_json(content)) for key, content in (inputs or {}).items()],
            )
            self._base.executemany(
                "INSERT OR REPLACE INTO jobs VALUES (?,?,?,?,?,?,?,?,(SELECT id FROM inputs WHERE digest = ?),?)",
                [(*columns, _checksum(columns)) for columns in map(_values, rows)],
            )
            self._base.executemany(
                "INSERT INTO failures (job, attempt, error, checksum) VALUES (?,?,?,?)",
                [(*failure, _checksum(failure)) for failure in failures],
            )

    def forget(self, ids: Iterable[str]) -> None:
        """Remove jobs from the ledger, so that they are done again."""
        with self._transaction():
            self._base.executemany("DELETE FROM jobs WHERE id = ?", [(job,) for job in ids])

    def check(self) -> None:
        """Check the whole ledger: its pages, indices, and the checksum of every row.

        Raises:
            BadRequest: something is not as it was recorded; the message says what, and what to do.

        """
        with self._reading():
            [(report,)] = self._base.execute("PRAGMA integrity_check(1)")
            if report != "ok":
                raise damaged(self.folder, str(report).splitlines()[-1])
            for values in self._base.execute(f"SELECT {self._columns} FROM jobs"):
                row_of(values)
            for values in self._base.execute(f"SELECT job, attempt, error, {self._sum} FROM failures"):
                hold(values, f"a failed attempt of job {values[0][:12]}")
            for key, *values in self._base.execute(f"SELECT key, key, value, {self._sum} FROM facts"):
                hold(tuple(values), f"the fact {key!r}")
        self.inputs()

    def states(self) -> dict[str, State]:
        """Return the state of every job on record."""
        with self._reading():
            return dict(self._base.execute("SELECT id, state FROM jobs"))

    def states_of(self, ids: Iterable[str]) -> dict[str, State]:
        """Return the states of those of these jobs that are on record."""
        asked = json.dumps(list(dict.fromkeys(ids)))
        query = "SELECT id, state FROM jobs WHERE id IN (SELECT value FROM json_each(?))"
        with self._reading():
            return dict(self._base.execute(query, (asked,)))

    def artifacts(self) -> dict[str, list[str]]:
        """Return the jobs by the artifact that holds their results."""
        jobs: dict[str, list[str]] = {}
        with self._reading():
            for sha, job in self._base.execute("SELECT artifact, id FROM jobs WHERE artifact IS NOT NULL ORDER BY id"):
                jobs.setdefault(sha, []).append(job)
        return jobs

    def jobs_with(self, metric: str) -> list[str]:
        """Return the jobs whose metrics have this key."""
        with self._reading():
            query = "SELECT id FROM jobs WHERE json_extract(metrics, ?) IS NOT NULL ORDER BY id"
            return [job for (job,) in self._base.execute(query, (f"$.{metric}",))]

    def row(self, job: str) -> JobRow | None:
        """Return the row of a job, or None if it is not on record."""
        with self._reading():
            columns = self._base.execute(f"SELECT {self._columns} FROM jobs WHERE id = ?", (job,)).fetchone()
            return row_of(columns) if columns else None

    def rows(self) -> Iterator[JobRow]:
        """Yield every row, in the order of ids."""
        with self._reading():
            for values in self._base.execute(f"SELECT {self._columns} FROM jobs ORDER BY id"):
                yield row_of(values)

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Return all sets of inputs that jobs of this study ran on, by digest."""
        with self._reading():
            sets = self._base.execute("SELECT digest, content FROM inputs ORDER BY id").fetchall() if self._new else []
            for key, content in sets:
                if not isinstance(content, str) or hashlib.sha256(content.encode()).hexdigest() != key:
                    raise Altered(f"the inputs {key[:12]}")
            return {key: json.loads(content) for key, content in sets}

    def inputs_of_done(self) -> Iterator[tuple[str, str | None]]:
        """Yield every job that is done with the digest of its inputs (None for rows of version 0)."""
        mine = _DIGEST if self._new else "NULL"
        with self._reading():
            yield from self._base.execute(f"SELECT id, {mine} FROM jobs WHERE state = 'done' ORDER BY id")

    def failures(self) -> list[tuple[str, int, str, str]]:
        """Return every failed attempt as job, attempt, error and UTC time."""
        with self._reading():
            return list(self._base.execute("SELECT job, attempt, error, at FROM failures ORDER BY rowid"))

    def fact(self, key: str) -> Any:
        """Return a fact about the study, or None if it is not recorded."""
        with self._reading():
            query = f"SELECT key, value, {self._sum} FROM facts WHERE key = ?"
            fact = self._base.execute(query, (key,)).fetchone()
            if fact is None:
                return None
            hold(fact, f"the fact {key!r}")
            return json.loads(fact[1])

    def set_fact(self, key: str, value: Any) -> None:
        """Record a fact about the study."""
        fact = (key, _text(value))
        with self._transaction():
            self._base.execute("INSERT OR REPLACE INTO facts VALUES (?,?,?)", (*fact, _checksum(fact)))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:  # an error in this program, not in the file
            raise
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        except Altered as error:
            raise damaged(self.folder, f"{error} is not what was recorded") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise damaged(self.folder, str(error)) from error

    def _refusal(self, error: sqlite3.Error) -> PeftportError:
        """Explain an error of SQLite: the disk, permissions or another process, or damage of the file."""
        if in_the_way(error):
            return PeftportError(
                f"{self.folder / FILE}: cannot be written or read ({error}); make room there, check the rights, or "
                "wait, and run again: what is recorded stays"
            )
        return damaged(self.folder, str(error))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._base.execute("BEGIN IMMEDIATE")
            yield
            self._base.execute("COMMIT")
        except sqlite3.IntegrityError:  # an invalid row is an error in this program, not damage to the file
            self._roll_back()
            raise
        except sqlite3.Error as error:
            self._roll_back()
            raise self._refusal(error) from error
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._base.in_transaction:
            self._base.execute("ROLLBACK")


def open_ledger(folder: Path) -> Ledger:
    """Open the ledger of a study that was begun for reading; this works on a read-only disk too.

    Raises:
        BadRequest: there is no ledger in ``folder``.

    """
    if not (folder / FILE).is_file():
        raise BadRequest(f"{folder}: expected a study that was begun, found no {FILE}; start it: peftport study run")
    return Ledger(folder, reading=True)


@contextmanager
def only_driver(folder: Path) -> Iterator[None]:
    """Be the only driver of a study folder within the block, by a lock that ends with the process in any case.

    Raises:
        BadRequest: another process is running this study.

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


def columns_of(base: sqlite3.Connection, table: str) -> set[str]:
    """Return the columns of a table; empty where there is no such table."""
    return {name for _, name, *_ in base.execute(f"PRAGMA table_info({table})")}


def damaged(folder: Path, what: str) -> BadRequest:
    """Return the error for a damaged ledger, with the remedy."""
    return BadRequest(
        f"{folder / FILE}: expected a study's ledger as it was written, got damage ({what}); {_repair(folder)}"
    )


def _repair(folder: Path) -> str:
    return f"restore what the artifacts hold: peftport study repair STUDY.toml --dir {folder}"


class Altered(ValueError):
    """A row disagrees with its checksum, or has values that no row can have."""


def row_of(values: Sequence[Any]) -> JobRow:
    """Make a row of its columns, the digest of its inputs and its checksum.

    Raises:
        ValueError: the row is not what was recorded.

    """
    *columns, number, checksum = values
    what = f"the row of job {str(values[0])[:12]}"
    if checksum is None and number is not None:  # only rows of version 0 lack a checksum, and they have no inputs
        raise Altered(what)
    hold((*columns, checksum), what)
    job, kind, state, attempt, artifact, metrics, error, seconds, inputs = columns
    read = json.loads(metrics) if metrics else None
    if state not in get_args(State) or not isinstance(read, dict | None):
        raise Altered(what)
    return JobRow(job, kind, state, attempt, artifact, read, error, seconds, inputs)


def hold(values: Sequence[Any], what: str) -> None:
    """Check columns against the checksum after them; rows of version 0 have none."""
    *columns, checksum = values
    if checksum is not None and checksum != _checksum(columns):
        raise Altered(what)


def _checksum(values: Sequence[Any]) -> bytes:
    """Return 128 bits of the sha256 of the columns of a row."""
    return hashlib.sha256(json.dumps(values, default=repr).encode()).digest()[:16]


def _values(row: JobRow) -> tuple[Any, ...]:
    seconds = round(float(row.seconds), 3)
    return row.id, row.kind, row.state, row.attempt, row.artifact, _text(row.metrics), row.error, seconds, row.inputs


def _text(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, allow_nan=False)
