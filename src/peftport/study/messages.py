"""The messages between driver and workers: requests are plain data, answers are metrics or an error.

A request names hosts and tasks, and other jobs' results by the sha256 of their artifacts.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peftport.core.errors import first_line
from peftport.hosts.fingerprint import Fingerprint
from peftport.hosts.loading import Loading
from peftport.modules.module import Closed
from peftport.study.sections import Data, Part, TestedSplit, Update
from peftport.techniques import AnySpec
from peftport.training.loop import TrainSettings


class MadeHost(Closed):
    """A host that an update job made: the base that it was made from, and the artifact with its weights."""

    name: str
    base: str
    weights: str


HostAt = str | MadeHost


class Place(Closed):
    """A task on a host, how the host is loaded and how it is tested.

    ``part``: the training items that modules learn from; ``seed`` is that of the division into parts.
    """

    host: HostAt
    task: str
    data: Data | None
    readout: str | None
    items: int
    generate: int
    training: TrainSettings
    loading: Loading
    part: Part = "all"
    seed: int = 0


class OriginModule(Closed):
    """The module that an entry starts from: where its matrices are, its host, and the method that ports it."""

    artifact: str
    chain: str
    step: int
    host: Fingerprint
    at: HostAt
    porter: str
    sampler: str | None


class EntryRequest(Closed):
    """One training: its id, its seed and, if it does not start fresh, the module it starts from.

    ``shuffled``: whether it learns the targets of the training items in random order.
    """

    job: str
    seed: int
    origin: OriginModule | None
    shuffled: bool = False


class TrainJobsRequest(Closed):
    """The request to train entries in one stack."""

    kind: Literal["chain"] = "chain"
    place: Place
    technique: AnySpec
    learning_rate: float | None
    budgets: tuple[int, ...]
    keep: tuple[int, ...]
    split: TestedSplit
    entries: tuple[EntryRequest, ...]
    alone: bool = False  # one by one, because the stack as a whole has failed


class BareRequest(Closed):
    """The request to test a bare host."""

    kind: Literal["bare"] = "bare"
    job: str
    place: Place
    split: TestedSplit


class UpdateRequest(Closed):
    """The request to make a host."""

    kind: Literal["update"] = "update"
    job: str
    host: str
    update: Update
    data: Data | None


class DistanceRequest(Closed):
    """The request to measure a distance."""

    kind: Literal["distance"] = "distance"
    job: str
    origin: HostAt
    receiver: HostAt


Request = TrainJobsRequest | BareRequest | UpdateRequest | DistanceRequest
Blobs = Mapping[str, bytes | Path]  # artifacts by sha256, as bytes or as a file on this machine


@dataclass(frozen=True)
class Answer:
    """The outcome of one job: its metrics or the error that ended it, and the inputs that it ran on."""

    job: str
    metrics: dict[str, Any] | None
    error: str | None
    seconds: float
    inputs: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class JobResult:
    """The answers of a stack, and the one artifact with all of their arrays; None where there are none to keep."""

    answers: tuple[Answer, ...]
    artifact: bytes | None


def told(error: BaseException) -> str:
    """Format an error for the ledger: its message in one line, then its traceback."""
    return f"{type(error).__name__}: {first_line(error)}\n{''.join(traceback.format_exception(error))}"


def failed(jobs: Sequence[str], error: BaseException, seconds: float) -> tuple[Answer, ...]:
    """Return the answers of a stack that failed as a whole."""
    return tuple(Answer(job, None, told(error), seconds / len(jobs)) for job in jobs)
