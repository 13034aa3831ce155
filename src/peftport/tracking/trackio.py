"""Trackio: a project a study, a run a run. Where it writes or sends is its own (TRACKIO_DIR, TRACKIO_SPACE_ID, ...).

It knows runs by name alone, so the id is part of the name; runs that were sent are noted in the study's folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from peftport.tracking.base import Notes, TrackedRun


class Trackio:
    """Factors become the config, measures a point at the step of the budget."""

    def begin(self, study: str, folder: Path) -> Iterable[str]:
        """The runs on the notes."""
        self._notes = Notes(folder / "tracked-trackio.txt")
        return self._notes.read()

    def log(self, run: TrackedRun) -> None:
        """Open the run of that name, log its one point, finish it."""
        import trackio

        opened = trackio.init(
            project=run.study, name=f"{run.name} | {run.id}", config=dict(run.factors), resume="allow",
            embed=False, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        opened.log(dict(run.measures), step=run.budget)
        opened.finish()
        self._notes.add(run)

    def close(self) -> None:
        """Every run is closed already."""
