"""Metrics by name: one file and one line each. A metric is a pure function of one test's predictions.

What is measured here becomes a column of every table of runs; what a study stores are the predictions themselves. A
user's own scorer of answers, ``FILE.py:function``, is a metric too, but computed only where it is asked for.
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
from peftport.metrics.chrf import Chrf
from peftport.metrics.contains import Contains
from peftport.metrics.correlation import Pearson, Spearman
from peftport.metrics.exact_match import ExactMatch
from peftport.metrics.f1 import MacroF1, WeightedF1
from peftport.metrics.json_answers import JsonFields, JsonValid
from peftport.metrics.log_loss import LogLoss
from peftport.metrics.matthews import Matthews
from peftport.metrics.mean_absolute_error import MeanAbsoluteError
from peftport.metrics.negative_log_likelihood import NegativeLogLikelihood
from peftport.metrics.perplexity import Perplexity
from peftport.metrics.rmse import Rmse
from peftport.metrics.rouge_l import RougeL
from peftport.metrics.scorer import is_scorer, read_scorer, scorer_named
from peftport.metrics.set_f1 import MicroF1, SamplesF1
from peftport.metrics.subset_accuracy import SubsetAccuracy
from peftport.metrics.token_f1 import TokenF1

# The order of the columns. By the first of its kind a test is judged where no metric is asked for.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Accuracy(), Auroc(), AccuracyAtMedian(), BalancedAccuracy(), MacroF1(), WeightedF1(), Matthews(),
        AveragePrecision(), LogLoss(), CalibrationError(), MicroF1(), SamplesF1(), SubsetAccuracy(),
        Rmse(), Pearson(), Spearman(), MeanAbsoluteError(),
        NegativeLogLikelihood(), Perplexity(), ExactMatch(), Contains(), TokenF1(), RougeL(), Chrf(), JsonValid(),
        JsonFields(),
    )
}  # fmt: skip


def metric_named(name: str) -> Metric:
    """The metric of that name, or the scorer that ``FILE.py:function`` names.

    Raises:
        UnknownName: there is none; the message suggests the nearest.
        BadRequest: a scorer that cannot be read.

    """
    if is_scorer(name):
        return scorer_named(name)
    if name not in METRICS:
        raise UnknownName.of("metric", name, METRICS, "or FILE.py:function for a scorer of your own")
    return METRICS[name]


def asked_metric(name: str) -> Metric:
    """The metric that a new request names: as `metric_named`, but a scorer's file is read anew."""
    return read_scorer(name) if is_scorer(name) else metric_named(name)


def metrics_of(*kinds: str) -> dict[str, Metric]:
    """The metrics that measure tasks of any of these kinds, by name, in the order of the columns."""
    return {name: metric for name, metric in METRICS.items() if set(kinds) & set(metric.kinds)}


def measured_by_all(predictions: Predicted) -> dict[str, float | None]:
    """The value of every metric of the kind of task that was tested, by name; None where a metric is not defined."""
    with unchecked():
        return {name: metric.aggregate(predictions) for name, metric in metrics_of(predictions.kind).items()}


def items_measured(metric: Metric, predictions: Predicted) -> int:
    """How many items of a test the metric is over: all, or those that have what it measures, such as an answer."""
    each = metric.per_item(predictions)
    return len(predictions.targets) if each is None else len(each)
