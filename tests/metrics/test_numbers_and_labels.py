"""Metrics of numbers and of sets of labels are scikit-learn's and scipy's, on drawn predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from completions import Completions, completions
from peftport.core.errors import BadRequest
from peftport.metrics import correlation, metric_named, metrics_of
from peftport.metrics.base import Metric
from peftport.metrics.choice import check_defined, choose_metric
from peftport.metrics.resampling import resampled
from peftport.tasks.kinds.multi_label import LabelLogits
from peftport.tasks.kinds.regression import Numbers


@st.composite
def drawn_numbers(draw: st.DrawFn) -> Numbers:
    """Numbers with ties, on any scale, near and far from what is right; sometimes constant."""
    n, rng = draw(st.integers(1, 30)), np.random.default_rng(draw(st.integers(0, 2**32)))
    scale, offset = draw(st.sampled_from([1e-3, 1.0, 1e6])), draw(st.sampled_from([0.0, -70.0, 1e5]))
    values = rng.integers(0, draw(st.integers(1, 6)), n) * scale + offset
    return Numbers(values, rng.integers(0, draw(st.integers(1, 6)), n) * scale + offset)


@st.composite
def drawn_sets(draw: st.DrawFn) -> LabelLogits:
    """Logits of 2 to 5 labels, some never right and some never said; items without any."""
    n, labels = draw(st.integers(1, 25)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    often = rng.choice([0.0, 0.3, 0.7, 1.0], labels)
    values = rng.integers(-3, 4, (n, labels)).astype(np.float32) - 3 * (rng.random(labels) < 0.3)
    return LabelLogits(values.astype(np.float32), (rng.random((n, labels)) < often).astype(np.int64))


@given(drawn_numbers())
@settings(max_examples=60, deadline=None)
def test_numbers(test: Numbers) -> None:
    found = test.measures()
    error = sk.root_mean_squared_error(test.targets, test.values)
    assert found["rmse"] == pytest.approx(error, rel=1e-12) and choose_metric(test).name == "rmse"
    assert found["mean_absolute_error"] == pytest.approx(sk.mean_absolute_error(test.targets, test.values), rel=1e-12)
    vary = len(set(test.values)) > 1 and len(set(test.targets)) > 1
    for name, function in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        if not vary:
            assert found[name] is None
        else:
            assert found[name] == pytest.approx(function(test.values, test.targets).statistic, abs=1e-9)


@given(drawn_sets())
@settings(max_examples=60, deadline=None)
def test_sets_of_labels(test: LabelLogits) -> None:
    """A label is said where its logit is over 0; averages are over labels that are right or said somewhere."""
    found, said = test.measures(), (test.values > 0).astype(np.int64)
    counted = test.targets.any(0) | said.any(0).astype(bool)
    assert choose_metric(test).name == "micro_f1"
    assert found["subset_accuracy"] == pytest.approx(sk.accuracy_score(test.targets, said))
    assert found["samples_f1"] == pytest.approx(sk.f1_score(test.targets, said, average="samples", zero_division=1.0))
    if not counted.any():
        assert found["micro_f1"] is found["macro_f1"] is None
    else:
        assert found["micro_f1"] == pytest.approx(sk.f1_score(test.targets, said, average="micro", zero_division=0.0))
        each = sk.f1_score(test.targets, said, average=None, zero_division=0.0)[counted]
        assert found["macro_f1"] == pytest.approx(each.mean())
        if test.targets.any():
            weighted = sk.f1_score(test.targets, said, average="weighted", zero_division=0.0)
            assert found["weighted_f1"] == pytest.approx(weighted)
    asked = test.targets.any(0) & ~test.targets.all(0)
    for name, function in (("auroc", sk.roc_auc_score), ("average_precision", sk.average_precision_score)):
        each = [function(test.targets[:, k], test.values[:, k]) for k in np.flatnonzero(asked)]
        assert found[name] == (pytest.approx(np.mean(each)) if each else None)


@st.composite
def drawn_answers(draw: st.DrawFn) -> Completions:
    """Likelihoods of answers, some so low that their perplexity is beyond all numbers."""
    n, low = draw(st.integers(1, 20)), draw(st.sampled_from([1.0, 1e4]))
    test = completions([None] * n, [("good",)] * n, draw(st.integers(0, 2**32)))
    test.values["log_likelihood"] *= low
    return test


@given(st.one_of(drawn_numbers(), drawn_sets(), drawn_answers()), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_counted_items_are_repeated_items(test: Numbers | LabelLogits | Completions, seed: int) -> None:
    """What metrics compute on counts is their value on the items so often repeated, undefined where that is."""
    rng, n = np.random.default_rng(seed), len(test)
    counts = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(3)]).astype(np.float64)
    for name in ("rmse", "micro_f1", "perplexity"):
        metric = metric_named(name)
        if test.kind in metric.kinds:
            wanted = Metric.on_counts(metric, test, counts)
            np.testing.assert_allclose(metric.on_counts(test, counts), wanted, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("name", "function"), [("pearson", stats.pearsonr), ("spearman", stats.spearmanr)])
@given(n=st.integers(1, 30), decimals=st.integers(0, 8), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_correlations_of_all_draws_at_once_are_scipys(
    name: str, function: Any, n: int, decimals: int, seed: int
) -> None:
    """With ties and without; where a draw's numbers are all the same there is none. scipy is not asked draw by draw."""
    rng, metric = np.random.default_rng(seed), metric_named(name)
    right = np.round(rng.normal(3.0, 1.0, n), decimals)
    said = np.round(right + rng.normal(0.0, 1.0, n), decimals)
    picks = [*rng.integers(0, n, (4, n)), np.full(n, rng.integers(n))]
    counts = np.stack([np.bincount(pick, minlength=n) for pick in picks]).astype(np.float64)
    wanted = [
        np.nan if np.ptp(said[pick]) == 0 or np.ptp(right[pick]) == 0 else function(said[pick], right[pick]).statistic
        for pick in picks
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(metric), "correlation", None)
        patched.setattr(correlation, "NUMBERS_AT_ONCE", 2 * n)
        found = metric.on_counts(Numbers(said, right), counts)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@given(st.one_of(drawn_numbers(), drawn_sets()))
@settings(max_examples=40, deadline=None)
def test_what_every_metric_promises(test: Numbers | LabelLogits) -> None:
    """In its bounds, the mean of its items where it has them, best where what is right is predicted."""
    perfect = type(test)(test.targets if test.kind == "regression" else 8.0 * test.targets - 4, test.targets)  # type: ignore[arg-type]
    for name, metric in metrics_of(test.kind).items():
        value, each, best = (of for of in (metric.aggregate(test), metric.per_item(test), metric.aggregate(perfect)))
        if value is not None:
            assert metric.bounds[0] - 1e-9 <= value <= metric.bounds[1] + 1e-9, name
        if each is not None:
            assert each.shape == (len(test),) and value == pytest.approx(float(each.mean()), abs=1e-12), name
        if best is not None:
            assert best == pytest.approx(metric.bounds[metric.higher_is_better], abs=1e-6), name
        [draws] = resampled(metric, [test], rng=np.random.default_rng(0), draws=5)
        assert draws.shape == (5,) and (value is None or not np.isinf(draws).any())


def test_a_metric_is_refused_where_targets_leave_it_undefined_and_not_where_predictions_do() -> None:
    varied, constant = np.array([1.0, 2.0, 4.0]), np.ones(3)
    check_defined("pearson", Numbers(constant, varied))
    assert metric_named("pearson").aggregate(Numbers(constant, varied)) is None
    with pytest.raises(BadRequest, match="--metric spearman: expected one that is defined for 3 test items"):
        check_defined("spearman", Numbers(varied, constant))
    nothing = np.zeros((3, 2), np.int64)
    with pytest.raises(BadRequest, match="--metric micro_f1: expected one that is defined"):
        check_defined("micro_f1", LabelLogits(nothing - 1.0, nothing))
    with pytest.raises(BadRequest, match=r"--metric accuracy: .* kind regression \(rmse, pearson"):
        choose_metric(Numbers(constant, varied), "accuracy")
