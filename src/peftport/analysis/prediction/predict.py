"""Predict the zero-shot outcome of a port from the recorded ports of other pairs of hosts. Ours.

The records that count have the technique, the method and the families of origin and receiver that are asked for, agree
on whether the vocabularies are equal, and are of modules for the same task that were trained at home for at most
`TIMES` as many steps, and at least as many divided by that; those of the same two hosts, in either direction, and of
modules whose gain at home is on record and not settled to reach `FLOOR`, are left out. A pair of hosts is one outcome
y_p, whatever the number of its records:

    gain       y_p = mean over the pair's records of (ported - bare)
    retention  y_p = sum (ported - bare) / sum (ceiling - bare),    of records whose lift is settled to reach `FLOOR`

Pairs whose weights are about as far apart as those of the hosts in question are the best guide. So the prediction uses
the n <= `NEAREST` pairs with the smallest |log d - log d_p|, d the distance of weights. With their mean m and standard
deviation s it is the t interval for one new outcome,

    m +- t_{n-1} s sqrt(1 + 1/n)                       at the level `LEVEL`

whose width includes the noise that the recorded outcomes have from few seeds and items. The outcome is unknown if the
module does not record its task and its steps, if what it gains at home is on record and not settled to reach `FLOOR`,
if there are fewer than `FEWEST` such pairs, or if d is smaller or larger than all recorded distances. Hosts whose
shapes differ have no distance; they are compared with other such pairs. The distance is the whole model; the recorded
pairs are not independent, since they share origins and test items.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from peftport.analysis.prediction.recorded import FLOOR, RecordedPort
from peftport.analysis.stats import Interval
from peftport.core.libraries import special

NEAREST, FEWEST = 4, 3
LEVEL = 0.8
TIMES = 2  # a module that was trained much longer or shorter brings more or less


@dataclass(frozen=True)
class Asked:
    """The port whose outcome is to be predicted.

    Attributes:
        marks: the first digits of the hashes of both hosts' weights.
        task, steps: what the module was trained for and how long; None where it does not record that.
        home_low: the lower bound of its gain at home; None where it does not record that.

    """

    technique: str
    method: str
    origin_family: str
    receiver_family: str
    same_vocabulary: bool
    distance: float | None
    marks: frozenset[str]
    task: str | None
    steps: int | None
    home_low: float | None

    @classmethod
    def of(cls, port: RecordedPort) -> Asked:
        """The question to which this recorded port is the answer."""
        return cls(
            port.technique, port.method, port.origin_family, port.receiver_family, port.same_vocabulary, port.distance,
            port.pair, port.task, port.origin_steps, port.home_low,
        )  # fmt: skip

    def trained_like(self, port: RecordedPort) -> bool:
        """Whether a recorded module was trained for the same task, about as long."""
        if self.task is None or self.steps is None:
            return False
        return port.task == self.task and self.steps / TIMES <= port.origin_steps <= self.steps * TIMES


@dataclass(frozen=True)
class Prediction:
    """What to expect before any training.

    Attributes:
        pairs: how many pairs of hosts it rests on.
        basis: what these are, in words.
        unknown: why there is no prediction.

    """

    gain: Interval | None = None
    retention: Interval | None = None
    pairs: int = 0
    unknown: str | None = None
    basis: str = ""

    def as_json(self) -> dict[str, Any]:
        """The prediction as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class RecordedOutcome:
    """The outcome of one recorded pair of hosts. ``retention`` is None if no lift is settled to reach the floor."""

    distance: float | None
    gain: float
    retention: float | None
    records: tuple[RecordedPort, ...] = ()


def predict(ports: Iterable[RecordedPort], asked: Asked) -> Prediction:
    """Predict the gain over the bare receiver and the zero-shot retention, or say why they are unknown."""
    others = [port for port in ports if port.pair != asked.marks]
    alike = [port for port in others if _alike(port, asked) and asked.trained_like(port) and port.learnt]
    if not alike or (asked.home_low is not None and asked.home_low < FLOOR):
        return Prediction(unknown=_unseen(others, asked))
    pairs = outcomes(alike, measured=asked.distance is not None)
    if len(pairs) < FEWEST:
        return Prediction(unknown=f"{len(pairs)} other pairs of hosts on record, expected {FEWEST} or more")
    if asked.distance is not None:
        known = sorted(pair.distance for pair in pairs if pair.distance is not None)
        if not known[0] <= asked.distance <= known[-1]:
            return Prediction(
                unknown=f"weights are {asked.distance:.2g} apart, ports on record {known[0]:.2g} to {known[-1]:.2g}"
            )
        at = asked.distance
        pairs = sorted(pairs, key=lambda pair: abs(math.log((pair.distance or at) / at)))[:NEAREST]
    kept = [pair.retention for pair in pairs if pair.retention is not None]
    records = [port for pair in pairs for port in pair.records]
    return Prediction(
        _spread([pair.gain for pair in pairs]), _spread(kept) if len(kept) >= FEWEST else None, len(pairs),
        basis=f"{len(pairs)} other pairs of hosts, {strength(records)}",
    )  # fmt: skip


def strength(records: Sequence[RecordedPort]) -> str:
    """What records rest on, in words: seeds, test items, and the task, steps and gain at home of their modules."""
    told = {
        name: as_range([getattr(port, name) for port in records]) for name in ("seeds", "items", "origin_steps")
    }  # fmt: skip
    tasks = " and ".join(dict.fromkeys(port.task for port in records))
    untold = sum(port.home is None for port in records)
    home = f"; what they gained at home is not on record for {untold} of {len(records)}" if untold else ""
    return (
        f"{told['seeds']} seeds and {told['items']} test items each, modules for {tasks} of {told['origin_steps']} "
        f"steps{home}"
    )


def as_range(values: Sequence[int]) -> str:
    """The values in words: one number where they agree, else the least and the most."""
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def outcomes(ports: Iterable[RecordedPort], *, measured: bool) -> list[RecordedOutcome]:
    """One outcome for each pair of hosts: the pairs with a distance above zero (``measured``), or those without one."""
    by_pair: dict[frozenset[str], list[RecordedPort]] = defaultdict(list)
    for port in ports:
        if bool(port.distance) if measured else port.distance is None:
            by_pair[port.pair].append(port)
    return [_outcome(records) for records in by_pair.values()]


def _outcome(records: Sequence[RecordedPort]) -> RecordedOutcome:
    settled = [port for port in records if port.lift_low is not None and port.lift_low >= FLOOR]
    kept = sum(port.gain for port in settled) / sum(port.lift for port in settled) if settled else None
    distances = [port.distance for port in records if port.distance is not None]
    distance = math.exp(float(np.mean(np.log(distances)))) if distances else None
    return RecordedOutcome(distance, float(np.mean([port.gain for port in records])), kept, tuple(records))


def _spread(values: Sequence[float]) -> Interval:
    n, mean = len(values), float(np.mean(values))
    margin = float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) * float(np.std(values, ddof=1)) * math.sqrt(1 + 1 / n)
    return Interval(mean, mean - margin, mean + margin, LEVEL)


def _alike(port: RecordedPort, asked: Asked) -> bool:
    return _known(port, asked) and (port.origin_family, port.receiver_family, port.same_vocabulary) == (
        asked.origin_family, asked.receiver_family, asked.same_vocabulary,
    )  # fmt: skip


def _known(port: RecordedPort, asked: Asked) -> bool:
    return (port.technique, port.method) == (asked.technique, asked.method)


def _unseen(others: Sequence[RecordedPort], asked: Asked) -> str:
    """Say which part of the question no record of another pair covers."""
    if not any(_known(port, asked) for port in others):
        return "not on record"
    alike = [port for port in others if _alike(port, asked)]
    if not alike:
        families = f"{asked.origin_family} to {asked.receiver_family}"
        words = "the same vocabulary" if asked.same_vocabulary else "different vocabularies"
        return f"no such port from {families} with {words} on record of other hosts"
    if asked.task is None or asked.steps is None:
        return "the module does not record its task and for how many steps it was trained"
    if asked.home_low is not None and asked.home_low < FLOOR:
        return (
            f"the module's own gain at home is not settled to reach {FLOOR:g}, and of such modules nothing is on record"
        )
    here = (
        f"{', '.join(sorted({port.task for port in alike}))}, {as_range([port.origin_steps for port in alike])} steps"
    )
    return f"modules on record are of other tasks or trainings than {asked.task}, {asked.steps} steps ({here})"
