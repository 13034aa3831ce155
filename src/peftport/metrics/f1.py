"""macro_f1, weighted_f1: the harmonic mean of precision and recall of each class, averaged over classes."""

from __future__ import annotations

from typing import ClassVar

from peftport.metrics.base import Metric, Predicted, predicted_classes


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


class WeightedF1(MacroF1):
    """The mean weighted by how often each class occurs."""

    name, title, average = "weighted_f1", "weighted F1", "weighted"
