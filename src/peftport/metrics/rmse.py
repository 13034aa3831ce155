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
        errors = predictions.values.astype(np.float64) - predictions.targets
        return float(np.sqrt(np.mean(errors**2)))

    def on_counts(self, predictions: Predicted, counts: Floats) -> Floats:
        """The roots of the weighted means of the squared errors, (B,)."""
        squares = (predictions.values - predictions.targets) ** 2
        with np.errstate(invalid="ignore"):  # of no items there is none
            rmse: Floats = np.sqrt(counts @ squares / counts.sum(1))
        return rmse
