"""macro_f1, weighted_f1: the harmonic mean of precision and recall of each class or label, averaged over them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from peftport.metrics.base import Floats, Metric, Predicted, predicted_classes, predicted_labels
from peftport.metrics.counts import confusions, divided


class MacroF1(Metric):
    """The unweighted mean over the classes, or the labels, that occur or are predicted."""

    name, title = "macro_f1", "macro F1"
    kinds = ("classification", "multi_label")
    average: ClassVar[str] = "macro"

    def aggregate(self, predictions: Predicted) -> float | None:
        """A class that is never predicted has an F1 of 0. Of sets of labels none is defined where none occurs."""
        from sklearn.metrics import f1_score

        targets = predictions.targets
        said = predicted_labels(predictions) if predictions.kind == "multi_label" else predicted_classes(predictions)
        if predictions.kind == "multi_label":
            counted = targets.any(0) | said.any(0)
            if not counted.any():
                return None
            if counted.sum() == 1:  # one column would be taken for two classes
                return float(f1_score(targets[:, counted][:, 0], said[:, counted][:, 0], zero_division=0.0))
            targets, said = targets[:, counted], said[:, counted]
        return float(f1_score(targets, said, average=self.average, zero_division=0.0))

    def defined_for(self, predictions: Predicted) -> bool:
        """Where any item has a label, whatever was predicted; of classes always."""
        return predictions.kind != "multi_label" or bool(predictions.targets.any())

    def on_counts(self, predictions: Predicted, counts: Floats) -> Floats:
        """From the confusion tables of all draws; of sets of labels draw by draw."""
        if predictions.kind == "multi_label":
            return super().on_counts(predictions, counts)
        tables = confusions(predictions, counts)
        rows, either = tables.sum(2), tables.sum(1) + tables.sum(2)
        each = divided(2 * tables.diagonal(axis1=1, axis2=2), either)  # (B, C)
        weights = self.class_weights(rows, either)
        return divided((each * weights).sum(1), weights.sum(1), np.nan)

    def class_weights(self, rows: Floats, either: Floats) -> Floats:
        """How much each class counts; how often it occurs, and occurs or is predicted, both (B, C)."""
        return (either > 0).astype(np.float64)


class WeightedF1(MacroF1):
    """The mean weighted by how often each class or label occurs."""

    name, title, average = "weighted_f1", "weighted F1", "weighted"

    def class_weights(self, rows: Floats, either: Floats) -> Floats:
        """How often the class occurs."""
        return rows
