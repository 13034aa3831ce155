"""auroc: the area under the ROC curve; of several classes, the mean of each against the rest; of labels, each."""

from __future__ import annotations

import numpy as np

from peftport.metrics.base import Floats, Metric, Predicted, one_against_rest
from peftport.metrics.counts import RankedItems, divided, mean_over_rankings


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

    def on_counts(self, predictions: Predicted, counts: Floats) -> Floats:
        """From strengths that are sorted once."""
        return mean_over_rankings(_area, predictions, counts)


def _area(ranking: RankedItems) -> Floats:
    """The share of pairs in which the own item is the stronger, ties half, (B,)."""
    positives, negatives = ranking.totals
    below = ranking.other_below("left") + ranking.other_below("right")
    return divided(np.einsum("pb,pb->b", ranking.positives, below), 2 * positives * negatives)
