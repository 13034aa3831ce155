"""mean_absolute_error: how far the predicted numbers lie from the right ones on average, in the target's unit."""

from __future__ import annotations

import numpy as np

from peftport.metrics.base import Floats, Metric, Predicted


class MeanAbsoluteError(Metric):
    """Mean of the absolute differences; every item has its own."""

    name, title, higher_is_better = "mean_absolute_error", "mean absolute error", False
    kinds, bounds = ("regression",), (0.0, float("inf"))

    def per_item(self, predictions: Predicted) -> Floats:
        """The absolute difference of each item."""
        errors: Floats = np.abs(predictions.values.astype(np.float64) - predictions.targets)
        return errors
