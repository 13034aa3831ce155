"""macro_f1, weighted_f1: the harmonic mean of precision and recall of each class, averaged over classes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from peftport.metrics.base import Floats, Metric, Predicted, predicted_classes
from peftport.metrics.counts import confusions, divided


class MacroF1(Metric):
    """The unweighted mean over the classes that occur or are predicted."""

    name, title = "macro_f1", "macro F1"
    average: ClassVar[str] = "macro"

    def aggregate(self, predictions: Predicted) -> float | None:
        """A class that is never predicted has an F1 of 0."""
        from sklearn.metrics import f1_score

        return float(
            f1_score(predictions.targets, predicted_classes(predictions), average=self.average, zero_division=0.0)
        )

    def on_counts(self, predictions: Predicted, counts: Floats) -> Floats:
        """From the confusion tables of all draws."""
        tables = confusions(predictions, counts)
        rows, either = tables.sum(2), tables.sum(1) + tables.sum(2)
        each = divided(2 * tables.diagonal(axis1=1, axis2=2), either)  # (B, C)
        weights = self.class_weights(rows, either)
        return divided((each * weights).sum(1), weights.sum(1), np.nan)

    def class_weights(self, rows: Floats, either: Floats) -> Floats:
        """How much each class counts; how often it occurs, and occurs or is predicted, both (B, C)."""
        return (either > 0).astype(np.float64)


class WeightedF1(MacroF1):
    """The mean weighted by how often each class occurs."""

    name, title, average = "weighted_f1", "weighted F1", "weighted"

    def class_weights(self, rows: Floats, either: Floats) -> Floats:
        """How often the class occurs."""
        return rows
