"""matthews: the correlation of predicted and right classes (Matthews 1975; of several classes, Gorodkin 2004)."""

from __future__ import annotations

import numpy as np

from peftport.metrics.base import Floats, Metric, Predicted, predicted_classes
from peftport.metrics.counts import confusions, divided


class Matthews(Metric):
    """1 where all items are right, 0 as by chance or where one class alone is predicted."""

    name, title, bounds = "matthews", "Matthews correlation", (-1.0, 1.0)

    def aggregate(self, predictions: Predicted) -> float | None:
        """0 where but one class occurs and is predicted: there is nothing to correlate."""
        from sklearn.metrics import matthews_corrcoef

        picks = predicted_classes(predictions)
        if len(np.union1d(predictions.targets, picks)) < 2:
            return 0.0
        return float(matthews_corrcoef(predictions.targets, picks))

    def on_counts(self, predictions: Predicted, counts: Floats) -> Floats:
        """From the confusion tables of all draws."""
        tables = confusions(predictions, counts)
        rows, columns, n = tables.sum(2), tables.sum(1), tables.sum((1, 2))
        together = tables.trace(axis1=1, axis2=2) * n - (rows * columns).sum(1)
        spread = (n**2 - (rows**2).sum(1)) * (n**2 - (columns**2).sum(1))
        return divided(together, np.sqrt(spread))
