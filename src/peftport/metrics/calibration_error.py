"""calibration_error: how far stated confidence is from the share that is right (Guo et al. 2017, arXiv 1706.04599)."""

from __future__ import annotations

import numpy as np

from peftport.metrics.base import Metric, Predicted, log_probabilities, predicted_classes

BINS = 15


class CalibrationError(Metric):
    """Expected calibration error of the predicted class over 15 bins of equal width."""

    name, title, higher_is_better = "calibration_error", "calibration error", False

    def aggregate(self, predictions: Predicted) -> float | None:
        """Mean distance of confidence from accuracy, each bin weighing as many items as it holds."""
        from sklearn.calibration import calibration_curve

        right = predicted_classes(predictions) == predictions.targets
        sure = np.exp(log_probabilities(predictions)).max(1).clip(0.0, 1.0)
        accuracies, confidences = calibration_curve(right, sure, n_bins=BINS, pos_label=True)
        inner = np.linspace(0.0, 1.0, BINS + 1)[1:-1]  # the edges between calibration_curve's bins
        counts = np.bincount(np.searchsorted(inner, sure), minlength=BINS)
        return float(np.abs(accuracies - confidences) @ counts[counts > 0] / len(sure))
