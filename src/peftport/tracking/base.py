"""The interface of trackers, which receive each finished run of a study with its factors and measures.

A tracker only displays a study. The ledger holds it, so whatever a tracker lacks can be sent again. A run has an id:

    id = sha256([study, job, run])[:16]        the same whenever and wherever the run was done

Therefore a run that a tracker has already is not sent again, and an incomplete one is completed under its own id.
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
    """A finished run, with the columns of `peftport study export`; columns without a value are left out.

    ``factors`` are what the study declares, including budget and job. ``measures`` are the results. ``budget`` is the
    training step that the measures belong to.
    """

    study: str
    name: str
    budget: int
    factors: Mapping[str, str | int]
    measures: Mapping[str, float]

    @property
    def id(self) -> str:
        """The id, 16 hexadecimal digits computed from the names of the study, the job and the run."""
        inputs = canonical_json([self.study, self.factors["job"], self.name])
        return hashlib.sha256(inputs.encode()).hexdigest()[:16]

    @property
    def curve(self) -> str:
        """The name of the curve that the run is a point of; runs that differ only in the budget share it."""
        return " ".join(str(value) for factor, value in self.factors.items() if factor not in ("budget", "job"))


class Tracker(Protocol):
    """The interface of a tracker. Exceptions of a tracker do not affect the study."""

    def begin(self, study: str, folder: Path) -> Iterable[str]:
        """Open a study, stored in ``folder``. Returns the ids of the runs that the tracker has completely."""

    def log(self, run: TrackedRun) -> None:
        """Send a run, or complete it; the run is closed when this returns."""

    def close(self) -> None:
        """Close the study, which has no more runs for now."""


def need(library: str, extra: str) -> None:
    """Refuse a tracker if its library is not installed.

    Raises:
        BadRequest: the library is not installed.

    """
    if find_spec(library) is None:
        raise BadRequest(
            f"--track {extra}: expected the library {library}, it is not installed; run: pip install {extra}"
        )


class Notes:
    """A file of the runs that were sent, for trackers that cannot be asked. Delete it to send all runs again."""

    def __init__(self, path: Path) -> None:
        """Use the file ``path``, which is made when the first run is noted."""
        self.path = path

    def read(self) -> set[str]:
        """Return the ids of the runs in the file."""
        return set(self.path.read_text(encoding="utf-8").split()) if self.path.is_file() else set()

    def add(self, run: TrackedRun) -> None:
        """Note that a run was sent."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{run.id}\n")
