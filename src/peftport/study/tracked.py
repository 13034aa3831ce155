"""Send the runs of a study to trackers: each once, as soon as all of its columns are on record.

A run is finished when its job is done and the distance between its hosts is known or cannot be known. Runs
that earlier calls finished are sent as well, so a tracker that is added later, or that failed, receives everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from peftport.analysis.columns import FACTORS, run_columns
from peftport.store.ledger import JobRow, Ledger
from peftport.study.export import run_record
from peftport.study.grid import Run
from peftport.study.plan import Plan
from peftport.tasks.kinds import KINDS
from peftport.tracking.base import TrackedRun, Tracker
from peftport.tracking.line import TrackerThread, unsaid

TOLD_ELSEWHERE = ("run", "state", "error", "job")


def measure_names(*kinds: str) -> list[str]:
    """The columns of a run that are measures, of tasks of these kinds (none named: of classes)."""
    return [name for name in run_columns(*kinds) if name not in FACTORS and name not in TOLD_ELSEWHERE]


class Tracked:
    """Sends each finished run of a plan to the trackers once."""

    def __init__(self, plan: Plan, ledger: Ledger, lines: Sequence[TrackerThread]) -> None:
        """Send the runs that are on record already."""
        self._plan, self._ledger, self._lines = plan, ledger, lines
        self._rows: dict[str, JobRow] = {}
        self._waiting: dict[str, dict[str, Run]] = {}  # runs by name, by each job that they wait for
        if not lines:
            return
        for run in plan.runs():
            for job in self._jobs_of(run):
                self._waiting.setdefault(job, {})[run.name] = run
        self.recorded(ledger.states())

    def recorded(self, jobs: Iterable[str]) -> None:
        """Send the runs that are finished by these jobs, whose rows are in the ledger now."""
        for job in jobs:
            row = self._ledger.row(job) if job in self._waiting else None
            if row is not None:
                self._rows[job] = row
                for run in list(self._waiting[job].values()):
                    self._tell_if_finished(run)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Return, for each tracker, the number of runs that were sent and of runs that it had already."""
        return {line.name: {"sent": line.sent, "already_there": line.known} for line in self._lines}

    @property
    def troubles(self) -> tuple[str, ...]:
        """Say which trackers failed and how, in one line each."""
        return tuple(line.trouble for line in self._lines if line.trouble)

    def _jobs_of(self, run: Run) -> list[str]:
        return [job for job in (self._plan.job_of(run), self._plan.distance_of(run)) if job]

    def _tell_if_finished(self, run: Run) -> None:
        jobs = self._jobs_of(run)
        if not all(job in self._rows for job in jobs) or self._rows[jobs[0]].state != "done":
            return
        for job in jobs:
            del self._waiting[job][run.name]
        told = tracked_run(self._plan.study.name, run_record(self._plan, run, self._rows))
        for line in self._lines:
            line.send(told)


def tracked_run(study: str, record: Mapping[str, Any]) -> TrackedRun:
    """Convert a row of the exported runs to the form that trackers take."""
    factors = {name: record[name] for name in (*FACTORS, "job") if record[name] is not None}
    known = {name: record.get(name) for name in measure_names(*KINDS)}
    measures = {name: value for name, value in known.items() if value is not None}
    return TrackedRun(study, record["run"], record["budget"], factors, measures)


@contextmanager
def tracking(
    trackers: Mapping[str, Tracker], plan: Plan, ledger: Ledger, warn: Callable[[str], None] = lambda text: None
) -> Iterator[Tracked]:
    """Send runs to trackers while a study runs. If one fails, ``warn`` is called at once, from another thread.

    When the block ends normally, it waits until everything is sent. After an exception it does not wait, and the next
    call sends what is missing.
    """
    with unsaid():
        lines = [TrackerThread(name, each, plan.study.name, ledger.folder, warn) for name, each in trackers.items()]
        yield Tracked(plan, ledger, lines)
        for line in lines:
            line.close()
