"""A study small enough to run in a second, a workplace inside this process, and what a study folder holds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftport.store.artifacts import Artifacts
from peftport.store.ledger import Ledger
from peftport.study.executors import Outcome
from peftport.study.grid import read_study
from peftport.study.messages import Request
from peftport.study.plan import Plan
from peftport.study.run import Limits, Summary, run_study
from peftport.study.work import perform

# Two techniques, two pairs of hosts of different kinds: 32 runs, 12 of the baseline with scratch and ceiling apart.
TINY = """
name = "tiny"
techniques = [
    { name = "lora-2", kind = "lora", rank = 2 },
    { kind = "adapter", reduction_factor = 4 },
]
pairs = [["bert", "bert-updated"], ["t5", "t5-updated"]]
tasks = ["reviews"]
arms = ["ported", "sampled", "scratch"]
budgets = [0, 2]
seeds = [0, 1]

[data]
receiver = "shared"

[data.reviews]
source = "reviews.csv"

[training]
origin_steps = 3
batch_size = 4
max_tokens = 32
learning_rates = { lora-2 = 1e-2, adapter = 1e-2 }

[testing]
items = 8

[execution]
stack = 3
"""
# Seeds with which the tiny study is at work for seconds, so that it can be stopped within: again and again, or once.
LONG, SHORTER = list(range(8)), list(range(3))
HOSTS = ("bert", "bert-updated", "t5", "t5-updated")
SECONDS = ("train_seconds_per_step", "test_seconds")


class Here:
    """Works in this process, one stack at a time, as a worker would."""

    def __init__(self) -> None:
        self.done: list[Request] = []
        self._ended: list[Outcome] = []

    def free(self) -> bool:
        return not self._ended

    def submit(self, stack: int, request: Request, blobs: Mapping[str, Path]) -> None:
        begun, result, error = time.perf_counter(), None, None
        try:
            result = self.work(request, blobs)
        except Exception as raised:  # as a pool does
            error = raised
        self.done.append(request)
        self._ended.append(Outcome(stack, result, error, time.perf_counter() - begun))

    def work(self, request: Request, blobs: Mapping[str, Path]) -> Any:
        return perform(request, blobs)

    def outcomes(self, timeout_seconds: float) -> list[Outcome]:
        found, self._ended = self._ended, []
        return found

    def close(self) -> None:
        self._ended = []


def plan_of(path: Path, only: dict[str, frozenset[str]] | None = None, **changes: str) -> Plan:
    """The plan of a study file; ``changes`` with ``__`` for dots."""
    return Plan(read_study(path, {key.replace("__", "."): value for key, value in changes.items()}), only)


def run_in(
    folder: Path, plan: Plan, executor: Any = None, *, limits: Limits | None = None, retry_failed: bool = False
) -> Summary:
    """Run a plan in a folder; in this process unless told where."""
    ledger = Ledger(folder)
    try:
        artifacts = Artifacts(folder / "artifacts")
        return run_study(plan, ledger, artifacts, executor or Here(), limits=limits, retry_failed=retry_failed)
    finally:
        ledger.close()


def contents(folder: Path) -> dict[str, tuple[Any, ...]]:
    """What a ledger says of every job, without seconds and attempts: kind, state, artifact, metrics."""
    ledger = Ledger(folder)
    try:
        return {r.id: (r.kind, r.state, r.artifact, _timeless(r.metrics)) for r in ledger.rows()}
    finally:
        ledger.close()


def records(folder: Path) -> dict[str, tuple[int, float]]:
    """Attempt and seconds of every job on record: a job that was done twice would have other seconds."""
    ledger = Ledger(folder)
    try:
        return {r.id: (r.attempt, r.seconds) for r in ledger.rows()}
    finally:
        ledger.close()


def files(folder: Path) -> list[str]:
    """The names of a study's artifacts, which are their hashes, and of anything else that lies there."""
    return sorted(path.name for path in (folder / "artifacts").rglob("*") if path.is_file())


def _timeless(metrics: dict[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (metrics or {}).items() if key not in SECONDS}
