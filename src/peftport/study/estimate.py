"""Estimate what a study costs: in passes, from the plan alone; or in seconds, by timing a few steps on every host."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftport.core.errors import HostRefused, UnknownName
from peftport.study.grid import StudySpec
from peftport.study.inputs import open_task
from peftport.study.jobs import BareJob, Job, TrainJob, UpdateJob
from peftport.study.plan import Plan
from peftport.study.sections import StudyTechnique

if TYPE_CHECKING:
    from peftport.training.bound_task import BoundTask

STEPS, ENTRIES, ITEMS = 3, 4, 32
PASSES_A_STEP = 3  # forward, and backward, which costs about twice as much


@dataclass(frozen=True)
class Speed:
    """The speed of one worker: seconds for a training step of an entry and for a test item, and bytes of a module."""

    step_seconds: float
    item_seconds: float
    module_bytes: int


@dataclass(frozen=True)
class Estimate:
    """The cost of a plan on this machine. Jobs on the ``unknown`` hosts, which are not installed, are left out."""

    worker_seconds: float
    seconds: float
    disk_bytes: int
    unknown: tuple[str, ...]


def passes(job: Job, study: StudySpec) -> int:
    """Return the cost of a job in forward passes of one text: the same on every machine, blind to the size of hosts."""
    step = PASSES_A_STEP * study.training.batch_size
    if isinstance(job, TrainJob):
        return step * max(job.budgets) + len(job.budgets) * study.testing.items
    if isinstance(job, UpdateJob):
        update = job.update
        return PASSES_A_STEP * update.batch_size * (update.steps + update.head_warm_up_steps)
    return study.testing.items if isinstance(job, BareJob) else 1


def estimate(plan: Plan, workers: int) -> Estimate:
    """Time a few steps for each technique and host, and add up the training jobs; updates of hosts are left out."""
    study = plan.study
    chains = [job for job in plan.jobs.values() if isinstance(job, TrainJob)]
    speeds: dict[tuple[str, str], Speed | None] = {}
    worker_seconds, disk = 0.0, 0
    for job in chains:
        key = (job.host, job.technique.name)
        if key not in speeds:
            speeds[key] = _speed(study, job.host, job.task, job.technique)
        speed = speeds[key]
        if speed is not None:
            tested = len(job.budgets) * study.testing.items
            worker_seconds += speed.step_seconds * max(job.budgets) + speed.item_seconds * tested
            disk += len(job.keep) * speed.module_bytes + tested * 9
    unknown = tuple(sorted({host for (host, _), speed in speeds.items() if speed is None}))
    disk += sum(_weight_bytes(study, job.host) for job in plan.jobs.values() if isinstance(job, UpdateJob))
    return Estimate(worker_seconds, worker_seconds / workers, disk, unknown)


def _speed(study: StudySpec, host: str, task: str, technique: StudyTechnique) -> Speed | None:
    from peftport.training.bound_task import Start  # imported here: a study's driver does without

    bound = _bound(study, host, task)
    if bound is None:
        return None
    entries = min(ENTRIES, study.execution.stack)
    starts = [Start(bound.fresh(technique.spec, seed), seed) for seed in range(entries)]
    bound.train(technique.spec, starts, [1], 1e-4)
    begun = time.perf_counter()
    kept = bound.train(technique.spec, starts, [STEPS], 1e-4)
    trained = time.perf_counter()
    modules = [checkpoints[STEPS].matrices for checkpoints in kept]
    bound.test(technique.spec, modules)
    tested = time.perf_counter() - trained
    size = sum(t.numel() * 4 for matrices in modules[0].values() for t in matrices.values())
    return Speed((trained - begun) / (STEPS * entries), tested / (ITEMS * entries), size)


def _bound(study: StudySpec, host: str, task: str) -> BoundTask | None:
    from peftport.training.bound_task import bind_task  # imported here: a study's driver does without

    made = study.hosts.get(host)
    loaded = open_task(task, study.data.get(task))
    try:
        return bind_task(
            made.base if made else host, loaded, study.testing.readout, study.training.settings, ITEMS, study.loading,
            study.testing.generate,
        )  # fmt: skip
    except (UnknownName, HostRefused):
        return None


def _weight_bytes(study: StudySpec, host: str) -> int:
    from peftport.hosts.fingerprint import weight_files
    from peftport.hosts.sources import find_host

    try:
        return sum(file.stat().st_size for file in weight_files(find_host(study.hosts[host].base).folder))
    except (UnknownName, HostRefused):
        return 0
