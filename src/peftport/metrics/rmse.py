"""rmse: the root of the mean squared difference between predicted and right numbers, in the target's unit."""

from __future__ import annotations

from peftport.metrics.base import Metric, Predicted


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
