"""Make of exported tables the rows and artifacts that they came from, as far as tables hold them.

A job is taken if the tables have all of its tests. What it ran on is in ``study.json``; what it was tested on is in
``correct`` and, with scores and answers, in ``items``. A job that no table shows, such as the training of an origin
whose receivers are all there, is taken as done with those that needed it: its row has no tests. No table holds trained
matrices. Rows that were taken say from which table (`TABLE`).
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftport.core.errors import BadRequest, PeftportError
from peftport.core.hashing import digest
from peftport.core.libraries import pl, torch
from peftport.metrics import metrics_of
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import ARTIFACTS, JobRow, Ledger
from peftport.study.about import About
from peftport.study.export import Exported, read_about, read_export, recorded_items
from peftport.study.inputs import VERSIONS
from peftport.study.item_table import predictions_of
from peftport.study.items import CLASSES, arrays_of, correct_name, targets_of
from peftport.study.jobs import BareJob, DistanceJob, Job, PortedStart, TrainJob, UpdateJob
from peftport.study.messages import Answer
from peftport.study.packing import pack
from peftport.study.plan import Plan
from peftport.study.shards import FACT as SHARDS
from peftport.study.tested import MAJORITY

if TYPE_CHECKING:
    from torch import Tensor

TABLE = "table"  # in the metrics of a row that was taken: the sha256 of the table of runs
Records = Mapping[tuple[str, int], dict[str, Any]]  # the rows of exported runs that are done, by job and budget


def take(folder: Path, home: Path, plan: Plan | None = None) -> None:
    """Make a study's folder in ``home`` of the tables in ``folder``, with their own plan unless one is given.

    Raises:
        BadRequest: they are no tables, were altered, or do not say what their jobs ran on.

    """
    try:
        tables = StudyTables.read(folder)
    except PeftportError as error:  # the tables were altered
        raise BadRequest(str(error)) from error
    with closing(Ledger(home)) as ledger:
        ledger.set_fact("study", tables.about.study.model_dump(mode="json"))
        ledger.set_fact("ran", {"versions": tables.about.versions, "machine": tables.about.machine})
        words = shlex.split(tables.about.command)
        ledger.set_fact(SHARDS, [after for word, after in pairwise(words) if word == "--shard"])
        taken = _Taken(tables, plan or Plan(tables.about.study), Artifacts(home / ARTIFACTS))
        ledger.record(list(taken.rows()), (), taken.inputs)


def is_taken(row: JobRow) -> bool:
    """Return whether a row was taken from tables."""
    return TABLE in (row.metrics or {})


@dataclass(frozen=True, eq=False)
class StudyTables:
    """Exported tables of a study, checked; ``items`` is None where it was not exported."""

    folder: Path
    tables: Exported
    about: About
    items: pl.LazyFrame | None

    @classmethod
    def read(cls, folder: Path) -> StudyTables:
        """Read tables.

        Raises:
            BadRequest: they are no tables, or do not say what their jobs ran on.
            PeftportError: they were altered.

        """
        tables, about = read_export(folder), read_about(folder)
        if not (about.inputs and about.made_by and about.tables):
            raise BadRequest(
                f"{folder}/study.json: expected what the jobs ran on (inputs), found none: an early version wrote it; "
                "export the study anew, from the folder that it was run in"
            )
        return cls(folder, tables, about, recorded_items(folder))

    @cached_property
    def records(self) -> Records:
        """The runs that are done, by job and budget."""
        done = self.tables.runs.filter(state="done")
        return {(row["job"], row["budget"]): row for row in done.iter_rows(named=True)}

    def ran_on(self, job: Job) -> dict[str, Any]:
        """Return what a job ran on, as its row in the ledger said it.

        Raises:
            BadRequest: that is not on record.

        """
        hosts, tasks = _hosts_and_tasks(job)
        keys = [*(f"host {host}" for host in hosts), *(f"task {task}" for task in tasks)]
        inputs = {key: self.about.inputs.get(key) for key in keys}
        unknown = [key for key, value in inputs.items() if value is None]
        if unknown:
            raise BadRequest(f"{self.folder}/study.json: expected what {unknown[0]} was, found nothing; export it anew")
        made = next((each for each in self.about.made_by if job.id in each.ids), None)
        return {**inputs, VERSIONS: (made or self.about.made_by[0]).versions}


@dataclass(eq=False)
class _Taken:
    """The jobs of a plan that tables hold; ``inputs`` are the sets that their rows refer to, by digest."""

    source: StudyTables
    plan: Plan
    artifacts: Artifacts
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def rows(self) -> Iterator[JobRow]:
        """Yield the rows, and write their artifacts."""
        taken: set[str] = set()
        for stack in self.plan.stacks:
            jobs = [job for job in stack.jobs if isinstance(job, TrainJob | BareJob) and self._is_whole(job)]
            if jobs:
                taken |= {job.id for job in jobs}
                yield from self._tested(jobs)
        yield from self._distances()
        needed = [need for job in taken for need in self.plan.jobs[job].needs]
        answering = {self.plan.job_of(run) for run in self.plan.runs()}
        for job in self._closed(needed):
            if job.id not in taken | answering and (metrics := self._untested(job)):
                yield self._row(job, metrics)

    def _is_whole(self, job: TrainJob | BareJob) -> bool:
        return all((job.id, budget) in self.source.records for budget in _budgets(job))

    def _closed(self, ids: list[str]) -> list[Job]:
        """Return jobs and all that they need, in the order of the plan."""
        found, todo = set[str](), list(ids)
        while todo:
            job = todo.pop()
            if job not in found:
                found.add(job)
                todo += self.plan.jobs[job].needs
        return [job for job in self.plan.jobs.values() if job.id in found]

    def _row(self, job: Job, metrics: dict[str, Any], artifact: str | None = None) -> JobRow:
        inputs = self.source.ran_on(job)
        self.inputs[digest(inputs)] = inputs
        seconds = metrics.get("train_seconds_per_step", 0.0) * max(_budgets(job), default=0)
        seconds += metrics.get("test_seconds", 0.0) * len(_budgets(job))
        return JobRow(job.id, job.kind, "done", 0, artifact, metrics, None, seconds, digest(inputs))

    def _tested(self, jobs: list[TrainJob | BareJob]) -> Iterator[JobRow]:
        """Yield the rows of jobs of one stack, whose tests share an artifact."""
        tensors: dict[str, Tensor] = {}
        answers = []
        for job in jobs:
            records = {budget: self.source.records[job.id, budget] for budget in _budgets(job)}
            kind = self.source.about.kinds.get(job.task, CLASSES)
            tensors |= self._tensors(job.id, kind, {budget: record["run"] for budget, record in records.items()})
            answers.append(Answer(job.id, self._metrics(job, kind, records), None, 0.0, self.source.ran_on(job)))
        sha256 = self.artifacts.put(pack(tensors, jobs[0].kind, answers))
        for job, answer in zip(jobs, answers, strict=True):
            yield self._row(job, answer.metrics or {}, sha256)

    def _tensors(self, job: str, kind: str, runs: Mapping[int, str]) -> dict[str, Tensor]:
        """The tests of a job as an artifact has them; without ``items`` only what each got right is known."""
        items = {budget: self._items_of.get(run) for budget, run in runs.items()}
        tests = {budget: predictions_of(kind, own) for budget, own in items.items() if own is not None}
        known = {budget: test for budget, test in tests.items() if test is not None}
        if len(known) == len(runs):
            return arrays_of(job, known) | targets_of(next(iter(known.values())))
        if kind != CLASSES:
            raise BadRequest(
                f"{self.source.folder}: expected items.parquet, since {kind} tests have no correct and wrong items, "
                "found none; export the study with --items"
            )
        return {correct_name(job, b): torch.from_numpy(np.array(self._correct[run])) for b, run in runs.items()}

    @cached_property
    def _correct(self) -> dict[str, list[bool]]:
        return dict(self.source.tables.correct.iter_rows())

    @cached_property
    def _items_of(self) -> dict[str, pl.DataFrame]:
        if self.source.items is None:
            return {}
        frames = self.source.items.collect().partition_by("run", as_dict=True, maintain_order=True)
        return {str(run): frame for (run,), frame in frames.items()}

    def _metrics(self, job: TrainJob | BareJob, kind: str, records: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
        """What the row of a job says, as far as tables hold it."""
        told, last = self.source.about, records[max(records)]
        names = [*metrics_of(kind), "n_items", *(["loss"] if isinstance(job, TrainJob) else [])]
        metrics: dict[str, Any] = {TABLE: self._sha256, **self._facts(job, kind)}
        metrics["tests"] = {str(b): {name: record.get(name) for name in names} for b, record in records.items()}
        if last["train_seconds"] is not None:
            metrics["train_seconds_per_step"] = last["train_seconds"] / max(1, *records)
        if last["test_seconds"] is not None:
            metrics["test_seconds"] = last["test_seconds"]
        if job.task in told.majorities:
            metrics[MAJORITY] = told.majorities[job.task]
        if isinstance(job, BareJob):
            cut = [line for line in told.cuts if line.startswith(f"{job.host} on {job.task}: ")]
            return metrics | ({"cut": cut[0]} if cut else {})
        hosts, _ = _hosts_and_tasks(job)
        begins = tuple(f"{host} on {job.task}, where activations are compared" for host in hosts)
        compared = [line for line in told.cuts if isinstance(job.start, PortedStart) and line.startswith(begins)]
        return metrics | ({"cut_in_port": compared} if compared else {})

    def _facts(self, job: TrainJob | BareJob, kind: str) -> dict[str, Any]:
        inputs = self.source.ran_on(job)
        facts = {"host": inputs[f"host {job.host}"], "task": inputs[f"task {job.task}"]}
        return facts if kind == CLASSES else {**facts, "kind": kind}

    def _untested(self, job: Job) -> dict[str, Any] | None:
        """What the row of a job says that has no tests; None where the tables do not tell that it was done."""
        if not isinstance(job, UpdateJob):
            return {TABLE: self._sha256} if isinstance(job, TrainJob) else None
        distance = self.source.about.updates.get(job.host)
        return distance and {TABLE: self._sha256, "host": job.host, "update": {"distance": distance}}

    def _distances(self) -> Iterator[JobRow]:
        """Yield the distances that the tables have. Where they have none, the hosts may have different shapes."""
        known: dict[str, float] = defaultdict(float)
        for run in self.plan.runs():
            record, job = self.source.records.get((self.plan.job_of(run), run.budget)), self.plan.distance_of(run)
            if record is not None and job and record["host_distance"] is not None:
                known[job] = record["host_distance"]
        for job, distance in known.items():
            yield self._row(self.plan.jobs[job], {"weights": distance})

    @property
    def _sha256(self) -> str:
        return self.source.about.tables["runs.parquet"]


def _budgets(job: Job) -> tuple[int, ...]:
    if isinstance(job, TrainJob):
        return job.budgets
    return (0,) if isinstance(job, BareJob) else ()


def _hosts_and_tasks(job: Job) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the hosts and tasks that a job runs on."""
    if isinstance(job, UpdateJob):
        return (job.update.base,), (job.update.text,)
    if isinstance(job, DistanceJob):
        return (job.origin, job.receiver), ()
    origin = (job.start.host,) if isinstance(job, TrainJob) and isinstance(job.start, PortedStart) else ()
    return (*origin, job.host), (job.task,)
