"""matthews: the correlation of predicted and right classes (Matthews 1975; of several classes, Gorodkin 2004)."""

from __future__ import annotations

import numpy as np

from peftport.metrics.base import Metric, Predicted, predicted_classes


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
