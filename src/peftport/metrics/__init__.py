"""Metrics by name: one file and one line each. A metric is a pure function of one test's predictions.

What is measured here becomes a column of every table of runs; what a study stores are the predictions themselves.
"""

from __future__ import annotations

from peftport.core.errors import UnknownName
from peftport.metrics.accuracy import Accuracy
from peftport.metrics.accuracy_at_median import AccuracyAtMedian
from peftport.metrics.auroc import Auroc
from peftport.metrics.average_precision import AveragePrecision
from peftport.metrics.balanced_accuracy import BalancedAccuracy
from peftport.metrics.base import Metric, Predicted, unchecked
from peftport.metrics.calibration_error import CalibrationError
from peftport.metrics.correlation import Pearson, Spearman
from peftport.metrics.f1 import MacroF1, WeightedF1
from peftport.metrics.log_loss import LogLoss
from peftport.metrics.matthews import Matthews
from peftport.metrics.mean_absolute_error import MeanAbsoluteError
from peftport.metrics.rmse import Rmse
from peftport.metrics.set_f1 import MicroF1, SamplesF1
from peftport.metrics.subset_accuracy import SubsetAccuracy

# The order of the columns.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Accuracy(), Auroc(), AccuracyAtMedian(), BalancedAccuracy(), MacroF1(), WeightedF1(), Matthews(),
        AveragePrecision(), LogLoss(), CalibrationError(), MicroF1(), SamplesF1(), SubsetAccuracy(),
        Rmse(), Pearson(), Spearman(), MeanAbsoluteError(),
    )
}  # fmt: skip


def metric_named(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UnknownName: there is none; the message suggests the nearest.

    """
    if name not in METRICS:
        raise UnknownName.of("metric", name, METRICS)
    return METRICS[name]


def metrics_of(*kinds: str) -> dict[str, Metric]:
    """The metrics that measure tasks of any of these kinds, by name, in the order of the columns."""
    return {name: metric for name, metric in METRICS.items() if set(kinds) & set(metric.kinds)}


def measured_by_all(predictions: Predicted) -> dict[str, float | None]:
    """The value of every metric of the kind of task that was tested, by name; None where a metric is not defined."""
    with unchecked():
        return {name: metric.aggregate(predictions) for name, metric in metrics_of(predictions.kind).items()}
