"""Whether two contestants did the same work: pure functions of what they measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, variance

FLOOR = 0.02  # accuracies nearer than this agree, however little they vary


def tolerance(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How far two means of accuracy may lie apart by the seeds alone: three standard errors, at least FLOOR."""
    error = math.sqrt(sum(variance(side) / len(side) if len(side) > 1 else 0.0 for side in (ours, theirs)))
    return max(FLOOR, 3 * error)


def agrees(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Whether the mean accuracies over the seeds lie within noise."""
    return abs(fmean(ours) - fmean(theirs)) <= tolerance(ours, theirs)


def speed_up(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over pairs of their seconds by ours: each pair was measured one right after the other."""
    return median(b / a for a, b in zip(ours, theirs, strict=True))
