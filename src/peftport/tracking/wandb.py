"""Track in Weights & Biases, with one group for each study. WANDB_MODE, ... set mode, project, entity and folder.

Without WANDB_PROJECT the project is the study's name. Runs that were sent are noted
in the study's folder, since in offline mode there is no server to ask; an incomplete run is completed under its id.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from peftport.tracking.base import Notes, TrackedRun


class Wandb:
    """Sends factors as the configuration, and measures as a point of the history at the step of the budget."""

    def begin(self, study: str, folder: Path) -> Iterable[str]:
        """Return the ids of the runs that are noted as sent."""
        import wandb

        self._project = wandb.Settings().project or study
        self._notes = Notes(folder / "tracked-wandb.txt")
        return self._notes.read()

    def log(self, run: TrackedRun) -> None:
        """Open the run of this id, log its only point, and finish it."""
        import wandb

        # Do not record this machine and process: workers did the runs, perhaps on other machines.
        quiet = wandb.Settings(
            silent=True, console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True, disable_code=True
        )
        opened = wandb.init(
            project=self._project, group=run.study, id=run.id, name=run.name, config=dict(run.factors),
            resume="allow", reinit="create_new", settings=quiet,
        )  # fmt: skip
        opened.log(dict(run.measures), step=run.budget)
        opened.finish()
        self._notes.add(run)

    def close(self) -> None:
        """Do nothing, because every run is closed already."""
