"""subset_accuracy: the share of items whose labels are all said, and no other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from peftport.metrics.base import Metric, Predicted, predicted_labels


class SubsetAccuracy(Metric):
    """Share of items whose set of labels is exactly right."""

    name, title, kinds = "subset_accuracy", "subset accuracy", ("multi_label",)

    def per_item(self, predictions: Predicted) -> npt.NDArray[np.bool_]:
        """Which items are right in all labels."""
        right: npt.NDArray[np.bool_] = (predicted_labels(predictions) == predictions.targets).all(1)
        return right
