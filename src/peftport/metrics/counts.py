"""What metrics of tests that hold each item so many times are computed from: confusion tables and ranked scores.

A bootstrap draw of N items is a count for each of them, and so is the choice between two predictions for each item,
which a swap of two arms makes. So one sorting or one matrix product serves all draws or swaps.

Shapes: N items, B draws, C classes, U distinct scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from peftport.metrics.base import Floats, Predicted, one_against_rest, predicted_classes


def confusions(predictions: Predicted, counts: Floats) -> Floats:
    """How many items of each class were given each class in every draw, counts (B, N) -> (B, C right, C given)."""
    right, given = np.asarray(predictions.targets, np.int64), predicted_classes(predictions)
    classes = max(predictions.values.shape[1], int(right.max()) + 1)
    cells = np.zeros((len(right), classes * classes))
    cells[np.arange(len(right)), right * classes + given] = 1.0
    found: Floats = (counts @ cells).reshape(-1, classes, classes)
    return found


def ranked(strength: npt.NDArray[Any], own: npt.NDArray[np.bool_], counts: Floats) -> tuple[Floats, Floats]:
    """Items of a class and the others at each distinct score, from the lowest to the highest, 2 of (B, U).

    ``strength`` and ``own`` (N,) say how strongly each item is said to be of the class, and whether it is.
    """
    order = np.argsort(strength, kind="stable")
    begins = np.flatnonzero(np.concatenate([[True], np.diff(strength[order]) != 0]))
    sorted_counts, inside = counts[:, order], own[order]
    one: Floats = np.add.reduceat(sorted_counts * inside, begins, axis=1)
    other: Floats = np.add.reduceat(sorted_counts * ~inside, begins, axis=1)
    return one, other


def mean_over_rankings(measure: Any, predictions: Predicted, counts: Floats) -> Floats:
    """The mean of ``measure(own, other)`` (see `ranked`) over the classes of each draw, (B,); NaN with fewer than two.

    Of two classes the second's alone, as `one_against_rest` has it.
    """
    asked = one_against_rest(predictions)
    if asked is None:
        return np.full(len(counts), np.nan)
    owned, strengths = asked
    values, there = np.zeros((2, owned.shape[1], len(counts)))
    for k in range(owned.shape[1]):
        one, other = ranked(strengths[:, k], owned[:, k], counts)
        defined = (one.sum(1) > 0) & (other.sum(1) > 0)
        values[k, defined], there[k] = measure(one[defined], other[defined]), defined
    found: Floats = divided(values.sum(0), there.sum(0), np.nan)
    return found


def divided(above: Floats, below: Floats, otherwise: float = 0.0) -> Floats:
    """A quotient, elementwise; ``otherwise`` where the divisor is 0."""
    found: Floats = np.where(below != 0, above / np.where(below != 0, below, 1.0), otherwise)
    return found
