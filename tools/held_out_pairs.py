"""How far predictions are off: each recorded pair of hosts is predicted from the others (leave one pair out)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from peftport.analysis.prediction.predict import Asked, outcomes, predict
from peftport.analysis.prediction.recorded import RecordedPort
from peftport.analysis.stats import Interval


@dataclass(frozen=True)
class Errors:
    """Errors of n predictions: mean absolute error, number of intervals that contain the outcome, mean half width."""

    n: int
    mean_absolute: float
    covered: int
    half_width: float


@dataclass(frozen=True)
class HeldOut:
    """The result for one technique and method, or for all: the numbers of pairs and of unknown ones, and the errors."""

    name: str
    asked: int
    unknown: int
    gain: Errors | None
    retention: Errors | None


@dataclass(frozen=True)
class _Told:
    """One pair that was left out: the predicted intervals and the outcomes of gain and retention."""

    gain: tuple[Interval, float] | None = None
    retention: tuple[Interval, float] | None = None


def leave_one_pair_out(ports: Sequence[RecordedPort]) -> list[HeldOut]:
    """A row for each technique and method, and one for all; modules of one task and training are one question.

    Those whose gain at home is not settled are no question: nothing is predicted for such modules.
    """
    by_kind: dict[str, list[_Told]] = defaultdict(list)
    groups: dict[tuple[str, Asked], list[RecordedPort]] = defaultdict(list)
    for port in (port for port in ports if port.learnt):
        measured = 0.0 if port.distance is not None else None
        of_pair = replace(Asked.of(port), distance=measured, home_low=None)
        groups[f"{port.technique} by {port.method}", of_pair].append(port)
    for (kind, asked), records in groups.items():
        came_out = outcomes(records, measured=asked.distance is not None)
        if not came_out:  # identical weights: these are one host, for which nothing is predicted
            continue
        [outcome] = came_out
        prediction = predict(ports, replace(asked, distance=outcome.distance))
        by_kind[kind].append(
            _Told(
                (prediction.gain, outcome.gain) if prediction.gain else None,
                (prediction.retention, outcome.retention)
                if prediction.retention and outcome.retention is not None
                else None,
            )
        )
    every = [told for predictions in by_kind.values() for told in predictions]
    return [_row(name, predictions) for name, predictions in (*sorted(by_kind.items()), ("all", every))]


def _row(name: str, told: Sequence[_Told]) -> HeldOut:
    unknown = sum(prediction.gain is None for prediction in told)
    return HeldOut(name, len(told), unknown, _errors(t.gain for t in told), _errors(t.retention for t in told))


def _errors(pairs: Iterable[tuple[Interval, float] | None]) -> Errors | None:
    known = [pair for pair in pairs if pair is not None]
    if not known:
        return None
    return Errors(
        len(known),
        float(np.mean([abs(i.estimate - value) for i, value in known])),
        sum(i.low <= value <= i.high for i, value in known),
        float(np.mean([i.high - i.estimate for i, _ in known])),
    )
