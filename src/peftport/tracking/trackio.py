"""Track in Trackio, with one project for each study. TRACKIO_DIR, TRACKIO_SPACE_ID, ... say where it writes.

Trackio identifies runs by name, so the id is part of the name. Runs that were sent are noted in the study's folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from peftport.tracking.base import Notes, TrackedRun


class Trackio:
    """Sends factors as the configuration, and measures as a point at the step of the budget."""

    def begin(self, study: str, folder: Path) -> Iterable[str]:
        """Return the ids of the runs that are noted as sent."""
        self._notes = Notes(folder / "tracked-trackio.txt")
        return self._notes.read()

    def log(self, run: TrackedRun) -> None:
        """Open the run of this name, log its only point, and finish it."""
        import trackio

        opened = trackio.init(
            project=run.study, name=f"{run.name} | {run.id}", config=dict(run.factors), resume="allow",
            embed=False, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        opened.log(dict(run.measures), step=run.budget)
        opened.finish()
        self._notes.add(run)

    def close(self) -> None:
        """Do nothing, because every run is closed already."""
