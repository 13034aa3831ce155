"""Which metric a test is judged by, where none was asked for: accuracy, unless one class is nearly all there is."""

from __future__ import annotations

from dataclasses import dataclass

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


def choose_metric(targets: npt.NDArray[np.int64], asked: str | None = None) -> MetricChoice:
    """The metric that was asked for, or the one that fits the classes that are right, (N,).

    Raises:
        UnknownName: there is no metric of the name that was asked for.

    """
    majority = float(np.bincount(targets).max() / len(targets))
    if asked is not None:
        return MetricChoice(metric_named(asked).name, majority)
    if majority <= LOPSIDED:
        return MetricChoice(USUAL, majority)
    note = (
        f"{majority:.0%} of the test items are of one class, so the test is judged by "
        f"{metric_named(OF_LOPSIDED).title}; --metric accuracy judges it by accuracy"
    )
    return MetricChoice(OF_LOPSIDED, majority, note)


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
