"""Run a study behind its gates: first what the gates go by, then, if they hold, everything else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from peftport.core.errors import GatesFailed
from peftport.core.progress import Progress
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import Ledger
from peftport.study.executors import Executor
from peftport.study.plan import Plan
from peftport.study.run import Limits, Summary, run_study


@dataclass(frozen=True)
class Driving:
    """How a plan is run: what `run_study` takes, with a new executor for each call."""

    ledger: Ledger
    artifacts: Artifacts
    executor: Callable[[], Executor]
    limits: Limits
    retry_failed: bool
    progress: Progress | None
    recorded: Callable[[Iterable[str]], None]

    def run(self, plan: Plan, limits: Limits, *, retry_failed: bool) -> Summary:
        """Do what is not on record yet."""
        return run_study(
            plan, self.ledger, self.artifacts, self.executor(), limits=limits, retry_failed=retry_failed,
            progress=self.progress, recorded=self.recorded,
        )  # fmt: skip


def run_gated(plan: Plan, driving: Driving, *, go_on: bool) -> tuple[Summary, tuple[str, ...]]:
    """Run a plan, behind its gates if it has any. Returns what was done, and a line for each gate that does not hold.

    If one does not, nothing else is run, unless the caller wants to ``go_on`` knowingly.

    Raises:
        GatesFailed: a gate does not hold, or it is not known whether it does; a line for each says what was found.

    """
    if not len(plan.gates):
        return driving.run(plan, driving.limits, retry_failed=driving.retry_failed), ()
    begun = time.monotonic()
    first = driving.run(plan.before_gates(), driving.limits, retry_failed=driving.retry_failed)
    if first.left:  # stopped as asked; whether the gates hold is not known yet
        states = driving.ledger.states()
        first.left = sum(job not in states for job in plan.jobs)
        return first, ()
    from peftport.study.gate_results import gate_results  # imported here: a study without gates needs no statistics

    results = gate_results(plan, driving.ledger, driving.artifacts)
    failing = tuple(each.line for each in results if each.stops)
    if failing and not go_on:
        raise GatesFailed(
            f"study {plan.study.name}: expected its gates to hold, {len(failing)} of "
            f"{sum(each.needed is not None for each in results)} conditions do not, so the rest was not run; change "
            "the study, or go on knowingly with --gates report",
            failing,
        )
    rest = driving.limits.after(first.done + first.failed, time.monotonic() - begun)
    return first.then(driving.run(plan, rest, retry_failed=False)), failing
