"""auroc: the area under the ROC curve; of several classes, the mean of each against the rest; of labels, each."""

from __future__ import annotations

from peftport.metrics.base import Metric, Predicted, one_against_rest


class Auroc(Metric):
    """The chance that an item of a class scores higher for it than one that is not of it, ties counting half."""

    name, title = "auroc", "AUROC"
    kinds = ("classification", "multi_label")

    def aggregate(self, predictions: Predicted) -> float | None:
        """Unweighted mean over the classes that occur."""
        asked = one_against_rest(predictions)
        if asked is None:
            return None
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(*asked, average="macro"))
