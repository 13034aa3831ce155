"""calibration_error: how far stated confidence is from the share that is right (Guo et al. 2017, arXiv 1706.04599)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from peftport.metrics.base import Floats, Metric, Predicted, log_probabilities, predicted_classes

BINS = 15


class CalibrationError(Metric):
    """Expected calibration error of the predicted class over 15 bins of equal width."""

    name, title, higher_is_better = "calibration_error", "calibration error", False

    def aggregate(self, predictions: Predicted) -> float | None:
        """Mean distance of confidence from accuracy, each bin weighing as many items as it holds."""
        from sklearn.calibration import calibration_curve

        right, sure, bins = _binned(predictions)
        accuracies, confidences = calibration_curve(right, sure, n_bins=BINS, pos_label=True)
        counts = np.bincount(bins, minlength=BINS)
        return float(np.abs(accuracies - confidences) @ counts[counts > 0] / len(sure))

    def on_counts(self, predictions: Predicted, counts: Floats) -> Floats:
        """A bin's weight times its distance is the distance of the sums over its items."""
        right, sure, bins = _binned(predictions)
        apart = np.zeros((len(sure), BINS))
        apart[np.arange(len(sure)), bins] = right - sure
        error: Floats = np.abs(counts @ apart).sum(1) / counts.sum(1)
        return error


def _binned(predictions: Predicted) -> tuple[npt.NDArray[np.bool_], Floats, npt.NDArray[np.int64]]:
    """Whether each item is right, how sure its class was said to be, and the bin of that, (N,) each."""
    right = predicted_classes(predictions) == predictions.targets
    sure: Floats = np.exp(log_probabilities(predictions)).max(1).clip(0.0, 1.0)
    inner = np.linspace(0.0, 1.0, BINS + 1)[1:-1]  # the edges between calibration_curve's bins
    return right, sure, np.searchsorted(inner, sure)
