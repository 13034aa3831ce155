"""Run a plan: hand ready stacks to workers, write their artifacts to disk, then their rows into the ledger.

A stack with some jobs on record and some missing is done again as a whole, so that the missing results are the same as
they would have been the first time. Only the missing jobs are recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from peftport.core.errors import PeftportError
from peftport.core.hashing import digest
from peftport.core.progress import Progress, Silent
from peftport.core.stopping import check, stopped_once
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import JobRow, Ledger
from peftport.study.executors import Executor, Outcome, WorkerLost
from peftport.study.graph import Graph
from peftport.study.inputs import REMEDY, VERSIONS, Inputs, difference, versions_for, worker_difference
from peftport.study.jobs import Job, TrainJob
from peftport.study.messages import Answer, failed
from peftport.study.plan import Plan
from peftport.study.requests import Requests
from peftport.study.resuming import inputs_on_record
from peftport.study.table_rows import TABLE
from peftport.study.taking import to_do_again

WAIT_SECONDS = 0.5
WRITERS = 16  # number of artifacts that are flushed to disk at the same time


@dataclass(frozen=True)
class Limits:
    """When to stop early: after a number of jobs, or after a time. Stacks that have begun are finished."""

    max_jobs: int | None = None
    stop_after_seconds: float | None = None

    def after(self, jobs: int, seconds: float) -> Limits:
        """What is left of the limits once so many jobs were done and so many seconds have passed."""
        most, limit = self.max_jobs, self.stop_after_seconds
        return Limits(
            None if most is None else max(0, most - jobs), None if limit is None else max(0.0, limit - seconds)
        )


@dataclass
class Summary:
    """What one call of `run_study` did, in numbers of jobs. ``left`` counts the jobs that are not on record yet."""

    done: int = 0
    failed: int = 0
    blocked: int = 0
    before: int = 0
    failed_before: int = 0  # jobs that failed or were blocked earlier and are not tried again
    left: int = 0
    seconds: float = 0.0
    steps: int = 0
    # jobs done again because their artifact was missing or corrupt, or because tables do not hold their matrices
    recomputed: list[str] = field(default_factory=list)

    def then(self, next_: Summary) -> Summary:
        """Return one summary of this call on a part of a plan and the next one on the whole."""
        resolved = self.done + self.failed + self.blocked
        return Summary(
            done=self.done + next_.done,
            failed=self.failed + next_.failed,
            blocked=self.blocked + next_.blocked,
            before=next_.before - resolved,
            failed_before=next_.failed_before - self.failed - self.blocked,
            left=next_.left,
            seconds=self.seconds + next_.seconds,
            steps=self.steps + next_.steps,
            recomputed=sorted({*self.recomputed, *next_.recomputed}),
        )


def run_study(
    plan: Plan,
    ledger: Ledger,
    artifacts: Artifacts,
    executor: Executor,
    *,
    limits: Limits | None = None,
    retry_failed: bool = False,
    progress: Progress | None = None,
    recorded: Callable[[Iterable[str]], None] = lambda jobs: None,
) -> Summary:
    """Do every job of the plan that is not on record yet; ``recorded`` is called with jobs once they are recorded.

    Ctrl-C, SIGTERM and SIGHUP stop it cleanly, however often they come: workers are killed, what is recorded is kept,
    and the call ends in KeyboardInterrupt.

    Raises:
        OSError: the disk is full or broken; what is recorded is kept.

    """
    driver = _Driver(plan, ledger, artifacts, executor, limits or Limits(), progress or Silent(), recorded)
    with stopped_once():
        try:
            return driver.run(retry_failed)
        finally:
            executor.close()


@dataclass(eq=False)
class _Driver:
    plan: Plan
    ledger: Ledger
    artifacts: Artifacts
    executor: Executor
    limits: Limits
    progress: Progress
    recorded: Callable[[Iterable[str]], None]

    def __post_init__(self) -> None:
        self.requests = Requests(self.plan.study, self.ledger)
        self.summary = Summary()
        self.attempts: dict[int, int] = {}  # number of failed attempts, by stack that is not resolved
        self.again: list[tuple[int, bool]] = []  # stacks to try again, and whether their jobs run one by one
        self.flying: dict[int, tuple[Job, ...]] = {}
        self.taken: frozenset[str] = frozenset()
        self.inputs: dict[str, Any] = {}  # the inputs of the jobs on record and of this call
        self.versions = versions_for(self.plan.study.loading)

    def run(self, retry_failed: bool) -> Summary:
        begun = time.monotonic()
        self._tidy(retry_failed)
        recorded = self.ledger.states()
        states = {job: recorded.pop(job) for job in self.plan.jobs if job in recorded}  # shares the strings
        self.summary.before = len(states)
        self.summary.failed_before = sum(state != "done" for state in states.values())
        self.inputs = inputs_on_record(self.plan, self.ledger)
        self.graph = Graph(self.plan.stacks, states)
        left = [job for job in self.plan.jobs.values() if job.id not in states]
        self.advance = self.progress.stage("training steps", sum(weight(job) for job in left))
        while not self._over(begun):
            self._submit(begun)
            self._record(self.executor.outcomes(WAIT_SECONDS))
            check()
        on_record = self.summary.before + self.summary.done + self.summary.failed + self.summary.blocked
        self.summary.left = len(self.plan.jobs) - on_record
        self.summary.seconds = time.monotonic() - begun
        return self.summary

    def _tidy(self, retry_failed: bool) -> None:
        """Remove from the ledger what must be done again: failures if asked for, and jobs with a damaged artifact."""
        self.artifacts.sweep()
        if retry_failed:
            self.ledger.forget([job for job, state in self.ledger.states().items() if state != "done"])
        broken = [job for sha, jobs in self.ledger.artifacts().items() if not self.artifacts.holds(sha) for job in jobs]
        self.ledger.forget(broken)
        without = to_do_again(self.plan, self.ledger)
        self.ledger.forget(without)
        self.taken = frozenset(self.ledger.jobs_with(TABLE))
        self.summary.recomputed = sorted((set(broken) | set(without)) & self.plan.jobs.keys())

    def _stopping(self, begun: float) -> bool:
        limit, seconds = self.limits.max_jobs, self.limits.stop_after_seconds
        resolved = self.summary.done + self.summary.failed
        flying = sum(len(jobs) for jobs in self.flying.values())
        enough = limit is not None and resolved + flying >= limit
        return enough or (seconds is not None and time.monotonic() - begun >= seconds)

    def _over(self, begun: float) -> bool:
        if self.flying:
            return False
        return self._stopping(begun) or (self.graph.exhausted and not self.again)

    def _submit(self, begun: float) -> None:
        while self.executor.free() and not self._stopping(begun):
            if self.again:
                index, alone = self.again.pop(0)
                self._begin(index, alone)
                continue
            ready = self.graph.next()
            if ready is None:
                return
            self._block(ready.blocked)
            if ready.jobs:
                self._begin(ready.stack, alone=False)
            else:
                self.graph.resolve([], [job.id for job, _ in ready.blocked])

    def _begin(self, index: int, alone: bool) -> None:
        """Submit all jobs of a stack whose needs are done, including recorded ones: results depend on the stack.

        Only those that were taken from tables are left out, since what they need may have no matrices.
        """
        stack = self.plan.stacks[index]
        states = self.ledger.states_of([*stack.needs, *(job.id for job in stack.jobs)])
        jobs = tuple(
            job
            for job in stack.jobs
            if all(states.get(need) == "done" for need in job.needs)
            and job.id not in self.taken
            and not (alone and job.id in states)
        )
        order = self.requests.order(jobs, alone=alone)
        self.executor.submit(index, order.request, {sha: self.artifacts.path(sha) for sha in order.artifacts})
        self.flying[index] = jobs

    def _block(self, blocked: tuple[tuple[Job, str], ...]) -> None:
        if not blocked:
            return
        rows = [
            JobRow(job.id, job.kind, "blocked", 0, error=f"needs job {need[:12]}, which failed")
            for job, need in blocked
        ]
        self.ledger.record(rows)
        self.recorded([row.id for row in rows])
        self.summary.blocked += len(rows)
        self.graph.resolve([], [row.id for row in rows])
        self.advance(sum(weight(job) for job, _ in blocked))

    def _record(self, outcomes: list[Outcome]) -> None:
        """Write the artifacts of these outcomes first, then all of their rows in one transaction."""
        rows: list[JobRow] = []
        failures: list[tuple[str, int, str]] = []
        answered: list[tuple[list[Answer], Outcome, int]] = []
        for outcome in outcomes:
            jobs = self.flying.pop(outcome.stack)
            attempt = self.attempts.get(outcome.stack, 0)
            known = self.ledger.states_of([job.id for job in jobs])  # done again with their stack
            answers = [answer for answer in self._answers(outcome, jobs) if answer.job not in known]
            bad = [answer for answer in answers if answer.error]
            failures += [(answer.job, attempt, answer.error or "") for answer in bad]
            if bad and attempt < self.plan.study.execution.retries:
                self.attempts[outcome.stack] = attempt + 1
                self.again.append((outcome.stack, not isinstance(outcome.error, WorkerLost)))
                answers = [answer for answer in answers if not answer.error]
            answered.append((answers, outcome, attempt))
        inputs: dict[str, Inputs] = {}
        hashes = self._write([outcome for answers, outcome, _ in answered if any(a.metrics for a in answers)])
        for answers, outcome, attempt in answered:
            rows += self._rows(answers, hashes.get(outcome.stack), attempt, _digests(answers, inputs))
        if rows or failures:
            self.ledger.record(rows, failures, inputs)
            self.recorded([row.id for row in rows])
        self._count(rows)

    def _answers(self, outcome: Outcome, jobs: tuple[Job, ...]) -> list[Answer]:
        if outcome.result is None:
            error = outcome.error or PeftportError("no result and no error")
            return list(failed([job.id for job in jobs], error, outcome.seconds))
        changed = self._changed(outcome.result.answers)
        if changed:
            return list(failed([job.id for job in jobs], PeftportError(changed), outcome.seconds))
        return list(outcome.result.answers)

    def _changed(self, answers: tuple[Answer, ...]) -> str | None:
        """Say which host, task or library is not the one that earlier jobs of this study ran on; None if all are."""
        known = dict(self.inputs)
        for answer in answers:
            for key, value in (answer.inputs or {}).items():
                was = self.versions if key == VERSIONS else known.setdefault(key, value)
                if was is value or was == value:
                    continue
                changed = worker_difference(was, value) if key == VERSIONS else difference(key, was, value)
                if changed:
                    return f"{changed}; {REMEDY}"
        self.inputs = known
        return None

    def _write(self, outcomes: list[Outcome]) -> dict[int, str]:
        """Write artifacts to disk, several at once because each waits to be flushed. Returns their digests by stack."""
        data = {outcome.stack: outcome.result.artifact for outcome in outcomes if outcome.result}
        kept = {stack: artifact for stack, artifact in data.items() if artifact}
        if len(kept) < 2:
            return {stack: self.artifacts.put(artifact) for stack, artifact in kept.items()}
        with ThreadPoolExecutor(WRITERS) as writers:
            return dict(zip(kept, writers.map(self.artifacts.put, kept.values()), strict=True))

    def _rows(self, answers: list[Answer], sha256: str | None, attempt: int, digests: list[str | None]) -> list[JobRow]:
        return [
            JobRow(
                a.job,
                self.plan.jobs[a.job].kind,
                "failed" if a.error else "done",
                attempt,
                None if a.error else sha256,
                a.metrics,
                a.error,
                a.seconds,
                None if a.error else inputs,
            )  # fmt: skip
            for a, inputs in zip(answers, digests, strict=True)
        ]

    def _count(self, rows: list[JobRow]) -> None:
        mine = self.plan.jobs  # keep the strings of the plan, not copies from workers: there may be a million
        good = [mine[row.id].id for row in rows if row.state == "done"]
        bad = [mine[row.id].id for row in rows if row.state != "done"]
        self.summary.done += len(good)
        self.summary.failed += len(bad)
        self.graph.resolve(good, bad)
        done = sum(weight(self.plan.jobs[row.id]) for row in rows)
        self.summary.steps += done
        self.advance(done)


def weight(job: Job) -> int:
    """Return the training steps of a job; jobs that do not train count as one step."""
    return max(1, *job.budgets) if isinstance(job, TrainJob) else 1


def _digests(answers: list[Answer], inputs: dict[str, Inputs]) -> list[str | None]:
    """Return the digest of what each answer ran on, and add new sets of inputs to ``inputs``."""
    known: dict[int, str] = {}
    digests: list[str | None] = []
    for answer in answers:
        answered = answer.inputs
        if answered is not None and id(answered) not in known:
            known[id(answered)] = digest(answered)
            inputs[known[id(answered)]] = answered
        digests.append(known[id(answered)] if answered is not None else None)
    return digests
