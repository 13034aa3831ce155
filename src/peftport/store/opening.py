"""How the ledger's file is opened: to write; to read, even on a disk or in a folder where nothing can be written.

SQLite reads a ledger in WAL mode by way of files beside it, which it makes. Where it cannot, a ledger that was closed
in order is read as it lies there; one whose last rows are still in the WAL (its driver runs, or was killed) is copied
to a temporary folder first, for without the WAL those rows would be missed.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

from peftport.core.errors import BadRequest
from peftport.store.held import HeldFolder

WAL = "-wal"
# Rights, room, a broken disk, or others at work: not what is in the file, and nothing that another --dir must mend.
_PLACE = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_NOMEM",
          "SQLITE_CANTOPEN", "SQLITE_PERM")  # fmt: skip


def connect(path: Path) -> sqlite3.Connection:
    """Open to read and write; the file and its folder are made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    base = sqlite3.connect(path, isolation_level=None, timeout=30)
    try:
        base.execute("PRAGMA journal_mode=WAL")
    except BaseException:
        base.close()
        raise
    return base


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open to read. Nothing is left beside the file."""
    if os.access(path.parent, os.W_OK) and os.access(path, os.W_OK):
        try:
            return _reading(path, sqlite3.connect(path, isolation_level=None, timeout=30))
        except sqlite3.OperationalError as error:  # no room for SQLite's own files
            if not in_the_way(error):
                raise
    else:
        try:  # a driver at work, or one that was killed, left the files that SQLite needs
            return _reading(path, sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None))
        except sqlite3.OperationalError:
            pass
    wal = path.with_name(path.name + WAL)
    if wal.is_file() and wal.stat().st_size:
        return _reading(path, _copied(path, wal))
    return _reading(path, sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True, isolation_level=None))


def in_the_way(error: sqlite3.Error) -> bool:
    """Whether the disk, the rights or another process are at fault, and not what is in the file."""
    return getattr(error, "sqlite_errorname", "").startswith(_PLACE)


def _reading(path: Path, base: sqlite3.Connection) -> sqlite3.Connection:
    """The connection, once it has read.

    Raises:
        BadRequest: nothing was written there yet: its driver was stopped, or found no room, before it began.

    """
    try:
        [(tables,)] = base.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'")
        if not tables:
            raise BadRequest(
                f"{path}: expected a study that was begun, found an empty ledger; start it: peftport study run"
            )
    except BaseException:
        base.close()
        raise
    return base


class _Copy(sqlite3.Connection):
    """A connection to a copy, which goes with it."""

    home: HeldFolder

    def close(self) -> None:
        super().close()
        self.home.cleanup()


def _copied(path: Path, wal: Path) -> sqlite3.Connection:
    home = HeldFolder("ledger")
    for file in (path, wal):
        shutil.copyfile(file, Path(home.name) / file.name)
    base = sqlite3.connect(Path(home.name) / path.name, isolation_level=None, factory=_Copy)
    base.home = home
    return base
