"""Track in MLflow, with one experiment for each study. MLFLOW_TRACKING_URI, a setting of MLflow, names the server."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from peftport.tracking.base import TrackedRun

ID = "peftport.id"
PAGE = 1000  # number of runs in one request


class MLflow:
    """Sends factors as parameters, and measures as metrics at the step of the budget."""

    def begin(self, study: str, folder: Path) -> Iterable[str]:
        """Open the experiment. Returns the ids of finished runs only."""
        from mlflow import MlflowClient

        self._client = MlflowClient()
        experiment = self._client.get_experiment_by_name(study)
        self._experiment = experiment.experiment_id if experiment else self._client.create_experiment(study)
        finished, self._cut_off = set(), {}
        for run in self._runs():
            mark = run.data.tags.get(ID)
            if mark and run.info.status == "FINISHED":
                finished.add(mark)
            elif mark:
                self._cut_off[mark] = run.info.run_id
        return finished

    def log(self, run: TrackedRun) -> None:
        """Create, fill and finish the run, in three requests."""
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        run_id = self._cut_off.pop(run.id, None) or self._make(run, now)
        metrics = [Metric(name, float(value), now, run.budget) for name, value in run.measures.items()]
        params = [Param(name, str(value)) for name, value in run.factors.items()]
        self._client.log_batch(run_id, metrics=metrics, params=params)
        self._client.set_terminated(run_id, "FINISHED")

    def close(self) -> None:
        """Do nothing, because every run is closed already."""

    def _make(self, run: TrackedRun, now: int) -> str:
        tags = {ID: run.id, "peftport.study": run.study}
        made = self._client.create_run(self._experiment, start_time=now, tags=tags, run_name=run.name)
        return str(made.info.run_id)

    def _runs(self) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs([self._experiment], max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return
