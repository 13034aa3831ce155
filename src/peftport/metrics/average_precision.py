"""average_precision: the area under the precision-recall curve; of several classes or labels, the mean of each."""

from __future__ import annotations

from peftport.metrics.base import Metric, Predicted, one_against_rest


class AveragePrecision(Metric):
    """Precision, averaged over the recalls that ever lower thresholds reach."""

    name, title = "average_precision", "average precision"
    kinds = ("classification", "multi_label")

    def aggregate(self, predictions: Predicted) -> float | None:
        """Unweighted mean over the classes that occur; of two classes the second's."""
        asked = one_against_rest(predictions)
        if asked is None:
            return None
        from sklearn.metrics import average_precision_score

        return float(average_precision_score(*asked, average="macro"))
