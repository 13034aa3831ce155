"""average_precision: the area under the precision-recall curve; of several classes or labels, the mean of each."""

from __future__ import annotations

import numpy as np

from peftport.metrics.base import Floats, Metric, Predicted, one_against_rest
from peftport.metrics.counts import RankedItems, divided, mean_over_rankings


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

    def on_counts(self, predictions: Predicted, counts: Floats) -> Floats:
        """From strengths that are sorted once."""
        return mean_over_rankings(_precision, predictions, counts)


def _precision(ranking: RankedItems) -> Floats:
    """Precision where each item of the class is the weakest that is taken, averaged over them, (B,)."""
    positives, negatives = ranking.totals
    right, wrong = positives - ranking.own_below(), negatives - ranking.other_below("left")
    return divided(np.einsum("pb,pb->b", ranking.positives, divided(right, right + wrong)), positives)
