"""accuracy: the share of items whose right class has the highest score."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from peftport.metrics.base import Metric, Predicted, predicted_classes


class Accuracy(Metric):
    """Share of items that are right; an item is right or wrong."""

    name, title = "accuracy", "accuracy"

    def per_item(self, predictions: Predicted) -> npt.NDArray[np.bool_]:
        """Which items are right."""
        right: npt.NDArray[np.bool_] = predicted_classes(predictions) == predictions.targets
        return right
