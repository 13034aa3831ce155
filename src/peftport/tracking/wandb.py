"""Weights & Biases: a group a study, a run a run. Mode, project, entity and folder are its own (WANDB_MODE, ...).

Without WANDB_PROJECT the project is the study's name. Runs that were sent are noted
in the study's folder, since offline nobody can be asked; one that was cut off is completed under its id.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from peftport.tracking.base import Notes, TrackedRun


class Wandb:
    """Factors become the config, measures a point of the history at the step of the budget."""

    def begin(self, study: str, folder: Path) -> Iterable[str]:
        """The runs on the notes."""
        import wandb

        self._project = wandb.Settings().project or study
        self._notes = Notes(folder / "tracked-wandb.txt")
        return self._notes.read()

    def log(self, run: TrackedRun) -> None:
        """Open the run of that id, log its one point, finish it."""
        import wandb

        # Of this machine and this process nothing is recorded: the runs were done by workers, maybe elsewhere.
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
        """Every run is closed already."""
