"""Remember what was found out about hosts, so that it is worked out once on a machine.

How transformers reads a configuration, where the layers of a model lie, and how far apart two hosts are takes seconds
to find out. It follows from the files, or from hashes of their bytes that are computed anew each time, and from the
code and its libraries. All of these are the key, so nothing is remembered of a file that changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from peftport.core.environment import installed_versions
from peftport.core.hashing import digest
from peftport.hosts.offline.catalogue import cache_dir
from peftport.store.artifacts import write_bytes

T = TypeVar("T")
FOLDER, MOST = "read-hosts", 400  # below the cache; of the files there, the oldest make room for new ones
CODE = (".py", ".toml")


def remembered(kind: str, key: Any, adapter: TypeAdapter[T], make: Callable[[], T]) -> T:
    """Return what was made of ``key`` before, on this machine and by this code, or make it and keep it.

    What ``make`` raises is not kept. A cache that cannot be read or written costs time, nothing else.
    """
    name = digest([kind, key, installed_versions(), _code()])
    file = cache_dir() / FOLDER / f"{kind}-{name}.json"
    with suppress(OSError, ValidationError):
        return adapter.validate_json(file.read_bytes())
    made = make()
    with suppress(OSError):
        write_bytes(file, adapter.dump_json(made))
        _make_room(file.parent)
    return made


def _make_room(folder: Path) -> None:
    files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for file in files[:-MOST]:
        file.unlink(missing_ok=True)


@cache
def _code() -> str:
    """A hash of the code of this package and of its layouts, by which all this is made."""
    files = sorted(path for path in Path(__file__).parents[1].rglob("*") if path.suffix in CODE)
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
