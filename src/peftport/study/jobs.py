"""Jobs are the units of computation that runs share. Their ids depend on everything that changes their results.

    update     make a host: continue a base host's pretraining             -> its weights
    bare       test a host alone on a task                                 -> scores
    chain      start an entry, train it, test it at every budget           -> scores, matrices at the steps to keep
    distance   how far a receiver's weights are from its origin's          -> a number

A job's id is the sha256 of the canonical JSON of its kind, the version of the code that does it, and its inputs (other
jobs by their ids). It does not depend on where, or in which stack, the job ran.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from peftport.core.hashing import canonical_json
from peftport.hosts.loading import Loading
from peftport.study.grid import StudySpec
from peftport.study.sections import Part, StudyTechnique, TestedSplit, Update
from peftport.training.loop import GENERATED

# Increased by hand when a change of the code changes numbers; golden ids in the tests detect accidental changes.
VERSIONS = {"update": 1, "bare": 1, "chain": 1, "distance": 1}
Kind = Literal["update", "bare", "chain", "distance"]


@dataclass(frozen=True, slots=True)
class FreshStart:
    """The start of an entry that is freshly initialised from its seed."""


@dataclass(frozen=True, slots=True)
class PortedStart:
    """The start of an entry from the ported matrices of another job, or from a ``sampler``'s draws like them."""

    chain: str  # the job that trains the module
    host: str  # where it was trained; the id of the chain depends on it already
    step: int
    porter: str
    sampler: str | None


FRESH = FreshStart()
Start = FreshStart | PortedStart


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """Which of a task's training items an entry learns from, and whether their targets are shuffled, as a control."""

    part: Part = "all"
    shuffled: bool = False


EVERYTHING = TrainedOn()


@dataclass(frozen=True, slots=True)
class UpdateJob:
    """Make one of the hosts that the study defines."""

    kind: ClassVar[Kind] = "update"
    id: str
    host: str
    update: Update
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BareJob:
    """Test a host without a module."""

    kind: ClassVar[Kind] = "bare"
    id: str
    host: str
    task: str
    needs: tuple[str, ...]
    split: TestedSplit = "test"


@dataclass(frozen=True, slots=True)
class TrainJob:
    """Train one entry on a host, and test it after each number of steps in ``budgets``."""

    kind: ClassVar[Kind] = "chain"
    id: str
    technique: StudyTechnique
    host: str
    task: str
    seed: int
    start: Start
    budgets: tuple[int, ...]
    keep: tuple[int, ...]
    needs: tuple[str, ...]
    items: TrainedOn = EVERYTHING
    split: TestedSplit = "test"


@dataclass(frozen=True, slots=True)
class DistanceJob:
    """Measure the distance between the weights of two hosts."""

    kind: ClassVar[Kind] = "distance"
    id: str
    origin: str
    receiver: str
    needs: tuple[str, ...]


Job = UpdateJob | BareJob | TrainJob | DistanceJob


class JobIds:
    """Computes the ids of the jobs of one study."""

    def __init__(self, study: StudySpec) -> None:
        """Prepare once, as canonical JSON, what all ids share, since a study may have a million jobs."""
        self._study = study
        training = study.training
        settings = training.settings.model_dump(mode="json")
        self._max_tokens, self._training = canonical_json(settings["max_tokens"]), canonical_json(settings)
        # A metric is read off what a job stores; `_place` has the others.
        testing = study.testing.model_dump(mode="json", exclude={"metric", "generate", "split"})
        self._testing = canonical_json(testing) + _numbers(study.loading)
        self._specs: dict[tuple[str, str], str] = {}
        self._updates = {name: self.update(update) for name, update in study.hosts.items()}
        self._places: dict[tuple[str, str, str], str] = {}
        self._distances: dict[tuple[str, str], str] = {}

    def update(self, update: Update) -> str:
        """Return the id of the job that makes a host."""
        return _named("update", canonical_json({**update.model_dump(mode="json"), "text": self._task(update.text)}))

    def host_needs(self, *hosts: str) -> tuple[str, ...]:
        """Return the ids of the jobs that make those of these hosts which the study makes."""
        return tuple(dict.fromkeys(self._updates[host] for host in hosts if host in self._updates))

    def bare(self, host: str, task: str, split: TestedSplit) -> str:
        """Return the id of the job that tests a bare host."""
        return _named("bare", f"[{self._place((host, task), split)},{self._max_tokens}]")

    def distance(self, origin: str, receiver: str) -> str:
        """Return the id of the job that measures a distance."""
        pair = (origin, receiver)
        if pair not in self._distances:
            self._distances[pair] = _named("distance", canonical_json([self._host(host) for host in pair]))
        return self._distances[pair]

    def chain(
        self,
        technique: StudyTechnique,
        place: tuple[str, str],
        seed: int,
        start: Start,
        steps: tuple[tuple[int, ...], tuple[int, ...]],
        items: TrainedOn,
        split: TestedSplit,
    ) -> str:
        """Return the id of a training job. ``steps`` are its budgets and the steps to keep."""
        begin = None if isinstance(start, FreshStart) else [start.chain, start.step, start.porter, start.sampler]
        run = canonical_json([seed, begin, *steps, *self._learns(items)])[1:-1]
        spec = self._spec(technique, place[0])
        return _named("chain", f"[{spec},{self._place(place, split)},{self._training},{run}]")

    def _learns(self, items: TrainedOn) -> list[dict[str, Any]]:
        """The part of an id that says what an entry learns from; nothing where it is all that the task has."""
        told = {} if items.part == "all" else {"part": items.part, "seed": self._study.data.seed}
        told |= {"shuffled": True} if items.shuffled else {}
        return [told] if told else []

    def _spec(self, technique: StudyTechnique, host: str) -> str:
        """The technique's settings and its learning rate on a host."""
        key = (technique.name, host)
        if key not in self._specs:
            rate = self._study.learning_rate(*key)
            self._specs[key] = canonical_json([technique.spec.model_dump(mode="json"), rate])
        return self._specs[key]

    def _place(self, place: tuple[str, str], split: TestedSplit) -> str:
        """Join host, task, testing and, unless they are the usual ones, number format, answers and split by commas."""
        key = (*place, split)
        if key not in self._places:
            host, task = canonical_json(self._host(place[0])), canonical_json(self._task(place[1]))
            tested = "" if split == "test" else f",{canonical_json({'split': split})}"
            self._places[key] = f"{host},{task},{self._testing}{self._generated(place[1])}{tested}"
        return self._places[key]

    def _generated(self, task: str) -> str:
        """The part of testing that completions alone have: for how many items answers are generated."""
        generate = self._study.testing.generate
        if generate == GENERATED or self._study.declared_kind(task) not in ("completion", None):
            return ""
        return f",{canonical_json({'generate': generate})}"

    def _host(self, host: str) -> Any:
        return {"job": self._updates[host]} if host in self._updates else host

    def _task(self, task: str) -> Any:
        data = self._study.data.get(task)
        return task if data is None else data.identity


def _numbers(loading: Loading) -> str:
    """Return the part of a loading that changes results: the number format, unless it is float32; not the device."""
    told = loading.model_dump(mode="json", include={"dtype", "bits"}, exclude_defaults=True)
    return f",{canonical_json(told)}" if told else ""


def _named(kind: Kind, inputs: str) -> str:
    """Return the sha256 of the canonical JSON of ``[kind, version, inputs]``; ``inputs`` is canonical JSON already."""
    return hashlib.sha256(f'["{kind}",{VERSIONS[kind]},{inputs}]'.encode()).hexdigest()
