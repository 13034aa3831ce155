"""macro_f1, weighted_f1: the harmonic mean of precision and recall of each class or label, averaged over them."""

from __future__ import annotations

from typing import ClassVar

from peftport.metrics.base import Metric, Predicted, predicted_classes, predicted_labels


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


class WeightedF1(MacroF1):
    """The mean weighted by how often each class or label occurs."""

    name, title, average = "weighted_f1", "weighted F1", "weighted"
