"""accuracy_at_median: the accuracy of two classes, with a threshold that no label was needed for.

It asks whether a module ranks the items well although its scores lean towards one class, as those of a module that was
ported without training may. The threshold lies at the median of the margins of the tested items.
"""

from __future__ import annotations

import numpy as np

from peftport.metrics.base import Metric, Predicted, margins


class AccuracyAtMedian(Metric):
    """Accuracy of two classes, the half of the items with the higher margins being given the second."""

    name, title = "accuracy_at_median", "accuracy at the median threshold"

    def aggregate(self, predictions: Predicted) -> float | None:
        """The median is that of all items, so that no item has a value of its own."""
        if predictions.values.shape[1] != 2:
            return None
        margin = margins(predictions)
        return float(((margin > np.median(margin)) == (predictions.targets == 1)).mean())
