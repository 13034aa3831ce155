"""accuracy_at_median: the accuracy of two classes, with a threshold that no label was needed for.

It asks whether a module ranks the items well although its scores lean towards one class, as those of a module that was
ported without training may. The threshold lies at the median of the margins of the tested items.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from peftport.metrics.base import Floats, Metric, Predicted, margins


class AccuracyAtMedian(Metric):
    """Accuracy of two classes, the half of the items with the higher margins being given the second."""

    name, title = "accuracy_at_median", "accuracy at the median threshold"

    def aggregate(self, predictions: Predicted) -> float | None:
        """The median is that of all items, so that no item has a value of its own."""
        if predictions.values.shape[1] != 2:
            return None
        margin = margins(predictions)
        return float(((margin > np.median(margin)) == (predictions.targets == 1)).mean())

    def on_counts(self, predictions: Predicted, counts: Floats) -> Floats:
        """From margins that are sorted once."""
        if predictions.values.shape[1] != 2:
            return np.full(len(counts), np.nan)
        margin = margins(predictions)
        order: npt.NDArray[np.int64] = np.argsort(margin, kind="stable")
        held, ordered = counts[:, order], margin[order]
        second, up_to = predictions.targets[order] == 1, np.cumsum(held, axis=1)
        n = up_to[:, -1]
        # The two items in the middle, the same one twice where their number is odd.
        middle = np.stack([(n - 1) // 2, n // 2])
        medians = ordered[(up_to <= middle[:, :, None]).sum(2)].mean(0)
        above = np.searchsorted(ordered, medians, side="right")[:, None]
        given_second = np.arange(len(ordered)) >= above
        accuracy: Floats = (held * (given_second == second)).sum(1) / n
        return accuracy
