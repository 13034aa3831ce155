"""Open the file of a ledger, for writing or for reading, even on a disk or in a folder that is not writable.

To read a ledger in WAL mode, SQLite makes files beside it. Where it cannot, a ledger that was closed properly is read
directly. If the last rows of a ledger are still in the WAL (because its driver is running or was killed), the ledger is
copied to a temporary folder first, since without the WAL those rows would be missed.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

from peftport.core.errors import BadRequest
from peftport.store.held import HeldFolder

WAL = "-wal"
# Errors of permissions, space, the disk or other processes, not of the content of the file.
_PLACE = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_NOMEM",
          "SQLITE_CANTOPEN", "SQLITE_PERM")  # fmt: skip


def connect(path: Path) -> sqlite3.Connection:
    """Open a ledger to read and write; its file and folder are made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    base = sqlite3.connect(path, isolation_level=None, timeout=30)
    try:
        base.execute("PRAGMA journal_mode=WAL")
    except BaseException:
        base.close()
        raise
    return base


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open a ledger to read. Nothing is left beside the file."""
    if os.access(path.parent, os.W_OK) and os.access(path, os.W_OK):
        try:
            return _reading(path, sqlite3.connect(path, isolation_level=None, timeout=30))
        except sqlite3.OperationalError as error:  # there is no room for SQLite's own files
            if not in_the_way(error):
                raise
    else:
        try:  # a running or killed driver left the files that SQLite needs
            return _reading(path, sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None))
        except sqlite3.OperationalError:
            pass
    wal = path.with_name(path.name + WAL)
    if wal.is_file() and wal.stat().st_size:
        return _reading(path, _copied(path, wal))
    return _reading(path, sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True, isolation_level=None))


def in_the_way(error: sqlite3.Error) -> bool:
    """Return whether an error is due to the disk, permissions or another process, and not to the file's content."""
    return getattr(error, "sqlite_errorname", "").startswith(_PLACE)


def _reading(path: Path, base: sqlite3.Connection) -> sqlite3.Connection:
    """Return the connection after a first successful read.

    Raises:
        BadRequest: nothing was written yet, because the driver was stopped or the disk was full before it began.

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
    """A connection to a temporary copy, which is removed when the connection closes."""

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
