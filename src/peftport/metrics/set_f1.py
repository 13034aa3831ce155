"""micro_f1, samples_f1: the F1 of sets of labels, counted over all items and labels at once, and item by item."""

from __future__ import annotations

import numpy as np

from peftport.metrics.base import Floats, Metric, Predicted, predicted_labels


class MicroF1(Metric):
    """2 x right / (said + true), where each label of each item counts once."""

    name, title, kinds = "micro_f1", "micro F1", ("multi_label",)

    def aggregate(self, predictions: Predicted) -> float | None:
        """0 where labels are true and none is said; not defined where none is either."""
        said, true = predicted_labels(predictions), predictions.targets.astype(np.bool_)
        size = int(said.sum() + true.sum())
        return float(2 * (said & true).sum() / size) if size else None

    def on_counts(self, predictions: Predicted, counts: Floats) -> Floats:
        """From how many labels of each item are right, and said or true, (B,)."""
        said, true = predicted_labels(predictions), predictions.targets.astype(np.bool_)
        right, size = counts @ (said & true).sum(1), counts @ (said.sum(1) + true.sum(1))
        scores: Floats = np.where(size > 0, 2 * right / np.maximum(size, 1), np.nan)
        return scores

    def defined_for(self, predictions: Predicted) -> bool:
        """Where any item has a label, whatever was predicted."""
        return bool(predictions.targets.any())


class SamplesF1(Metric):
    """The mean over items of the F1 between the labels that are said and those that are true."""

    name, title, kinds = "samples_f1", "F1 of an item's labels", ("multi_label",)

    def per_item(self, predictions: Predicted) -> Floats:
        """Each item's own; 1 where no label is true and none is said."""
        said, true = predicted_labels(predictions), predictions.targets.astype(np.bool_)
        size = said.sum(1) + true.sum(1)
        scores: Floats = np.where(size == 0, 1.0, 2 * (said & true).sum(1) / np.maximum(size, 1))
        return scores
