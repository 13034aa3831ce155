"""pearson, spearman: how far predicted numbers rise and fall with the right ones, and how far their ranks do.

Neither is defined where all predictions are the same number, as those of a head that was not trained are.
"""

from __future__ import annotations

import warnings

from peftport.metrics.base import Metric, Predicted, varies


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
