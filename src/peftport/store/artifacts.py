"""Write files and folders completely or not at all: under a temporary name, then flushed, then renamed."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peftport.core.places import check_free
from peftport.core.stopping import undisturbed
from peftport.store.held import hidden_file, hidden_folder, sweep_beside

# ``.SHA256.safetensors.RANDOM``; the sha256 is shortened, which earlier versions did not do.
HALF_WRITTEN = re.compile(r"\.[0-9a-f]{40,64}(\.safetensors)?\.[a-z0-9_]{8}(\.peftport)?")
_ASKING = threading.Lock()


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``out`` if the block succeeds, and is removed if it fails.

    Raises:
        OutputRefused: ``out`` is not empty, or cannot be written.
        OSError: the disk is full or broken; the error names the path.

    """
    check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    sweep_beside(out)
    with telling(out), hidden_folder(out) as temporary:
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                _flush(path)
        with undisturbed():
            if out.is_dir():
                out.rmdir()
            temporary.replace(out)


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Turn errors of a full or broken disk into an OSError that names the path, also those of other libraries."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)  # the error of a full disk has no path
        raise
    except Exception as error:
        told = re.search(r"\(os error (\d+)\)", str(error))  # as Rust libraries report it: safetensors, tokenizers
        if told is None:
            raise
        raise OSError(int(told[1]), os.strerror(int(told[1])), str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: readers see the old text or the new one, never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: readers see the old bytes or the new ones, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_beside(path)
    _write(path, data)


def _write(path: Path, data: bytes) -> None:
    with new_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield an empty hidden file beside ``path`` to write to, which becomes ``path`` if the block succeeds."""
    with telling(path), hidden_file(path) as (handle, temporary):
        yield temporary
        os.fsync(handle)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)


class Artifacts:
    """A content-addressed folder: the name of every file is the sha256 of its bytes."""

    def __init__(self, folder: Path) -> None:
        """Store files in ``folder``, which is made when the first file is stored."""
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Return the path of the file with this digest, whether it exists or not."""
        return self.folder / sha256[:2] / f"{sha256}.safetensors"

    def put(self, data: bytes) -> str:
        """Store bytes atomically and return their digest. A file that exists already is not written again."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.path(sha256)
        if not self.holds(sha256):
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, data)
        return sha256

    def sweep(self) -> None:
        """Remove files that a crash left half-written. Only the driver of the study, the only writer, may call this."""
        for path in self.folder.glob("[0-9a-f][0-9a-f]/.*"):
            if HALF_WRITTEN.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def holds(self, sha256: str) -> bool:
        """Return whether the file exists and its bytes still have this digest."""
        path = self.path(sha256)
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    with _ASKING:  # the umask can only be read by setting it, and several threads write
        mask = os.umask(0o077)
        os.umask(mask)
    return mask
