"""A metric on resampled items: what it would have been on other draws, or with two tests' predictions swapped.

All tests get the same draws, so that what they share (items that are hard for all of them) stays shared.

Shapes: R tests, N items, B draws or swaps, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from peftport.metrics.base import Drawn, Floats, Metric, Predicted

DRAWS = 200  # a standard error of 5 % for the standard deviation
TRIES = 100


def resampled(metric: Metric, tests: Sequence[Predicted], *, rng: np.random.Generator, draws: int = DRAWS) -> Floats:
    """The metric of every test on every draw, (R, B), NaN where undefined. All tests are of the same N items."""
    values = np.full((len(tests), draws), np.nan)
    if not tests:
        return values
    n = len(tests[0].targets)
    counts = np.stack([np.bincount(_pick(tests[0].targets, rng), minlength=n) for _ in range(draws)]).astype(np.float64)
    known: dict[int, Floats] = {}  # runs may share a test
    for row, test in enumerate(tests):
        if id(test) not in known:
            known[id(test)] = metric.on_counts(test, counts)
        values[row] = known[id(test)]
    return values


def swapped(metric: Metric, pairs: Sequence[tuple[Predicted, Predicted]], kept: npt.NDArray[np.bool_]) -> Floats:
    """The metric of the first test of every pair minus that of the second, where items have changed places.

    Args:
        metric: what is computed.
        pairs: S pairs of tests of the same N items.
        kept: where the two predictions of an item stay where they are, the same for all pairs, (B, N).

    Returns:
        (B, S); NaN where undefined.

    """
    first = np.concatenate([kept, ~kept], axis=1).astype(np.float64)
    second = 1.0 - first
    differences = np.empty((len(kept), len(pairs)))
    for at, (a, b) in enumerate(pairs):
        both = Drawn(a.kind, np.concatenate([a.values, b.values]), np.concatenate([a.targets, b.targets]))
        differences[:, at] = metric.on_counts(both, first) - metric.on_counts(both, second)
    return differences


def _pick(targets: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Indices of N items, drawn with replacement; of several classes not one alone, which says nothing of ranks.

    Targets that are objects, such as references, are no classes.
    """
    n = len(targets)
    several = targets.dtype != object and bool((targets != targets[0]).any())
    pick = rng.integers(0, n, n)
    for _ in range(TRIES):
        if not several or (targets[pick] != targets[pick[0]]).any():
            break
        pick = rng.integers(0, n, n)
    return pick
