"""Every metric against its definition, computed another way, on drawn scores and classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from peftport.core.errors import UnknownName
from peftport.metrics import metric_named, metrics_of
from peftport.metrics.base import log_probabilities
from peftport.metrics.choice import choose_metric
from peftport.tasks.kinds.classification import Scores

OF_CLASSES = metrics_of("classification")
FIRST = ("accuracy", "auroc", "accuracy_at_median")  # the columns of old tables, in their order


@st.composite
def drawn_tests(draw: st.DrawFn) -> Scores:
    """Scores with ties, of 2 to 4 classes, some of which may not occur; sometimes far from zero."""
    classes, n = draw(st.integers(2, 4)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([0.5, 1.0, 30.0]))
    values = (rng.integers(-3, 4, (n, classes)) * scale).astype(np.float32)
    return Scores(values, rng.integers(0, draw(st.integers(1, classes)), n))


def softmax(scores: Scores) -> np.ndarray[Any, Any]:
    powers = np.exp(scores.values.astype(np.float64) - scores.values.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def pairs_in_order(strength: np.ndarray[Any, Any], own: np.ndarray[Any, Any]) -> float:
    """The share of (own, other) pairs where the own is stronger, ties half."""
    beside = strength[own][:, None] - strength[~own][None]
    return float((0.5 + 0.5 * np.sign(beside.astype(np.float64))).mean())


def counted(scores: Scores) -> dict[str, float | None]:
    """The classification metrics from the confusion matrix and the pairs, as text books have them."""
    picks, right, c = scores.values.argmax(1), scores.targets, scores.classes
    table = np.zeros((c, c))
    np.add.at(table, (right, picks), 1)
    rows, columns, hits, n = table.sum(1), table.sum(0), table.diagonal(), len(scores)
    there, either = rows > 0, rows + columns > 0
    f1 = 2 * hits[either] / (rows + columns)[either]
    spread = np.sqrt((n**2 - (columns**2).sum()) * (n**2 - (rows**2).sum()))
    strengths = (
        np.exp(log_probabilities(scores))
        if c > 2
        else (scores.values[:, 1] - scores.values[:, 0])[:, None].repeat(2, 1)
    )
    asked = np.flatnonzero(there) if c > 2 else [1]
    ranked = there.sum() > 1
    areas = [pairs_in_order(strengths[:, k], right == k) for k in asked] if ranked else []
    return {
        "accuracy": float((picks == right).mean()),
        "balanced_accuracy": float((hits[there] / rows[there]).mean()),
        "macro_f1": float(f1.mean()),
        "weighted_f1": float((f1 * rows[either]).sum() / n),
        "matthews": float((n * hits.sum() - (rows * columns).sum()) / spread) if spread else 0.0,
        "auroc": float(np.mean(areas)) if ranked else None,
    }


@given(drawn_tests())
@settings(max_examples=40, deadline=None)
def test_metrics_are_their_definitions(scores: Scores) -> None:
    found = scores.measures()
    assert found.keys() == OF_CLASSES.keys() and tuple(found)[:3] == FIRST
    for name, value in counted(scores).items():
        assert found[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name


@given(drawn_tests())
@settings(max_examples=40, deadline=None)
def test_metrics_of_confidence_are_their_definitions(scores: Scores) -> None:
    """Log loss where scikit-learn clips nothing; the calibration error bin by bin."""
    found, p = scores.measures(), softmax(scores)
    own = p[np.arange(len(scores)), scores.targets]
    if own.min() > 1e-9:
        wanted = sk.log_loss(scores.targets, p / p.sum(1, keepdims=True), labels=range(scores.classes))
        assert found["log_loss"] == pytest.approx(wanted, abs=1e-9)
    sure, right = p.max(1), scores.values.argmax(1) == scores.targets
    if (np.abs(sure * 15 - np.round(sure * 15)) > 1e-6).all():  # none on the edge of a bin
        bins = np.floor(sure * 15)
        parts = [(bins == b) for b in np.unique(bins)]
        error = sum(abs(right[part].mean() - sure[part].mean()) * part.sum() for part in parts) / len(scores)
        assert found["calibration_error"] == pytest.approx(error, abs=1e-9)


@given(drawn_tests())
@settings(max_examples=40, deadline=None)
def test_what_every_metric_promises(scores: Scores) -> None:
    """In its bounds; the mean of its items where it has them; no other for another order of the items."""
    order = np.random.default_rng(0).permutation(len(scores))
    shuffled = Scores(scores.values[order], scores.targets[order])
    for name, metric in OF_CLASSES.items():
        value, again, each = metric.aggregate(scores), metric.aggregate(shuffled), metric.per_item(scores)
        assert again == (None if value is None else pytest.approx(value, abs=1e-12)), name
        if value is not None:
            assert metric.bounds[0] - 1e-12 <= value <= metric.bounds[1] + 1e-12, name
        if each is not None:
            assert each.shape == (len(scores),) and value == pytest.approx(float(each.mean()), abs=1e-12)
        assert name == metric.name and metric.title


def test_perfect_predictions_have_the_best_value() -> None:
    targets = np.array([0, 1, 2, 1, 0])
    perfect, wrong = (Scores(np.eye(3, dtype=np.float32)[t] * 50, targets) for t in (targets, (targets + 1) % 3))
    for name, metric in OF_CLASSES.items():
        best, worse = metric.aggregate(perfect), metric.aggregate(wrong)
        if best is not None and worse is not None:
            assert best == pytest.approx(metric.bounds[1 if metric.higher_is_better else 0], abs=1e-9), name
            assert (best > worse) is metric.higher_is_better, name


def test_items_are_right_or_wrong_and_a_metric_has_a_name() -> None:
    scores = Scores(np.array([[1, 0], [0, 1]], np.float32), np.array([0, 0]))
    assert np.array_equal(scores.correct, [True, False]) and scores.correct.dtype == bool
    with pytest.raises(UnknownName, match="unknown metric 'acuracy': did you mean 'accuracy'"):
        metric_named("acuracy")


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_lopsided_sets_are_judged_by_balanced_accuracy(labels: list[int]) -> None:
    targets = np.array(labels)
    most = max(labels.count(label) for label in labels) / len(labels)
    test = Scores(np.zeros((len(labels), 4), np.float32), targets)
    found = choose_metric(test)
    assert found.majority == pytest.approx(most)
    assert (found.name, bool(found.note)) == (("balanced_accuracy", True) if most > 0.8 else ("accuracy", False))
    for asked in metrics_of(test.kind):
        assert (choose_metric(test, asked).name, choose_metric(test, asked).note) == (asked, "")
