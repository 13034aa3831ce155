"""Plan a study: turn its runs into unique jobs, and group the jobs into stacks that train on one host at once.

Work that several runs need is done once:

- An origin's module is trained once, for all receivers, arms and receiver tasks.
- Training from scratch on a receiver is the same job as training an origin there, tested at every budget, unless
  receivers learn from other items than origins.
- The budgets of one run are checkpoints of one training.
- A bare host is tested once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal

from peftport.core.errors import UnknownName
from peftport.study.gates import ClosenessGate, Gates, LiftGate
from peftport.study.grid import Run, StudySpec, baseline, control_count, controls, run_count, runs
from peftport.study.jobs import (
    EVERYTHING,
    FRESH,
    BareJob,
    DistanceJob,
    Job,
    JobIds,
    PortedStart,
    Start,
    TrainedOn,
    TrainJob,
    UpdateJob,
)
from peftport.study.sections import StudyTechnique, TestedSplit

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
    """What sharing saves: the training steps if every run did all of its own work, and those that are planned.

    ``control_runs`` are beside the ``runs``: of the shuffled arm, and of further samplers.
    """

    runs: int
    baseline_runs: int
    jobs: int
    stacks: int
    steps_asked: int
    steps_needed: int
    tests_asked: int
    tests_needed: int
    control_runs: int = 0


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
        self.gates = Gates()
        for run in self.runs():
            self._add(run)

    def runs(self) -> Iterator[Run]:
        """Yield every run of the plan: ported and sampled ones, controls, then the baseline runs that these need."""
        if self._chosen is not None:
            yield from self._chosen
            return
        chosen: set[Place] = set()
        homes: set[Place] = set()
        for run in chain(runs(self.study), controls(self.study)):
            if self._wanted(run):
                chosen.add((run.receiver, run.receiver_task))
                homes.add((str(run.origin), str(run.origin_task)))
                yield run
        needed = {"home": homes, "bare": chosen | homes if self.study.tells_homes else chosen}
        for run in baseline(self.study):
            here = (run.receiver, run.receiver_task)
            compared = here in needed.get(run.arm, chosen) and self._compared(run)
            if compared or (not self.study_has_runs and self._wanted(run)):
                yield run

    def part(self, chosen: list[Run], *, gated: bool = False) -> Plan:
        """Return a plan of some of the runs and all that they need, with the stacks that the whole plan has.

        With ``gated``, the gates that these runs must pass are of the part too, for all seeds of the study.
        """
        gates = self.gates.of(chosen) if gated else Gates()
        jobs = [job for run in chosen for job in (self.job_of(run), self.distance_of(run)) if job]
        return self._part(chosen, jobs + gates.jobs, gates)

    def before_gates(self) -> Plan:
        """Return the plan of what gates go by, without runs, with the stacks that the whole plan has."""
        return self._part([], self.gates.jobs, self.gates)

    def _part(self, chosen: list[Run], todo: list[str], gates: Gates) -> Plan:
        stack_of = {job.id: stack for stack in self.stacks for job in stack.jobs}
        wanted: dict[int, JobBatch] = {}
        while todo:
            stack = stack_of[todo.pop()]
            if stack.index not in wanted:
                wanted[stack.index] = stack
                todo += stack.needs
        part = copy(self)
        part.__dict__.pop("sharing", None)  # of the whole, if that was counted before
        part._chosen, part.gates = chosen, gates
        part.stacks = [JobBatch(i, wanted[index].jobs) for i, index in enumerate(sorted(wanted))]
        part.jobs = {job.id: job for stack in part.stacks for job in stack.jobs}
        return part

    @cached_property
    def study_has_runs(self) -> bool:
        """Whether the study has any runs that begin with a module, and not only training from scratch."""
        return run_count(self.study) + control_count(self.study) > 0

    def job_of(self, run: Run) -> str:
        """Return the id of the job that answers a run (at the budget of the run)."""
        if run.arm == "bare":
            return self._naming.bare(run.receiver, run.receiver_task, self.study.testing.split)
        assert run.technique is not None and run.seed is not None
        technique, place = self._techniques[run.technique], (run.receiver, run.receiver_task)
        if run.origin is None or run.origin_task is None:
            return self._baseline(technique, place, run).id
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
        asked: Counter[str] = Counter()
        for run in self.runs():
            steps = run.budget + (0 if run.origin is None else self.study.origin_steps(run.origin))
            asked.update({self._counts_as(run): 1, "steps_asked": steps, "tests_asked": 1})
        counts = {name: asked[name] for name in ("runs", "control_runs", "baseline_runs", "steps_asked", "tests_asked")}
        chains = [job for job in self.jobs.values() if isinstance(job, TrainJob)]
        needed = sum(max(job.budgets) for job in chains)
        tests = sum(len(job.budgets) for job in chains) + sum(isinstance(job, BareJob) for job in self.jobs.values())
        return Sharing(**counts, jobs=len(self.jobs), stacks=len(self.stacks), steps_needed=needed, tests_needed=tests)

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
            self._bare(place, self.study.testing.split)
        elif run.technique is not None and run.seed is not None:
            technique = self._techniques[run.technique]
            if run.origin is None or run.origin_task is None:
                self._keep(self._baseline(technique, place, run))
            else:
                home = (run.origin, run.origin_task)
                self._host(run.origin)
                self._keep(self._origin(technique, home, run.seed, shuffled=run.arm == "shuffled"))
                self._keep(self._carried(technique, home, place, run))
                self._distance(run.origin, run.receiver)
                if self.study.gates is not None:
                    self._hold(technique, home, place, run.seed)

    def _counts_as(self, run: Run) -> str:
        if run.origin is None:
            return "baseline_runs"
        main = run.arm == "ported" or (run.arm == "sampled" and run.method in self.study.samplers)
        return "runs" if main else "control_runs"

    def _hold(self, technique: StudyTechnique, home: Place, place: Place, seed: int) -> None:
        """Add the gates that a run must pass, and the jobs that they go by."""
        lift, pair = (technique.name, *home), (home[0], *place)
        if lift not in self.gates.lifts:
            self.gates.lifts[lift] = LiftGate(*lift, self._bare(home, "validation"), {})
        if seed not in self.gates.lifts[lift].home:
            origin = self._origin(technique, home, seed)
            start = PortedStart(origin.id, home[0], origin.keep[0], "copy", None)
            tested = self._chain(technique, home, seed, start, (0,), (), self._part_of("origin"), "validation")
            self._keep(origin)
            self._keep(tested)
            self.gates.lifts[lift].home[seed] = tested.id
        if pair not in self.gates.closeness:
            bare = [self._bare((host, place[1]), "validation") for host in (home[0], place[0])]
            self.gates.closeness[pair] = ClosenessGate(*pair, *bare)

    def _bare(self, place: Place, split: TestedSplit) -> str:
        job = self._naming.bare(*place, split)
        if job not in self.jobs:
            self.jobs[job] = BareJob(job, *place, self._naming.host_needs(place[0]), split)
        return job

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
    def _chains(self) -> dict[tuple[object, ...], TrainJob]:
        return {}

    @cached_property
    def _roles(self) -> tuple[frozenset[Place], frozenset[Place]]:
        """Return the places where origins are trained and where runs are tested, in the whole study."""
        pairs, tasks = self.study.pairs, self.study.tasks
        homes = frozenset((origin, task.origin) for origin, _ in pairs for task in tasks)
        return homes, frozenset((receiver, task.receiver) for _, receiver in pairs for task in tasks)

    def _baseline(self, technique: StudyTechnique, place: Place, run: Run) -> TrainJob:
        """Return the training job that answers a run without an origin."""
        assert run.seed is not None
        return (
            self._origin(technique, place, run.seed) if run.arm == "home" else self._scratch(technique, place, run.seed)
        )

    def _origin(self, technique: StudyTechnique, place: Place, seed: int, *, shuffled: bool = False) -> TrainJob:
        """Return the training job that makes an origin's module; it may be that of training from scratch there."""
        if not shuffled and not self.study.disjoint:
            return self._scratch(technique, place, seed)
        steps, items = (self.study.origin_steps(place[0]),), TrainedOn(self._part_of("origin").part, shuffled)
        return self._chain(technique, place, seed, FRESH, steps, steps, items)

    def _scratch(self, technique: StudyTechnique, place: Place, seed: int) -> TrainJob:
        """Return the job of training from scratch, whose end is the ceiling; it may serve as an origin, too."""
        homes, receivers = self._roles
        steps, items = self.study.origin_steps(place[0]), self._part_of("receiver")
        keep = (steps,) if place in homes and self.study_has_runs and not self.study.disjoint else ()
        scratch = self.study.budgets if place in receivers and "scratch" in self.study.arms else ()
        return self._chain(technique, place, seed, FRESH, tuple(sorted({*scratch, steps})), keep, items)

    def _part_of(self, role: Literal["origin", "receiver"]) -> TrainedOn:
        return TrainedOn(role) if self.study.disjoint else EVERYTHING

    def _carried(self, technique: StudyTechnique, home: Place, place: Place, run: Run) -> TrainJob:
        assert run.seed is not None and run.method is not None
        origin = self._origin(technique, home, run.seed, shuffled=run.arm == "shuffled")
        sampled = run.arm == "sampled"
        porter, sampler = (self.study.porters[0], run.method) if sampled else (run.method, None)
        start, budgets = (
            PortedStart(origin.id, home[0], origin.keep[0], porter, sampler),
            tuple(sorted(self.study.budgets)),
        )
        return self._chain(technique, place, run.seed, start, budgets, (), self._part_of("receiver"))

    def _chain(
        self,
        technique: StudyTechnique,
        place: Place,
        seed: int,
        start: Start,
        budgets: tuple[int, ...],
        keep: tuple[int, ...],
        items: TrainedOn,
        split: TestedSplit | None = None,
    ) -> TrainJob:
        split = split or self.study.testing.split
        key = (technique.name, place, seed, start, budgets, items, split)
        if key not in self._chains:
            needs = self._naming.host_needs(place[0])
            if isinstance(start, PortedStart):
                needs = (*needs, start.chain)
            job = self._naming.chain(technique, place, seed, start, (budgets, keep), items, split)
            self._chains[key] = TrainJob(job, technique, *place, seed, start, budgets, keep, needs, items, split)
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
        ported = isinstance(job.start, PortedStart)
        return (job.technique.name, job.host, job.task, ported, job.budgets, job.keep, job.items, job.split)
    return (job.id,)


def _rank(job: Job) -> int:
    if isinstance(job, TrainJob):
        return 3 if isinstance(job.start, PortedStart) else 1
    return 0 if isinstance(job, UpdateJob) else 2
