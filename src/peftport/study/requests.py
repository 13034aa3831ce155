"""Turn a planned stack into the request for a worker: names are resolved, other jobs' results given by artifact."""

from __future__ import annotations

from dataclasses import dataclass

from peftport.core.errors import BadRequest
from peftport.hosts.fingerprint import Fingerprint
from peftport.store.ledger import JobRow, Ledger
from peftport.study.grid import StudySpec
from peftport.study.jobs import BareJob, Job, JobIds, PortedStart, TrainJob, UpdateJob
from peftport.study.messages import (
    BareRequest,
    DistanceRequest,
    EntryRequest,
    HostAt,
    MadeHost,
    OriginModule,
    Place,
    Request,
    TrainJobsRequest,
    UpdateRequest,
)
from peftport.study.sections import Part


@dataclass(frozen=True)
class WorkOrder:
    """A request, and the sha256 of the artifacts that it reads."""

    request: Request
    artifacts: tuple[str, ...]


class Requests:
    """Makes the requests of one study from its ledger."""

    def __init__(self, study: StudySpec, ledger: Ledger) -> None:
        """Prepare once what all requests share."""
        self._study, self._ledger, self._naming = study, ledger, JobIds(study)
        self._training = study.training.settings

    def order(self, jobs: tuple[Job, ...], *, alone: bool = False) -> WorkOrder:
        """Return the request for jobs of one stack; all jobs that they need must be done."""
        first = jobs[0]
        if isinstance(first, TrainJob):
            return self._chains([job for job in jobs if isinstance(job, TrainJob)], alone)
        if isinstance(first, BareJob):
            place, used = self._place(first.host, first.task)
            return WorkOrder(BareRequest(job=first.id, place=place, split=first.split), used)
        if isinstance(first, UpdateJob):
            data = self._study.data.get(first.update.text)
            return WorkOrder(UpdateRequest(job=first.id, host=first.host, update=first.update, data=data), ())
        origin, ours = self._host(first.origin)
        receiver, theirs = self._host(first.receiver)
        return WorkOrder(DistanceRequest(job=first.id, origin=origin, receiver=receiver), _once(ours + theirs))

    def _chains(self, jobs: list[TrainJob], alone: bool) -> WorkOrder:
        first = jobs[0]
        place, used = self._place(first.host, first.task, first.items.part)
        entries = [
            EntryRequest(job=job.id, seed=job.seed, origin=self._origin(job), shuffled=job.items.shuffled)
            for job in jobs
        ]
        request = TrainJobsRequest(
            place=place,
            technique=first.technique.spec,
            learning_rate=self._study.learning_rate(first.technique.name, first.host),
            budgets=first.budgets,
            keep=first.keep,
            split=first.split,
            entries=tuple(entries),
            alone=alone,
        )
        for job, entry in zip(jobs, entries, strict=True):
            if entry.origin and isinstance(job.start, PortedStart):
                used = (*used, entry.origin.artifact, *self._host(job.start.host)[1])
        return WorkOrder(request, _once(used))

    def _origin(self, job: TrainJob) -> OriginModule | None:
        start = job.start
        if not isinstance(start, PortedStart):
            return None
        row = self._done(start.chain)
        return OriginModule(
            artifact=row.artifact or "",
            chain=start.chain,
            step=start.step,
            host=Fingerprint.model_validate((row.metrics or {})["host"]),
            at=self._host(start.host)[0],
            porter=start.porter,
            sampler=start.sampler,
        )

    def _place(self, host: str, task: str, part: Part = "all") -> tuple[Place, tuple[str, ...]]:
        at, used = self._host(host)
        testing = self._study.testing
        place = Place(
            host=at,
            task=task,
            data=self._study.data.get(task),
            readout=testing.readout,
            items=testing.items,
            generate=testing.generate,
            training=self._training,
            loading=self._study.loading,
            part=part,
            seed=self._study.data.seed,
        )
        return place, used

    def _host(self, host: str) -> tuple[HostAt, tuple[str, ...]]:
        update = self._study.hosts.get(host)
        if update is None:
            return host, ()
        weights = self._done(self._naming.update(update)).artifact or ""
        return MadeHost(name=host, base=update.base, weights=weights), (weights,)

    def _done(self, job: str) -> JobRow:
        row = self._ledger.row(job)
        if row is None or row.state != "done":
            raise BadRequest(f"{self._ledger.folder}: job {job[:12]} was expected to be done, it is not; run again")
        return row


def _once(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
