"""rmse: the root of the mean squared difference between predicted and right numbers, in the target's unit."""

from __future__ import annotations

import numpy as np

from peftport.metrics.base import Floats, Metric, Predicted


class Rmse(Metric):
    """Root mean squared error. It is no mean over items, so its intervals come from resampled items."""

    name, title, higher_is_better = "rmse", "root mean squared error", False
    kinds, bounds = ("regression",), (0.0, float("inf"))

    def aggregate(self, predictions: Predicted) -> float | None:
        """Of no items there is none."""
        if not len(predictions.targets):
            return None
        from sklearn.metrics import root_mean_squared_error

        return float(root_mean_squared_error(predictions.targets, predictions.values))

    def on_counts(self, predictions: Predicted, counts: Floats) -> Floats:
        """The roots of the weighted means of the squared errors, (B,)."""
        squares = (predictions.values - predictions.targets) ** 2
        with np.errstate(invalid="ignore"):  # of no items there is none
            found: Floats = np.sqrt(counts @ squares / counts.sum(1))
        return found
