"""Which metric a test is judged by, where none was asked for: accuracy, unless one class is nearly all there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from peftport.core.errors import BadRequest
from peftport.metrics import metric_named
from peftport.metrics.base import Predicted

LOPSIDED = 0.8
USUAL, OF_LOPSIDED = "accuracy", "balanced_accuracy"


@dataclass(frozen=True)
class MetricChoice:
    """What a test is judged by.

    Attributes:
        name: the metric.
        majority: the share of the most frequent class, which naming it every time would score in accuracy.
        note: why it is not accuracy, where nobody asked for another; else empty.

    """

    name: str
    majority: float
    note: str = ""

    @property
    def title(self) -> str:
        """The name of the metric as people read it."""
        return metric_named(self.name).title


def majority_share(targets: npt.NDArray[np.int64]) -> float:
    """The share of the most frequent class among the classes that are right, (N,)."""
    return float(np.bincount(targets).max() / len(targets))


def choose_metric(targets: npt.NDArray[np.int64], asked: str | None = None) -> MetricChoice:
    """The metric that was asked for, or the one that fits the classes that are right, (N,).

    Raises:
        UnknownName: there is no metric of the name that was asked for.

    """
    majority = majority_share(targets)
    if asked is not None:
        return MetricChoice(metric_named(asked).name, majority)
    if majority <= LOPSIDED:
        return MetricChoice(USUAL, majority)
    note = (
        f"{majority:.0%} of the test items are of one class, so the test is judged by "
        f"{metric_named(OF_LOPSIDED).title}; --metric accuracy judges it by accuracy"
    )
    return MetricChoice(OF_LOPSIDED, majority, note)


@dataclass(frozen=True, eq=False)
class StudyMetric:
    """What a study is judged by: one metric for all of its tasks, so that gains can be pooled.

    Attributes:
        name: the metric.
        majorities: by task, the share of the most frequent class of its test items; only of tasks where it is known.
        note: why it is not accuracy, where nobody asked for another; else empty.

    """

    name: str
    majorities: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def title(self) -> str:
        """The name of the metric as people read it."""
        return metric_named(self.name).title


def choose_for_study(majorities: Mapping[str, float], asked: str | None = None) -> StudyMetric:
    """The metric that was asked for, or the one that fits all test sets: one lopsided set decides for the study.

    Raises:
        UnknownName: there is no metric of the name that was asked for.

    """
    if asked is not None:
        return StudyMetric(metric_named(asked).name, majorities)
    lopsided = {task: share for task, share in majorities.items() if share > LOPSIDED}
    if not lopsided:
        return StudyMetric(USUAL, majorities)
    shares = " and ".join(f"{share:.0%} of those of {task}" for task, share in lopsided.items())
    note = (
        f"Of the test items {shares} are of one class, so the study is judged by {metric_named(OF_LOPSIDED).title}; "
        "--metric accuracy judges it by accuracy"
    )
    return StudyMetric(OF_LOPSIDED, majorities, note)


def check_defined(metric: str, predictions: Predicted) -> None:
    """Refuse a metric that the tested items do not have.

    Raises:
        BadRequest: as said.

    """
    if metric_named(metric).aggregate(predictions) is None:
        present = len(np.unique(predictions.targets))
        raise BadRequest(
            f"--metric {metric}: expected one that is defined for {predictions.values.shape[1]} labels, of which "
            f"{present} occur among {len(predictions.targets)} test items, got one that is not; name another"
        )
