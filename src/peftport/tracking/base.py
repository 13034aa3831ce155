"""What a tracker is told of a study: each finished run with its factors and its measures, under the study's name.

A tracker shows a study; it never holds it. The ledger does, and whatever is missing from a tracker can be sent again:

    id = sha256([study, job, run])[:16]        the same whenever and wherever the run was done

so a run that is there already is left alone, and one that was cut off is completed under its own id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from peftport.core.errors import BadRequest
from peftport.core.hashing import canonical_json


@dataclass(frozen=True, eq=False)
class TrackedRun:
    """A finished run, by the columns of `peftport study export`; columns without a value are left out.

    ``factors``: what was declared, budget and job included. ``measures``: what came out. ``budget``: the step that the
    measures belong to.
    """

    study: str
    name: str
    budget: int
    factors: Mapping[str, str | int]
    measures: Mapping[str, float]

    @property
    def id(self) -> str:
        """16 hexadecimal digits, of the study's name, the job and the run's name."""
        inputs = canonical_json([self.study, self.factors["job"], self.name])
        return hashlib.sha256(inputs.encode()).hexdigest()[:16]

    @property
    def curve(self) -> str:
        """The name of the run's curve: what all its budgets share."""
        return " ".join(str(value) for factor, value in self.factors.items() if factor not in ("budget", "job"))


class Tracker(Protocol):
    """Somewhere that shows runs. It may raise whatever it likes: the study does not feel it."""

    def begin(self, study: str, folder: Path) -> Iterable[str]:
        """Open a study whose own folder is ``folder``; the ids of its runs that are there already, complete."""

    def log(self, run: TrackedRun) -> None:
        """Put a run there, or complete it; closed when this returns."""

    def close(self) -> None:
        """The study has no more runs for now."""


def need(library: str, extra: str) -> None:
    """Refuse a tracker whose library is not here.

    Raises:
        BadRequest: it is not installed.

    """
    if find_spec(library) is None:
        raise BadRequest(
            f"--track {extra}: expected the library {library}, it is not installed; run: pip install {extra}"
        )


class Notes:
    """Which runs were sent, a line each, for a tracker that cannot be asked. Take the file away to send all again."""

    def __init__(self, path: Path) -> None:
        """``path``: the file; made with its first line."""
        self.path = path

    def read(self) -> set[str]:
        """The ids on it."""
        return set(self.path.read_text(encoding="utf-8").split()) if self.path.is_file() else set()

    def add(self, run: TrackedRun) -> None:
        """One more."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{run.id}\n")
