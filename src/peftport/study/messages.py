"""What driver and workers say to each other: requests are plain data, answers are metrics or an error.

A request names hosts and tasks, and other jobs' results by the sha256 of their artifacts.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peftport.hosts.fingerprint import Fingerprint
from peftport.hosts.loading import Loading
from peftport.modules.module import Closed
from peftport.study.grid import Data, Update
from peftport.techniques import AnySpec
from peftport.training.loop import TrainSettings


class MadeHost(Closed):
    """A host that an update job made: the base it came from and the artifact that holds its weights."""

    name: str
    base: str
    weights: str


HostAt = str | MadeHost


class Place(Closed):
    """A task on a host, how the host is loaded and how it is tested."""

    host: HostAt
    task: str
    data: Data | None
    readout: str | None
    items: int
    training: TrainSettings
    loading: Loading


class OriginModule(Closed):
    """The module an entry starts from: where its matrices lie, its host, and what carries it over."""

    artifact: str
    chain: str
    step: int
    host: Fingerprint
    at: HostAt
    porter: str
    sampler: str | None


class EntryRequest(Closed):
    """One chain: its id, its seed and, if it does not start fresh, its origin."""

    job: str
    seed: int
    origin: OriginModule | None


class TrainJobsRequest(Closed):
    """Chains to train in one stack."""

    kind: Literal["chain"] = "chain"
    place: Place
    technique: AnySpec
    learning_rate: float | None
    budgets: tuple[int, ...]
    keep: tuple[int, ...]
    entries: tuple[EntryRequest, ...]
    alone: bool = False  # one by one, after the stack as a whole has failed


class BareRequest(Closed):
    """A bare host to test."""

    kind: Literal["bare"] = "bare"
    job: str
    place: Place


class UpdateRequest(Closed):
    """A host to make."""

    kind: Literal["update"] = "update"
    job: str
    host: str
    update: Update
    data: Data | None


class DistanceRequest(Closed):
    """A distance to measure."""

    kind: Literal["distance"] = "distance"
    job: str
    origin: HostAt
    receiver: HostAt


Request = TrainJobsRequest | BareRequest | UpdateRequest | DistanceRequest
Blobs = Mapping[str, bytes | Path]  # artifacts by sha256: their bytes, or a file on this machine


@dataclass(frozen=True)
class Answer:
    """What became of one job: its metrics, or the error it ended with; and the inputs that it ran on."""

    job: str
    metrics: dict[str, Any] | None
    error: str | None
    seconds: float
    inputs: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class JobResult:
    """A stack's answers and the one artifact that holds all their arrays (none: nothing to keep)."""

    answers: tuple[Answer, ...]
    artifact: bytes | None


def told(error: BaseException) -> str:
    """An error for the ledger: what it says in one line, then its traceback."""
    said = str(error).strip() or type(error).__name__
    first = f"{type(error).__name__}: {said.splitlines()[0]}"
    return first + "\n" + "".join(traceback.format_exception(error))


def failed(jobs: Sequence[str], error: BaseException, seconds: float) -> tuple[Answer, ...]:
    """The answers of a stack that failed as a whole."""
    return tuple(Answer(job, None, told(error), seconds / len(jobs)) for job in jobs)
