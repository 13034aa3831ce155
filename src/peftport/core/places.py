"""The places that a command writes to, checked before it begins: nobody should wait for a result that has no place.

A request says of each such field what is written there (`Option.writes`), and is refused where that cannot be. Folders
that are missing above a place are made when it is written. Whoever writes checks again, since a place may be taken
meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from peftport.core.errors import OutputRefused

# ``new`` ones must not exist (an empty folder may); files of the others are replaced.
Written = Literal["new folder", "new file", "folder", "file"]


def check_place(place: Path, written: Written, name: str = "--out") -> None:
    """Refuse a place that cannot be written, or is in use where something new is to be written.

    Raises:
        OutputRefused: the place is in use or of the wrong kind, or a folder above it is a file or not writable.

    """
    what = "a new or empty folder" if written == "new folder" else f"a {written}"
    problem = _in_the_way(place, written)
    if problem:
        instead = f"give {name} {place / 'report.html'}" if problem == "a folder" else f"choose another {name}"
        raise OutputRefused(f"{place}: expected {what}, got {problem}; {instead}")
    inside = place.is_dir() and written == "folder"
    above = next(each for each in ((place,) if inside else _parents(place)) if os.path.lexists(each))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise OutputRefused(f"{place}: expected a place that can be written, {above} cannot; choose another {name}")


def _parents(place: Path) -> Iterator[Path]:
    """The folders above a place, as it was written, then those above its root."""
    yield from (place.parents if place.is_absolute() or ".." in place.parts else (*place.parents[:-1], Path.cwd()))
    yield from place.resolve().parents


def _in_the_way(place: Path, written: Written) -> str | None:
    """What there is already and must not be."""
    if place.is_symlink() and not place.exists():
        return "a link to nothing"
    if not place.exists():
        return None
    if "file" in written:
        if place.is_dir():
            return "a folder"
        return "one that exists" if written == "new file" else None
    if not place.is_dir():
        return "a file"
    return "one that is not empty" if written == "new folder" and any(place.iterdir()) else None


def check_free(out: Path) -> None:
    """Refuse a new folder's place that is in use or cannot be written.

    Raises:
        OutputRefused: ``out`` exists and is not an empty folder, or its place is not writable.

    """
    check_place(out, "new folder")
