"""log_loss: the cross-entropy of the right classes under the softmax of the scores, in nats."""

from __future__ import annotations

import numpy as np

from peftport.metrics.base import Floats, Metric, Predicted, log_probabilities


class LogLoss(Metric):
    """Mean of minus the log of the right class's probability; the loss that training lowers."""

    name, title, higher_is_better, bounds = "log_loss", "log loss", False, (0.0, float("inf"))

    def per_item(self, predictions: Predicted) -> Floats:
        """Each item's own; it is not clipped, so a sure and wrong prediction costs what it says."""
        chosen = np.take_along_axis(log_probabilities(predictions), predictions.targets[:, None].astype(np.int64), 1)
        losses: Floats = -chosen[:, 0]
        return losses
