"""What the driver of a study costs: the real driver, ledger and artifacts, and a cluster whose workers only wait.

    python benchmarks/study_driver.py [--runs 1000000] [--workers 1000] [--wait SECONDS] [--dir FOLDER] [--profile]

Writes benchmarks/results/study_driver.json. Every worker waits in real time for a stack (ten chains), then gives back
the answers that a real one gives, and an artifact of 4 KiB that no other stack has. Reported: wall and CPU
milliseconds of the driver a job; the cluster's occupancy (the time that workers worked, of the time that they had);
memory at every tenth of the jobs.
"""

from __future__ import annotations

import argparse
import cProfile
import heapq
import json
import pstats
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from machine import machine_facts
from study_plan import study_of

from peftport.core.environment import installed_versions
from peftport.core.progress import Silent
from peftport.hosts.fingerprint import Fingerprint
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import Ledger
from peftport.study.executors import Outcome
from peftport.study.messages import Answer, JobResult, Request, TrainJobsRequest
from peftport.study.plan import Plan
from peftport.study.run import run_study

OUT = Path(__file__).parent / "results" / "study_driver.json"
BYTES = 4096
VERSIONS = installed_versions()
HOST = Fingerprint(
    name="host", family="t5", model_type="t5", layers=12, width=768, architecture="a" * 64, weights="b" * 64,
    tokenizer="c" * 64,
).model_dump(mode="json")  # fmt: skip


class Waiting:
    """Workers that only wait."""

    def __init__(self, workers: int, seconds: float) -> None:
        self.workers, self.seconds = workers, seconds
        self.running: list[tuple[float, int, Request]] = []
        self.worked, self.idle = 0.0, 0.0
        self.rng = random.Random(0)

    def free(self) -> bool:
        """Whether a worker has nothing to do."""
        return len(self.running) < self.workers

    def submit(self, stack: int, request: Request, blobs: Mapping[str, Path]) -> None:
        """Begin to wait: 0.5 to 1.5 times the mean; what is no chain waits as long."""
        seconds = self.seconds * self.rng.uniform(0.5, 1.5)
        self.worked += seconds
        heapq.heappush(self.running, (time.perf_counter() + seconds, stack, request))

    def outcomes(self, timeout_seconds: float) -> list[Outcome]:
        """Who has waited long enough."""
        now = time.perf_counter()
        if self.running and self.running[0][0] > now:
            pause = min(self.running[0][0] - now, timeout_seconds)
            time.sleep(pause)
            self.idle += time.perf_counter() - now
            now = time.perf_counter()
        found = []
        while self.running and self.running[0][0] <= now:
            _, stack, request = heapq.heappop(self.running)
            found.append(Outcome(stack, answer(stack, request), None, self.seconds))
        return found

    def close(self) -> None:
        """Nothing to stop."""


def answer(stack: int, request: Request) -> JobResult:
    """What a worker would say, by the shape of it."""
    facts = {"host": HOST, "task": "d" * 64}
    inputs = {"host receiver": HOST, "host origin": HOST, "task": "d" * 64, "versions": VERSIONS}
    test = {"accuracy": 0.75, "auroc": 0.8, "accuracy_at_median": 0.74, "n_items": 1000, "loss": 0.5}
    if not isinstance(request, TrainJobsRequest):
        metrics = {"weights": 0.5} if request.kind == "distance" else {**facts, "tests": {"0": test}}
        return JobResult((Answer(request.job, metrics, None, 1.0, inputs),), None)
    metrics = facts | {
        "tests": {str(budget): test for budget in request.budgets},
        "learning_rate": 1e-3,
        "train_seconds_per_step": 0.1,
        "test_seconds": 2.0,
    }
    data = f"{stack}".encode().ljust(BYTES)
    return JobResult(tuple(Answer(entry.job, dict(metrics), None, 1.0, inputs) for entry in request.entries), data)


class Memory(Silent):
    """Watches progress: resident memory at every tenth of the training steps."""

    def __init__(self) -> None:
        self.mib: list[int] = []

    def stage(self, title: str, total: int) -> Callable[[int], None]:
        """Begin."""
        done = 0

        def advance(units: int) -> None:
            nonlocal done
            done += units
            while len(self.mib) < 11 and done * 10 >= total * len(self.mib):
                self.mib.append(resident_mib())

        advance(0)
        return advance


def resident_mib() -> int:
    """Resident memory of this process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024


def measure(runs: int, workers: int, wait_seconds: float, home: Path, profile: bool) -> dict[str, object]:
    """Run a study of so many runs."""
    plan = Plan(study_of(runs))
    executor, memory, ledger = Waiting(workers, wait_seconds), Memory(), Ledger(home)
    jobs, stacks = len(plan.jobs), len(plan.stacks)
    profiler = cProfile.Profile()
    begun, cpu = time.perf_counter(), time.process_time()
    if profile:
        profiler.enable()
    try:
        summary = run_study(plan, ledger, Artifacts(home / "artifacts"), executor, progress=memory)
    finally:
        ledger.close()
    profiler.disable()
    wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    assert (summary.done, summary.left) == (jobs, 0)
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(30)
    return {
        "runs": plan.sharing.runs,
        "jobs": jobs,
        "stacks": stacks,
        "workers": workers,
        "wait_seconds": wait_seconds,
        "wall_seconds": round(wall, 1),
        "driver_wall_ms_per_job": round(1000 * (wall - executor.idle) / jobs, 3),
        "driver_cpu_ms_per_job": round(1000 * cpu / jobs, 3),
        "occupancy": round(executor.worked / (workers * wall), 3),
        "mib_at_every_tenth": memory.mib,
    }


def main() -> None:
    """Read the options, measure, write."""
    options = argparse.ArgumentParser()
    options.add_argument("--runs", type=int, default=1_000_000)
    options.add_argument("--workers", type=int, default=1_000)
    options.add_argument("--wait", type=float, default=10.0)
    options.add_argument("--dir", type=Path)
    options.add_argument("--profile", action="store_true")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=given.dir) as home:
        row = measure(given.runs, given.workers, given.wait, Path(home), given.profile)
    print(row)
    if not given.profile:
        OUT.write_text(
            json.dumps({"machine": machine_facts(), "artifact_bytes": BYTES, "rows": [row]}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
