"""Which metric a test is judged by, where none was asked for: the usual one of its kind of task.

A classification is judged by accuracy, unless one class is nearly all there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from peftport.core.errors import BadRequest
from peftport.metrics import items_measured, measured_by_all, metric_named, metrics_of
from peftport.metrics.base import Predicted
from peftport.metrics.scorer import Scorer
from peftport.metrics.texts import answered

LOPSIDED = 0.8
USUAL, OF_LOPSIDED = "accuracy", "balanced_accuracy"
LONG_ANSWERS = "rouge_l"  # judges a study of completions some of whose references are long


@dataclass(frozen=True)
class MetricChoice:
    """What a test is judged by.

    Attributes:
        name: the metric.
        majority: of a classification, the share of the most frequent class, which naming it every time would score in
            accuracy; None for other kinds of task.
        note: why it is not the usual metric, where nobody asked for another; else empty.

    """

    name: str
    majority: float | None = None
    note: str = ""

    @property
    def title(self) -> str:
        """The name of the metric as people read it."""
        return metric_named(self.name).title

    def items(self, test: Predicted) -> int:
        """How many of a test's items are judged: all, or those for which an answer was generated."""
        return items_measured(metric_named(self.name), test)

    def as_json(self) -> dict[str, Any]:
        """Name, majority and note; of a user's own scorer also the sha256 of its file."""
        metric = metric_named(self.name)
        return asdict(self) | ({"sha256": metric.sha256} if isinstance(metric, Scorer) else {})


class Judged(Predicted, Protocol):
    """Predictions that know by which metric they are usually judged."""

    def usual_metric(self) -> MetricChoice:
        """The metric that the test is judged by where none is asked for."""


def choose_metric(test: Judged, asked: str | None = None) -> MetricChoice:
    """The metric that was asked for, or the one that fits the kind of task and what is right for its items.

    Raises:
        UnknownName: there is no metric of the name that was asked for.
        BadRequest: it does not measure tasks of this kind.

    """
    if asked is None:
        return test.usual_metric()
    check_measures(asked, test.kind)
    return MetricChoice(asked, test.usual_metric().majority)


def check_measures(metric: str, kind: str) -> None:
    """Refuse a metric that does not measure tasks of a kind.

    Raises:
        UnknownName: there is no metric of that name.
        BadRequest: it is of tasks of other kinds.

    """
    kinds = metric_named(metric).kinds
    if kind not in kinds:
        raise BadRequest(
            f"--metric {metric}: expected one that measures a task of kind {kind} ({', '.join(metrics_of(kind))}), "
            f"got one of {' and '.join(kinds)}; name another"
        )


def first_of(kind: str) -> MetricChoice:
    """The first of the metrics of a kind of task."""
    return MetricChoice(next(iter(metrics_of(kind))))


def majority_share(targets: npt.NDArray[np.int64]) -> float:
    """The share of the most frequent class among the classes that are right, (N,)."""
    return float(np.bincount(targets).max() / len(targets))


def choice_for_classes(targets: npt.NDArray[np.int64]) -> MetricChoice:
    """Accuracy, or balanced accuracy where over 80 % of N items are of one class. ``targets``: right classes, (N,)."""
    majority = majority_share(targets)
    if majority <= LOPSIDED:
        return MetricChoice(USUAL, majority)
    note = (
        f"{majority:.0%} of the test items are of one class, so the test is judged by "
        f"{metric_named(OF_LOPSIDED).title}; --metric accuracy judges it by accuracy"
    )
    return MetricChoice(OF_LOPSIDED, majority, note)


def measures_with(test: Predicted, metric: str) -> dict[str, float | None]:
    """The value of every metric of the test's kind, and of the one that it is judged by if it is a user's own."""
    measures = measured_by_all(test)
    return measures if metric in measures else {**measures, metric: metric_named(metric).aggregate(test)}


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


def choose_for_study(
    majorities: Mapping[str, float],
    asked: str | None = None,
    *,
    kinds: Iterable[str] = (),
    usual: Iterable[str] = (),
) -> StudyMetric:
    """The metric that was asked for, or the one that fits all test sets: one lopsided set decides for the study.

    Args:
        majorities: by task of classes, the share of its most frequent class.
        asked: the metric that was asked for.
        kinds: the kinds of the study's tasks, as far as they are known.
        usual: the metrics by which tests of other kinds than classes are usually judged.

    Raises:
        UnknownName: there is no metric of the name that was asked for.
        BadRequest: it does not measure all of these kinds; or none was asked for, and no metric is usual for all.

    """
    if asked is not None:
        for kind in kinds:
            check_measures(asked, kind)
        return StudyMetric(metric_named(asked).name, majorities)
    others = set(usual)
    if others and (len(set(kinds)) > 1 or len({metric_named(name).kinds for name in others}) > 1):
        raise BadRequest(
            f"tasks of kinds {' and '.join(sorted(set(kinds)))}: expected a metric that measures all of them, as none "
            "is usual for all; name one with --metric"
        )
    if others:
        return StudyMetric(LONG_ANSWERS if LONG_ANSWERS in others else min(others), majorities)
    lopsided = {task: share for task, share in majorities.items() if share > LOPSIDED}
    if not lopsided:
        return StudyMetric(USUAL, majorities)
    shares = " and ".join(f"{share:.0%} of those of {task}" for task, share in lopsided.items())
    note = (
        f"Of the test items {shares} are of one class, so the study is judged by {metric_named(OF_LOPSIDED).title}; "
        "--metric accuracy judges it by accuracy"
    )
    return StudyMetric(OF_LOPSIDED, majorities, note)


def check_defined(metric: str, test: Predicted) -> None:
    """Refuse a metric that the tested items do not have.

    Raises:
        BadRequest: as said.

    """
    chosen, present = metric_named(metric), f"{len(test.targets)} test items"
    if chosen.defined_for(test):
        return
    if chosen.needs:
        raise BadRequest(f"--metric {metric}: expected {chosen.needs}, got {present} without; name another")
    if test.kind == "classification":
        occurring = len(np.unique(test.targets))
        present = f"{test.values.shape[1]} labels, of which {occurring} occur among {present}"
    raise BadRequest(
        f"--metric {metric}: expected one that is defined for {present}, got one that is not; name another"
    )


def items_text(judged: MetricChoice, test: Predicted) -> str:
    """How many items were tested.

    Of classes also the share of the most frequent, which a constant answer scores; of completions how many of the items
    have a generated answer, where only some have one.
    """
    text = f"{len(test.targets)} test items"
    if judged.majority is not None:
        return f"{text}, {judged.majority:.3f} of them of the most frequent class"
    answers = len(answered(test)) if test.kind == "completion" else 0
    return f"{text}, {answers} of them with a generated answer" if 0 < answers < len(test.targets) else text
