"""What metrics of tests that hold each item so many times are computed from: confusion tables and rankings.

A bootstrap draw of N items is a count for each of them, and so is the choice between two predictions for each item,
which a swap of two arms makes. So one sorting or one matrix product serves all draws or swaps.

Shapes: N items, B draws, C classes, P items of one class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from peftport.metrics.base import Floats, Predicted, one_against_rest, predicted_classes


def confusions(predictions: Predicted, counts: Floats) -> Floats:
    """How many items of each class were given each class in every draw, counts (B, N) -> (B, C right, C given)."""
    right, predicted = np.asarray(predictions.targets, np.int64), predicted_classes(predictions)
    classes = max(predictions.values.shape[1], int(right.max()) + 1)
    cells = np.zeros((len(right), classes * classes))
    cells[np.arange(len(right)), right * classes + predicted] = 1.0
    matrices: Floats = (counts @ cells).reshape(-1, classes, classes)
    return matrices


class RankedItems:
    """Items of a class and the others by how strongly each is said to be of it, in B draws.

    Attributes:
        own: how often each item of the class is held, from the weakest to the strongest, (P, B).

    """

    def __init__(self, strength: npt.NDArray[Any], positive: npt.NDArray[np.bool_], counts: Floats) -> None:
        """Take the strengths and which items are of the class, (N,), and counts, (B, N)."""
        order = np.argsort(strength, kind="stable")
        (mine, self._own_below), (_, self._other_below) = (
            (at, np.cumsum(np.concatenate([np.zeros((1, len(counts))), counts.T[at]]), axis=0))
            for at in (order[positive[order]], order[~positive[order]])
        )
        self.positives: Floats = counts.T[mine]
        self._at, self._others = strength[mine], strength[order[~positive[order]]]

    @property
    def totals(self) -> tuple[Floats, Floats]:
        """How many items are of the class and how many not, (B,) each."""
        return self._own_below[-1], self._other_below[-1]

    def other_below(self, side: Literal["left", "right"]) -> Floats:
        """Others that are weaker than each item of the class (left), or no stronger (right), (P, B)."""
        weaker: Floats = self._other_below[np.searchsorted(self._others, self._at, side=side)]
        return weaker

    def own_below(self) -> Floats:
        """Items of the class that are weaker than each of them, (P, B)."""
        weaker: Floats = self._own_below[np.searchsorted(self._at, self._at, side="left")]
        return weaker


def mean_over_rankings(measure: Callable[[RankedItems], Floats], predictions: Predicted, counts: Floats) -> Floats:
    """The mean of a measure over the classes that occur in each draw, (B,); NaN where fewer than two do.

    Of two classes the second's alone, as `one_against_rest` has it.
    """
    asked = one_against_rest(predictions)
    if asked is None:
        return np.full(len(counts), np.nan)
    total, there = np.zeros((2, len(counts)))
    for positive, strength in zip(asked[0].T, asked[1].T, strict=True):
        ranking = RankedItems(strength, positive, counts)
        defined = np.minimum(*ranking.totals) > 0
        total += np.where(defined, measure(ranking), 0.0)
        there += defined
    return divided(total, there, np.nan)


def divided(above: Floats, below: Floats, otherwise: float = 0.0) -> Floats:
    """A quotient, elementwise; ``otherwise`` where the divisor is 0."""
    quotient: Floats = np.where(below != 0, above / np.where(below != 0, below, 1.0), otherwise)
    return quotient
