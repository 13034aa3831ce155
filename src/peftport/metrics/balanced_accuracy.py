"""balanced_accuracy: the mean of the accuracies within each class, so that frequent classes weigh no more."""

from __future__ import annotations

import numpy as np

from peftport.metrics.base import Metric, Predicted, predicted_classes


class BalancedAccuracy(Metric):
    """Recall, averaged over the classes that occur (Brodersen et al. 2010, ICPR)."""

    name, title = "balanced_accuracy", "balanced accuracy"

    def aggregate(self, predictions: Predicted) -> float | None:
        """Macro recall is scikit-learn's balanced accuracy, without its warning of classes that do not occur."""
        from sklearn.metrics import recall_score

        present = np.unique(predictions.targets)
        return float(recall_score(predictions.targets, predicted_classes(predictions), labels=present, average="macro"))
