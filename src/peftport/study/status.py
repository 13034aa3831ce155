"""How far a study is: what is planned, what is on record, what failed; and following it until nothing is left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from peftport.core.progress import duration
from peftport.study.commands import PlanRequest, StatusRequest, WatchRequest
from peftport.study.estimate import Estimate, estimate
from peftport.study.executors import workers_here
from peftport.study.kinds import check_kinds, kinds_of
from peftport.study.opened import OpenedStudy
from peftport.study.plan import Plan, Sharing
from peftport.study.shards import Division

STATES = ("done", "failed", "blocked", "left")


@dataclass(frozen=True)
class PlannedWork:
    """The size of a study, its jobs by kind, the kinds of its tasks, and what it costs here if that was asked for.

    ``kinds``: by task, None where it is known once a worker has read the task. ``division``: of a shard, all of them.
    """

    study: str
    sharing: Sharing
    jobs_by_kind: Mapping[str, int]
    estimate: Estimate | None
    kinds: Mapping[str, str | None] = field(default_factory=dict)
    division: Division | None = None
    tells_homes: bool = False


@dataclass(frozen=True)
class FailedJob:
    """A job that failed: its id and kind, how often it was tried, and the first line of its error."""

    job: str
    kind: str
    attempts: int
    error: str


@dataclass(frozen=True)
class StudyStatus:
    """The progress of a study: its jobs by state, and those that failed."""

    study: str
    counts: Mapping[str, int]
    failures: tuple[FailedJob, ...]

    @property
    def jobs(self) -> int:
        """The number of jobs that are planned."""
        return sum(self.counts.values())


def plan_study(opened: OpenedStudy, request: PlanRequest) -> PlannedWork:
    """Count the work of a study, and estimate how long it takes if that is asked for. Nothing is run.

    Raises:
        BadRequest: no one metric judges the study's tasks, or a module would be ported to a task of another kind.

    """
    plan, cost = opened.plan, None
    tasks = kinds_of(plan)
    check_kinds(plan.study, tasks)
    if request.calibrate:
        cost = estimate(plan, request.workers or workers_here(1, plan.study.loading))
    kinds: Counter[str] = Counter(job.kind for job in plan.jobs.values())
    homes = plan.study.tells_homes
    return PlannedWork(opened.name, plan.sharing, dict(kinds), cost, tasks, opened.division, homes)


def study_status(opened: OpenedStudy, request: StatusRequest) -> StudyStatus:
    """Count the jobs of a study by state, and list those that failed.

    Raises:
        BadRequest: nothing was run yet, or the ledger is damaged.

    """
    with opened.ledger() as ledger:
        ledger.check()
        states = ledger.states()
        failures = tuple(
            FailedJob(row.id, row.kind, row.attempt + 1, (row.error or "").splitlines()[0])
            for row in ledger.rows()
            if row.state == "failed" and row.id in opened.plan.jobs
        )
    counts = Counter(states.get(job, "left") for job in opened.plan.jobs)
    return StudyStatus(opened.name, {state: counts[state] for state in STATES}, failures)


def follow_study(opened: OpenedStudy, request: WatchRequest) -> None:
    """Wait until no job of a study is left; at each update tell how far it is.

    Raises:
        BadRequest: nothing was run yet.

    """
    tell = request.tell or _nobody
    with opened.ledger() as ledger:
        begun, first = time.monotonic(), -1
        while True:
            counts = _counts(opened.plan, ledger.states())
            left = len(opened.plan.jobs) - sum(counts.values())
            first = left if first < 0 else first
            tell(_line(opened.plan, counts, left, first, time.monotonic() - begun))
            if not left:
                break
            time.sleep(request.every)


def _nobody(line: str) -> None:
    """Ignore the line that is said."""


def _counts(plan: Plan, states: Mapping[str, str]) -> Counter[str]:
    return Counter(states[job] for job in plan.jobs if job in states)


def _line(plan: Plan, counts: Counter[str], left: int, first: int, seconds: float) -> str:
    gone = first - left
    rate = f", about {duration(left * seconds / gone)} left" if gone and left else ""
    told = ", ".join(f"{counts[state]} {state}" for state in ("done", "failed", "blocked"))
    return f"{plan.study.name}: {told}, {left} left of {len(plan.jobs)} jobs{rate}"
