"""Temporary files and folders that are removed even after a crash: a process locks them for as long as it lives.

The lock is the system's own on the opened file or folder (flock), so that it ends with the process however that ends,
and no process id has to be trusted. The next call that makes one in the same place removes those that nobody has
locked. Where a file system does not support such locks, nothing is removed.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from peftport.core.stopping import undisturbed

MARK = ".peftport"
LONGEST = 40  # characters of the final name that a temporary name contains, so that it is not too long
_HIDDEN = re.compile(r"\..*\.[a-z0-9_]{8}\.peftport")
_TEMPORARY = re.compile(r"peftport-[a-z]+-[a-z0-9_]{8}\.peftport")


class HeldFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder ``peftport-KIND-...``, which is removed at its end or, after a crash, by the next call."""

    def __init__(self, kind: str) -> None:
        """Make a folder, after removing those of processes that have ended."""
        sweep_temporary()
        super().__init__(prefix=f"peftport-{kind}-", suffix=MARK)
        while (handle := _opened(Path(self.name))) < 0:
            self._finalizer.detach()  # type: ignore[attr-defined]
            super().__init__(prefix=f"peftport-{kind}-", suffix=MARK)
        self._close = weakref.finalize(self, os.close, handle)

    def cleanup(self) -> None:
        """Remove the folder and release its lock."""
        super().cleanup()
        self._close()


def sweep_temporary() -> None:
    """Remove the temporary folders of processes that have ended."""
    _sweep(Path(tempfile.gettempdir()), _TEMPORARY)


def sweep_beside(path: Path) -> None:
    """Remove hidden temporary files and folders of ended processes from the folder of ``path``."""
    _sweep(path.parent, _HIDDEN)


@contextmanager
def hidden_folder(final: Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``final``, which the block renames; it is removed if the block does not."""
    made: Path | None = None
    handle = -1
    try:
        with undisturbed():
            while handle < 0:
                made = Path(tempfile.mkdtemp(prefix=_prefix(final), suffix=MARK, dir=final.parent))
                handle = _opened(made)
        assert made is not None
        yield made
    finally:
        with undisturbed():
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)
            if handle >= 0:
                os.close(handle)


@contextmanager
def hidden_file(final: Path) -> Iterator[tuple[int, Path]]:
    """Yield a hidden file beside ``final``, open for writing, which the block renames; otherwise it is removed."""
    made: Path | None = None
    handle = -1
    try:
        with undisturbed():
            while handle < 0:
                opened, name = tempfile.mkstemp(prefix=_prefix(final), suffix=MARK, dir=final.parent)
                made = Path(name)
                handle = _held(opened, made)
        assert made is not None
        yield handle, made
    finally:
        with undisturbed():
            if handle >= 0:
                os.close(handle)
            if made is not None:
                made.unlink(missing_ok=True)


def _prefix(final: Path) -> str:
    return f".{final.name[:LONGEST]}."


def _opened(folder: Path) -> int:
    """Open and lock a folder. Returns the handle, or -1 where another process removed the folder first."""
    try:
        return _held(os.open(folder, os.O_RDONLY), folder)
    except FileNotFoundError:
        return -1


def _held(handle: int, path: Path) -> int:
    """Lock a handle and return it; close it and return -1 where another process removed the path first."""
    with suppress(OSError):  # the file system has no locks, so nothing is removed there
        fcntl.flock(handle, fcntl.LOCK_EX)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle), path.stat(follow_symlinks=False)):
            return handle
    os.close(handle)
    return -1


def _sweep(folder: Path, names: re.Pattern[str]) -> None:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in [e for e in entries if names.fullmatch(e.name)]:
            with suppress(OSError):
                _remove_if_dead(entry)


def _remove_if_dead(entry: os.DirEntry[str]) -> None:
    if entry.is_symlink() or entry.stat(follow_symlinks=False).st_uid != os.geteuid():
        return
    handle = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if another process holds the lock
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)
    finally:
        os.close(handle)
