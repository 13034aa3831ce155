"""What a metric is: a pure function of one test's predictions, with a name, a title and a direction.

Shapes: N items, C classes, B draws.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
# What was predicted for an item of a completion task: the log-probability, in nats, of all tokens of its first
# reference, how many these are (the end token included), and the generated answer, None where none was generated.
ANSWER = np.dtype([("log_likelihood", np.float64), ("tokens", np.int64), ("text", object)])


class Predicted(Protocol):
    """The predictions of one test: what was predicted for N items, ``values`` (N, ...), and what is right."""

    @property
    def kind(self) -> str:
        """The kind of task, which says what values and targets are."""

    @property
    def values(self) -> npt.NDArray[Any]:
        """What was predicted for each item, (N, ...): of a classification the scores of its classes, (N, C).

        Of a completion a record of the fields of `ANSWER`, (N,).
        """

    @property
    def targets(self) -> npt.NDArray[Any]:
        """What is right for each item, (N, ...): of a classification the right class, (N,).

        Of a completion a tuple of one or more reference texts, (N,).
        """


@dataclass(frozen=True, eq=False)
class Drawn:
    """Some items of a test, (N, ...)."""

    kind: str
    values: npt.NDArray[Any]
    targets: npt.NDArray[Any]


class Metric(ABC):
    """One number for a test. A metric overrides ``per_item``, or ``aggregate``, or both.

    One without ``per_item`` may override ``on_counts`` too, which makes its intervals and tests over items fast.

    Attributes:
        name: the column, the key and the word after ``--metric``.
        title: what people read.
        higher_is_better: the direction.
        kinds: the kinds of task whose predictions it measures.
        bounds: the lowest and the highest value that it can take.
        needs: what a test must have for the metric to be defined, for the message where it lacks it; empty: nothing
            that can be named.

    """

    name: str
    title: str
    higher_is_better: bool = True
    kinds: ClassVar[tuple[str, ...]] = ("classification",)
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    needs: ClassVar[str] = ""

    def per_item(self, predictions: Predicted) -> npt.NDArray[Any] | None:
        """The value of each item, (N,), whose mean is the metric; None where it belongs to the whole test only.

        A metric of generated answers has a value for each item that has one, which are the same items for every arm.
        """
        return None

    def aggregate(self, predictions: Predicted) -> float | None:
        """The value of the whole test; None where it is not defined."""
        each = self.per_item(predictions)
        return None if each is None or not len(each) else float(each.mean())

    def on_counts(self, predictions: Predicted, counts: Floats) -> Floats:
        """The values of B tests that hold each item so many times, counts (B, N) -> (B,); NaN where not defined.

        Counts are whole numbers. The same as ``aggregate`` of the items so often repeated, which is what this computes
        where the items have no value of their own.
        """
        each = self.per_item(predictions)
        if each is not None:
            means: Floats = counts @ each / counts.sum(1)
            return means
        values = np.full(len(counts), np.nan)
        with unchecked():
            for row, draw in enumerate(counts):
                at = np.repeat(np.arange(len(draw)), draw.astype(np.int64))
                value = self.aggregate(Drawn(predictions.kind, predictions.values[at], predictions.targets[at]))
                values[row] = np.nan if value is None else value
        return values

    def defined_for(self, predictions: Predicted) -> bool:
        """Whether the tested items have a value; a metric that some predictions leave undefined goes by the targets."""
        return self.aggregate(predictions) is not None


def varies(values: npt.NDArray[Any]) -> bool:
    """Whether numbers (N,) are not all the same."""
    return bool(len(values)) and bool((values != values[0]).any())


@contextmanager
def unchecked() -> Iterator[None]:
    """Within it scikit-learn does not check again what is known to be whole and finite: that takes most of its time."""
    from sklearn import config_context

    with config_context(assume_finite=True, skip_parameter_validation=True):
        yield


def predicted_classes(predictions: Predicted) -> npt.NDArray[np.int64]:
    """The class with the highest score, (N,)."""
    classes: npt.NDArray[np.int64] = predictions.values.argmax(1)
    return classes


def predicted_labels(predictions: Predicted) -> npt.NDArray[np.bool_]:
    """Which labels of a multi-label task are said, (N, L): those with a probability over one half, a logit over 0."""
    labels: npt.NDArray[np.bool_] = predictions.values > 0
    return labels


def margins(predictions: Predicted) -> npt.NDArray[Any]:
    """Score of the second of two classes over the first, (N,)."""
    margin: npt.NDArray[Any] = predictions.values[:, 1] - predictions.values[:, 0]
    return margin


def log_probabilities(predictions: Predicted) -> Floats:
    """Log of the softmax of the scores, (N, C): what the training's cross-entropy takes for the probabilities."""
    from scipy.special import log_softmax

    log_probs: Floats = log_softmax(predictions.values.astype(np.float64), axis=1)
    return log_probs


def one_against_rest(predictions: Predicted) -> tuple[npt.NDArray[np.bool_], npt.NDArray[Any]] | None:
    """Which items are of a class, and how strongly each is said to be: the question of a ranking, twice (N, K).

    Two classes ask one question, of the second by its margin. With more, each class that occurs is one question, asked
    by its probability. Of sets of labels each label that some items have and others have not is one question, asked by
    its logit. None where there is no question.
    """
    if predictions.kind == "multi_label":
        has = predictions.targets.astype(np.bool_)
        asked = has.any(0) & ~has.all(0)
        return (has[:, asked], predictions.values[:, asked]) if asked.any() else None
    present = np.unique(predictions.targets)
    if len(present) < 2:
        return None
    if predictions.values.shape[1] == 2:
        return (predictions.targets == 1)[:, None], margins(predictions)[:, None]
    return predictions.targets[:, None] == present, np.exp(log_probabilities(predictions))[:, present]
