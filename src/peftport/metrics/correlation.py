"""pearson, spearman: how far predicted numbers rise and fall with the right ones, and how far their ranks do.

    r = sum_i w_i (x_i - mean x) (y_i - mean y) / sqrt(sum_i w_i (x_i - mean x)^2  sum_i w_i (y_i - mean y)^2)

Neither is defined where all predictions are the same number, as those of a head that was not trained are. w_i is how
often a draw holds an item, and 1 in the test itself.

Shapes: N items, B draws, U numbers that differ.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from peftport.metrics.base import Floats, Metric, Predicted, varies

NUMBERS_AT_ONCE = 2**20  # of all draws that are computed together


class Pearson(Metric):
    """Pearson's correlation of predicted and right numbers."""

    name, title = "pearson", "Pearson correlation"
    kinds, bounds = ("regression",), (-1.0, 1.0)

    def aggregate(self, predictions: Predicted) -> float | None:
        """None where predictions or targets do not vary."""
        if not (varies(predictions.values) and varies(predictions.targets)):
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that hardly vary, which are measured all the same
            return self.correlation(predictions)

    def correlation(self, predictions: Predicted) -> float:
        """The correlation of numbers that vary."""
        from scipy.stats import pearsonr

        return float(pearsonr(predictions.values, predictions.targets).statistic)

    def on_counts(self, predictions: Predicted, counts: Floats) -> Floats:
        """The correlation in each of B draws, (B,), NaN where the numbers that it holds do not vary."""
        size = max(1, NUMBERS_AT_ONCE // counts.shape[1])
        parts = [counts[begin : begin + size] for begin in range(0, len(counts), size)]
        said, right = predictions.values, predictions.targets
        found = [_correlations(self.compared(said, part), self.compared(right, part), part) for part in parts]
        return np.concatenate(found) if found else np.zeros(0)

    def compared(self, numbers: npt.NDArray[Any], counts: Floats) -> Floats:
        """What is correlated of numbers (N,) in each draw, counts (B, N) -> (B, N)."""
        return np.broadcast_to(np.asarray(numbers, np.float64), counts.shape)

    def defined_for(self, predictions: Predicted) -> bool:
        """Where the right numbers vary, whatever was predicted."""
        return varies(predictions.targets)


class Spearman(Pearson):
    """Spearman's correlation: Pearson's of the ranks, ties by their mean rank."""

    name, title = "spearman", "Spearman correlation"

    def correlation(self, predictions: Predicted) -> float:
        """The correlation of the ranks of numbers that vary."""
        from scipy.stats import spearmanr

        return float(spearmanr(predictions.values, predictions.targets).statistic)

    def compared(self, numbers: npt.NDArray[Any], counts: Floats) -> Floats:
        """The rank of each item among those that a draw holds: the mean of the places of all that are equal."""
        _, group = np.unique(numbers, return_inverse=True)  # (N,), of U
        order = np.argsort(group, kind="stable")
        begins = np.searchsorted(group[order], np.arange(group.max() + 1))
        held = np.add.reduceat(counts[:, order], begins, axis=1)  # (B, U)
        ranks = np.cumsum(held, axis=1) - (held - 1) / 2
        found: Floats = ranks[:, group]
        return found


def _correlations(x: Floats, y: Floats, counts: Floats) -> Floats:
    """The correlation of x and y, (B, N) each, in draws that hold each item so many times, counts (B, N) -> (B,)."""
    (x, across_x), (y, across_y) = (_centred(numbers, counts) for numbers in (x, y))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.clip((counts * (x / across_x) * (y / across_y)).sum(1), -1.0, 1.0)
    return found


def _centred(numbers: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """The numbers of each draw about their mean, (B, N), and their length as a vector, (B, 1); NaN if all are equal."""
    held = counts > 0
    apart = np.where(held, numbers, -np.inf).max(1) > np.where(held, numbers, np.inf).min(1)
    about = numbers - ((counts * numbers).sum(1) / counts.sum(1))[:, None]
    across = np.sqrt((counts * about**2).sum(1))
    return about, np.where(apart, across, np.nan)[:, None]
