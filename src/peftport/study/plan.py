"""Plan a study: turn its runs into unique jobs, and group the jobs into stacks that train on one host at once.

Work that several runs need is done once:

- An origin's module is trained once, for all receivers, arms and receiver tasks.
- Training from scratch on a receiver is the same job as training an origin there, tested at every budget.
- The budgets of one run are checkpoints of one training.
- A bare host is tested once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import cached_property

from peftport.core.errors import UnknownName
from peftport.study.grid import Run, StudySpec, StudyTechnique, baseline, run_count, runs
from peftport.study.jobs import FRESH, BareJob, DistanceJob, Job, JobIds, PortedStart, Start, TrainJob, UpdateJob

FACTORS = ("technique", "origin", "receiver", "origin_task", "receiver_task", "arm", "method", "budget", "seed")
Place = tuple[str, str]  # host, task


@dataclass(frozen=True, slots=True)
class JobBatch:
    """A stack: jobs that one worker does together, in this order. The study file alone decides what is stacked."""

    index: int
    jobs: tuple[Job, ...]

    @property
    def needs(self) -> tuple[str, ...]:
        """The jobs that must be resolved before this stack can begin."""
        return tuple(dict.fromkeys(need for job in self.jobs for need in job.needs))


@dataclass(frozen=True)
class Sharing:
    """What sharing saves: the training steps if every run did all of its own work, and those that are planned."""

    runs: int
    baseline_runs: int
    jobs: int
    stacks: int
    steps_asked: int
    steps_needed: int
    tests_asked: int
    tests_needed: int


class Plan:
    """The jobs and stacks of a study, and which job answers which run."""

    def __init__(self, study: StudySpec, only: dict[str, frozenset[str]] | None = None) -> None:
        """Plan a study. ``only`` restricts ported and sampled runs to the given values of factors."""
        self.study = study
        self.only = only or {}
        self._naming = JobIds(study)
        self._techniques = {t.name: t for t in study.techniques}
        self._chosen: list[Run] | None = None
        self.jobs: dict[str, Job] = {}
        for run in self.runs():
            self._add(run)

    def runs(self) -> Iterator[Run]:
        """Yield every run of the plan: ported and sampled ones, then the baseline runs that their receivers need."""
        if self._chosen is not None:
            yield from self._chosen
            return
        chosen: set[Place] = set()
        for run in runs(self.study):
            if self._wanted(run):
                chosen.add((run.receiver, run.receiver_task))
                yield run
        for run in baseline(self.study):
            place = (run.receiver, run.receiver_task)
            if (place in chosen and self._compared(run)) or (not self.study_has_runs and self._wanted(run)):
                yield run

    def part(self, chosen: list[Run]) -> Plan:
        """Return a plan of some of the runs and all that they need, with the stacks that the whole plan has."""
        stack_of = {job.id: stack for stack in self.stacks for job in stack.jobs}
        wanted: dict[int, JobBatch] = {}
        todo = [job for run in chosen for job in (self.job_of(run), self.distance_of(run)) if job]
        while todo:
            stack = stack_of[todo.pop()]
            if stack.index not in wanted:
                wanted[stack.index] = stack
                todo += stack.needs
        part = copy(self)
        part.__dict__.pop("sharing", None)  # of the whole, if that was counted before
        part._chosen = chosen
        part.stacks = [JobBatch(i, wanted[index].jobs) for i, index in enumerate(sorted(wanted))]
        part.jobs = {job.id: job for stack in part.stacks for job in stack.jobs}
        return part

    @cached_property
    def study_has_runs(self) -> bool:
        """Whether the study has any ported or sampled runs, and not only training from scratch."""
        return run_count(self.study) > 0

    def job_of(self, run: Run) -> str:
        """Return the id of the job that answers a run (at the budget of the run)."""
        if run.arm == "bare":
            return self._naming.bare(run.receiver, run.receiver_task)
        assert run.technique is not None and run.seed is not None
        technique, place = self._techniques[run.technique], (run.receiver, run.receiver_task)
        if run.origin is None or run.origin_task is None:
            return self._fresh(technique, place, run.seed).id
        return self._carried(technique, (run.origin, run.origin_task), place, run).id

    def distance_of(self, run: Run) -> str | None:
        """Return the id of the job that measures the distance between the hosts of a run, if there is one."""
        return self._naming.distance(run.origin, run.receiver) if run.origin else None

    @cached_property
    def stacks(self) -> list[JobBatch]:
        """Return all jobs in stacks; those that others wait for come first."""
        groups: dict[tuple[object, ...], list[Job]] = {}
        for job in self.jobs.values():
            groups.setdefault(_group(job), []).append(job)
        size = self.study.execution.stack
        pieces = [tuple(jobs[i : i + size]) for jobs in groups.values() for i in range(0, len(jobs), size)]
        pieces.sort(key=lambda jobs: _rank(jobs[0]))  # a stable sort keeps the order of the runs within a rank
        return [JobBatch(index, jobs) for index, jobs in enumerate(pieces)]

    @cached_property
    def sharing(self) -> Sharing:
        """Count the training steps with and without sharing."""
        carried = asked = steps = 0
        for run in self.runs():
            carried, asked, steps = carried + (run.origin is not None), asked + 1, steps + run.budget
        chains = [job for job in self.jobs.values() if isinstance(job, TrainJob)]
        needed = sum(max(job.budgets) for job in chains)
        tests = sum(len(job.budgets) for job in chains) + sum(isinstance(job, BareJob) for job in self.jobs.values())
        return Sharing(
            runs=carried, baseline_runs=asked - carried, jobs=len(self.jobs), stacks=len(self.stacks),
            steps_asked=carried * self.study.training.origin_steps + steps, steps_needed=needed,
            tests_asked=asked, tests_needed=tests,
        )  # fmt: skip

    def _wanted(self, run: Run) -> bool:
        return all(str(getattr(run, factor)) in values for factor, values in self.only.items())

    def _compared(self, run: Run) -> bool:
        """Return whether a baseline run is of a technique and seed that were chosen: bare hosts have neither."""
        own = ((self.only[factor], getattr(run, factor)) for factor in ("technique", "seed") if factor in self.only)
        return all(value is None or str(value) in values for values, value in own)

    def _add(self, run: Run) -> None:
        """Add the jobs of one run."""
        place = (run.receiver, run.receiver_task)
        self._host(run.receiver)
        if run.arm == "bare":
            job = BareJob(self.job_of(run), *place, self._naming.host_needs(run.receiver))
            self.jobs[job.id] = job
        elif run.technique is not None and run.seed is not None:
            technique = self._techniques[run.technique]
            if run.origin is None or run.origin_task is None:
                self._keep(self._fresh(technique, place, run.seed))
            else:
                home = (run.origin, run.origin_task)
                self._host(run.origin)
                self._keep(self._fresh(technique, home, run.seed))
                self._keep(self._carried(technique, home, place, run))
                self._distance(run.origin, run.receiver)

    def _keep(self, job: TrainJob) -> None:
        self.jobs.setdefault(job.id, job)

    def _host(self, host: str) -> None:
        if host in self.study.hosts:
            update = self.study.hosts[host]
            job = UpdateJob(self._naming.update(update), host, update)
            self.jobs.setdefault(job.id, job)

    def _distance(self, origin: str, receiver: str) -> None:
        job = self._naming.distance(origin, receiver)
        if job not in self.jobs:
            self.jobs[job] = DistanceJob(job, origin, receiver, self._naming.host_needs(origin, receiver))

    @cached_property
    def _chains(self) -> dict[tuple[str, Place, int, Start], TrainJob]:
        return {}

    @cached_property
    def _roles(self) -> tuple[frozenset[Place], frozenset[Place]]:
        """Return the places where origins are trained and where runs are tested, in the whole study."""
        pairs, tasks = self.study.pairs, self.study.tasks
        homes = frozenset((origin, task.origin) for origin, _ in pairs for task in tasks)
        return homes, frozenset((receiver, task.receiver) for _, receiver in pairs for task in tasks)

    def _fresh(self, technique: StudyTechnique, place: Place, seed: int) -> TrainJob:
        """Return the training job that serves as an origin, as training from scratch and as the ceiling."""
        homes, receivers = self._roles
        steps = self.study.training.origin_steps
        known = self._chains.get((technique.name, place, seed, FRESH))
        if known is not None:
            return known
        keep = (steps,) if place in homes and self.study_has_runs else ()
        scratch = self.study.budgets if place in receivers and "scratch" in self.study.arms else ()
        return self._chain(technique, place, seed, FRESH, tuple(sorted({*scratch, steps})), keep)

    def _carried(self, technique: StudyTechnique, home: Place, place: Place, run: Run) -> TrainJob:
        assert run.seed is not None and run.method is not None
        origin = self._fresh(technique, home, run.seed)
        sampled = run.arm == "sampled"
        porter, sampler = (self.study.porters[0], run.method) if sampled else (run.method, None)
        start = PortedStart(origin.id, home[0], self.study.training.origin_steps, porter, sampler)
        return self._chain(technique, place, run.seed, start, tuple(sorted(self.study.budgets)), ())

    def _chain(
        self,
        technique: StudyTechnique,
        place: Place,
        seed: int,
        start: Start,
        budgets: tuple[int, ...],
        keep: tuple[int, ...],
    ) -> TrainJob:
        key = (technique.name, place, seed, start)
        if key not in self._chains:
            needs = self._naming.host_needs(place[0])
            if isinstance(start, PortedStart):
                needs = (*needs, start.chain)
            job = self._naming.chain(technique, place, seed, start, (budgets, keep))
            self._chains[key] = TrainJob(job, technique, *place, seed, start, budgets, keep, needs)
        return self._chains[key]


def chosen_factors(texts: Iterable[str]) -> dict[str, frozenset[str]]:
    """Parse texts such as ``technique=lora,prefix`` as factors and their values.

    Raises:
        UnknownName: there is no such factor.

    """
    chosen: dict[str, frozenset[str]] = {}
    for text in texts:
        factor, _, values = text.partition("=")
        if factor not in FACTORS:
            raise UnknownName.of("factor", factor, FACTORS, "written factor=value,value")
        chosen[factor] = frozenset(value.strip() for value in values.split(","))
    return chosen


def _group(job: Job) -> tuple[object, ...]:
    """Return the key of a job's group. Jobs with equal host, task, technique, start and budgets may be stacked."""
    if isinstance(job, TrainJob):
        return (job.technique.name, job.host, job.task, isinstance(job.start, PortedStart), job.budgets, job.keep)
    return (job.id,)


def _rank(job: Job) -> int:
    if isinstance(job, TrainJob):
        return 3 if isinstance(job.start, PortedStart) else 1
    return 0 if isinstance(job, UpdateJob) else 2
