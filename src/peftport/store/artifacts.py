"""Folders and files that are whole or not there: written under a temporary name, flushed, renamed."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peftport.errors import OutputRefused

_ASKING = threading.Lock()


def check_free(out: Path) -> None:
    """Refuse an output folder that holds something, before any work is done for it.

    Raises:
        OutputRefused: ``out`` exists and is not an empty folder, or lies where nothing can be written.

    """
    if out.exists() and not out.is_dir():
        raise OutputRefused(f"{out}: expected a new or empty folder, got a file; choose another --out")
    if out.is_dir() and any(out.iterdir()):
        raise OutputRefused(f"{out}: expected a new or empty folder, got one that is not empty; choose another --out")
    parent = next(p for p in (out.resolve(), *out.resolve().parents) if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputRefused(f"{out}: expected a place that can be written, {parent} cannot; choose another --out")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``out`` when the block ends well, and vanishes when it does not.

    Raises:
        OutputRefused: ``out`` holds something already, or cannot be written.

    """
    check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                _flush(path)
        if out.is_dir():
            out.rmdir()
        temporary.replace(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write one text file whole: readers see the old text or the new, never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write one file whole: readers see the old bytes or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk does not say where
            error.filename = str(path)
        raise


class Artifacts:
    """A content-addressed folder: every file is called by the sha256 of its bytes."""

    def __init__(self, folder: Path) -> None:
        """Keep files under ``folder``, made when the first one comes."""
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Where the bytes of that digest lie, or would lie."""
        return self.folder / sha256[:2] / f"{sha256}.safetensors"

    def put(self, data: bytes) -> str:
        """Keep bytes, whole and flushed, and return their digest. Bytes that are kept already are left alone."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.path(sha256)
        if not self.holds(sha256):
            write_bytes(path, data)
        return sha256

    def holds(self, sha256: str) -> bool:
        """Whether the bytes are here and are still those."""
        path = self.path(sha256)
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    with _ASKING:  # it can only be asked for by setting it, and several threads write
        mask = os.umask(0o077)
        os.umask(mask)
    return mask
