"""balanced_accuracy: the mean of the accuracies within each class, so that frequent classes weigh no more."""

from __future__ import annotations

import numpy as np

from peftport.metrics.base import Floats, Metric, Predicted, predicted_classes
from peftport.metrics.counts import confusions, divided


class BalancedAccuracy(Metric):
    """Recall, averaged over the classes that occur (Brodersen et al. 2010, ICPR)."""

    name, title = "balanced_accuracy", "balanced accuracy"

    def aggregate(self, predictions: Predicted) -> float | None:
        """Macro recall is scikit-learn's balanced accuracy, without its warning of classes that do not occur."""
        from sklearn.metrics import recall_score

        present = np.unique(predictions.targets)
        return float(recall_score(predictions.targets, predicted_classes(predictions), labels=present, average="macro"))

    def on_counts(self, predictions: Predicted, counts: Floats) -> Floats:
        """From the confusion tables of all draws."""
        tables = confusions(predictions, counts)
        hits, rows = tables.diagonal(axis1=1, axis2=2), tables.sum(2)
        return divided(divided(hits, rows).sum(1), (rows > 0).sum(1), np.nan)
