"""A metric on resampled items: what it would have been on other draws of as many items.

All tests get the same draws, so that what they share (items that are hard for all of them) stays shared.

Shapes: R tests, N items, B draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from peftport.metrics.base import Floats, Metric, Predicted

DRAWS = 200  # a standard error of 5 % for the standard deviation
TRIES = 100


def resampled(metric: Metric, tests: Sequence[Predicted], *, rng: np.random.Generator, draws: int = DRAWS) -> Floats:
    """The metric of every test on every draw, (R, B), NaN where undefined. All tests are of the same N items."""
    found = np.full((len(tests), draws), np.nan)
    if not tests:
        return found
    n = len(tests[0].targets)
    counts = np.stack([np.bincount(_pick(tests[0].targets, rng), minlength=n) for _ in range(draws)]).astype(np.float64)
    known: dict[int, Floats] = {}  # runs may share a test
    for row, test in enumerate(tests):
        if id(test) not in known:
            known[id(test)] = metric.on_counts(test, counts)
        found[row] = known[id(test)]
    return found


def _pick(targets: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Indices of N items, drawn with replacement; of several classes not one alone, which says nothing of ranks."""
    n, several = len(targets), bool((targets != targets[0]).any())
    pick = rng.integers(0, n, n)
    for _ in range(TRIES):
        if not several or (targets[pick] != targets[pick[0]]).any():
            break
        pick = rng.integers(0, n, n)
    return pick
