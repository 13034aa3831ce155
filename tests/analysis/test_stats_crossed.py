"""Intervals over seeds and items: the analysis of variance they are, what they cover, and pairing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from peftport.analysis.stats.crossed import (
    Crossed,
    Estimates,
    crossed_from_items,
    crossed_from_means,
    over_strata,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def drawn(
    groups: int, rates: tuple[float, ...], seeds: int, items: int, seed_sd: float, draws: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Per-item results (G, K, S, N) whose expected accuracies are ``rates``: seeds shift all items, items differ."""
    shape = (groups, len(rates), seeds, items)
    shift = seed_sd * draws.standard_normal((groups, len(rates), seeds, 1))
    difficulty = draws.uniform(-0.2, 0.2, (groups, 1, 1, items))
    return (draws.random(shape) < np.array(rates)[:, None, None] + shift + difficulty).astype(np.uint8)


def test_mean_squares_are_those_of_a_two_way_analysis_of_variance() -> None:
    """statsmodels, to nine digits, on the difference of two arms."""
    correct = drawn(1, (0.7, 0.6), 4, 25, 0.1, rng(1))
    gain = correct[0, 0].astype(float) - correct[0, 1]
    seed, item = np.indices(gain.shape)
    table = pd.DataFrame({"y": gain.ravel(), "seed": seed.ravel(), "item": item.ravel()})
    square = anova_lm(ols("y ~ C(seed) + C(item)", table).fit())["sum_sq"]
    ms = [square["C(seed)"] / 3, square["C(item)"] / 24, square["Residual"] / 72]
    found, w = crossed_from_items(correct), np.array([1.0, -1.0])
    ours = [w @ part[0] @ w * 100 for part in (found.by_seed, found.by_item, found.rest)]
    assert ours == pytest.approx(ms, rel=1e-9)
    whole = found.contrast(w)
    assert whole.variance[0] == pytest.approx(max(ms[0] + ms[1] - ms[2], (ms[0] + ms[1]) / 2) / 100)
    assert whole.estimate[0] == pytest.approx(gain.mean())


def test_one_seed_is_a_paired_t_test_over_items() -> None:
    correct = drawn(1, (0.8, 0.6), 1, 80, 0.0, rng(2))
    found = crossed_from_items(correct).contrast([1.0, -1.0])
    expected = stats.ttest_rel(correct[0, 0, 0].astype(float), correct[0, 1, 0].astype(float))
    assert found.p[0] == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.9)
    margin = found.margin(0.9)[0]
    assert (found.estimate[0] - margin, found.estimate[0] + margin) == pytest.approx((interval.low, interval.high))


def test_seeds_without_items_are_a_paired_t_test_over_seeds() -> None:
    """With no variance from items given; with some, wider."""
    values = rng(3).random((5, 2, 6))
    n = np.full(5, 100)
    found = crossed_from_means(values, np.zeros((5, 2)), n).contrast([1.0, -1.0])
    expected = stats.ttest_rel(values[:, 0], values[:, 1], axis=1).pvalue
    np.testing.assert_allclose(found.p, expected, rtol=1e-9)
    wider = crossed_from_means(values, np.full((5, 2), 0.002), n).contrast([1.0, -1.0])
    assert (wider.variance > found.variance + 0.0039).all()


@pytest.mark.parametrize(("seeds", "items", "seed_sd"), [(5, 200, 0.03), (5, 300, 0.0), (5, 300, 0.08), (3, 300, 0.03)])
def test_coverage_where_seeds_and_items_vary(seeds: int, items: int, seed_sd: float) -> None:
    """3,000 data sets: the 95 % interval holds the true gain of 0.1 in 93 to 97 % of them."""
    draws = rng(4)
    correct = drawn(3000, (0.65, 0.55), seeds, items, seed_sd, draws)
    found = crossed_from_items(correct).contrast([1.0, -1.0])
    held = (np.abs(found.estimate - 0.1) <= found.margin(0.95)).mean()
    assert 0.93 <= held <= 0.97


def test_items_alone_do_not_cover_what_seeds_add() -> None:
    """Why seeds are in: with the same data, an interval over items holds the truth far less often."""
    correct = drawn(1000, (0.65, 0.55), 5, 300, 0.08, rng(5))
    gain = correct[:, 0].mean(1) - correct[:, 1].mean(1)  # (G, N), seeds averaged
    low, high = stats.t.interval(0.95, 299, gain.mean(1), gain.std(1, ddof=1) / np.sqrt(300))
    assert ((low <= 0.1) & (high >= 0.1)).mean() < 0.8


def test_fieller_covers_the_retention() -> None:
    """Planted: bare .5, ported .6, ceiling .75: 40 % of the lift. Bounded intervals hold it in 93 to 98 %."""
    correct = drawn(3000, (0.6, 0.5, 0.75), 5, 300, 0.02, rng(6))
    found = crossed_from_items(correct).ratio([1.0, -1.0, 0.0], [0.0, -1.0, 1.0], 0.95)
    assert found.bounded.mean() > 0.99
    held = (found.low <= 0.4) & (found.high >= 0.4)
    assert 0.93 <= held[found.bounded].mean() <= 0.98
    assert ((found.low <= found.estimate) & (found.estimate <= found.high))[found.bounded].all()


def test_fieller_s_ends_are_where_the_contrast_is_just_settled() -> None:
    """At each end theta, x - theta y is as far from zero as its t margin."""
    found = crossed_from_items(drawn(50, (0.6, 0.5, 0.8), 5, 300, 0.02, rng(7)))
    ratio = found.ratio([1.0, -1.0, 0.0], [0.0, -1.0, 1.0], 0.95)

    def at(theta: npt.NDArray[np.float64]) -> tuple[Estimates, npt.NDArray[np.bool_]]:
        w = np.array([1.0, -1.0, 0.0]) - theta[:, None] * np.array([0.0, -1.0, 1.0])
        raw = np.einsum("gk,gkl,gl->g", w, found.by_seed + found.by_item - found.rest, w)
        contrast = found.contrast(w)
        return contrast, np.isclose(contrast.variance, raw)  # where the variance is not at its lower bound

    middle, free = at(ratio.estimate)
    for end in (ratio.low, ratio.high):
        contrast, free_there = at(end)
        t = np.abs(contrast.estimate) / np.sqrt(contrast.variance)
        both = free & free_there & ratio.bounded
        np.testing.assert_allclose(t[both], stats.t.ppf(0.975, middle.df[both]), rtol=1e-6)
        assert both.sum() > 10


def test_an_unsettled_denominator_gives_no_bounds() -> None:
    found = crossed_from_items(drawn(200, (0.6, 0.5, 0.5), 5, 100, 0.02, rng(8)))
    assert found.ratio([1.0, -1.0, 0.0], [0.0, -1.0, 1.0], 0.95).bounded.mean() < 0.1


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(2, 40))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_groups_do_not_feel_one_another_and_arms_mirror(seed: int, seeds: int, items: int) -> None:
    correct = drawn(3, (0.6, 0.5), seeds, items, 0.05, rng(seed))
    together = crossed_from_items(correct)
    ab, ba = together.contrast([1.0, -1.0]), together.contrast([-1.0, 1.0])
    np.testing.assert_allclose(ab.estimate, -ba.estimate, atol=1e-12)
    np.testing.assert_allclose(ab.variance, ba.variance, atol=1e-12)
    assert (ab.variance >= 0).all() and (ab.df >= 1).all() and ((ab.p >= 0) & (ab.p <= 1)).all()
    for g in range(3):
        alone = crossed_from_items(correct[g : g + 1]).contrast([1.0, -1.0])
        assert alone.variance[0] == pytest.approx(ab.variance[g], abs=1e-12)


def test_what_never_varies_is_settled_or_equal() -> None:
    same = np.ones((1, 2, 3, 10), dtype=np.uint8)
    other = np.stack([np.ones((3, 10)), np.zeros((3, 10))])[None].astype(np.uint8)
    equal, apart = (crossed_from_items(c).contrast([1.0, -1.0]) for c in (same, other))
    assert (equal.estimate[0], equal.variance[0], equal.p[0]) == (0.0, 0.0, 1.0)
    assert (apart.estimate[0], apart.variance[0], apart.p[0]) == (1.0, 0.0, 0.0)


def test_arms_that_are_alike_differ_by_nothing_whatever_rounding_leaves() -> None:
    """Mean products that a processor rounded one way or another leave no interval without an end."""
    signs, groups = rng(3).integers(-1, 2, size=(200, 2, 2)), 200
    matrices = 0.01 * (1.0 + 4e-16 * signs)  # two arms, the same but for the last digits
    none = np.zeros_like(matrices)
    counts = (np.full(groups, 3), np.full(groups, 50))
    for seed, item in ((matrices, none), (none, matrices), (matrices, matrices)):
        found = Crossed(np.full((groups, 2), 0.7), seed, item, none, *counts).contrast([1.0, -1.0])
        margin = found.margin(0.95)
        assert np.isfinite(margin).all() and (margin >= 0).all() and (margin < 1e-6).all()
        assert (found.p == 1).all()


def test_shared_difficulty_narrows() -> None:
    """Arms on the same items against arms on items of their own, equal rates."""
    hard = rng(9).uniform(0.1, 0.9, 200)
    paired = (rng(10).random((1, 2, 5, 200)) < hard).astype(np.uint8)
    apart = paired.copy()
    apart[0, 1] = paired[0, 1][:, rng(11).permutation(200)]
    one, other = (crossed_from_items(c).contrast([1.0, -1.0]).margin(0.95)[0] for c in (paired, apart))
    assert one < 0.8 * other
    assert isinstance(crossed_from_items(paired), Crossed)


def strata_of(
    tasks: tuple[int, ...], seeds: int, seed_sd: float, draws: np.random.Generator
) -> list[npt.NDArray[np.float64]]:
    """Differences of two arms (S, N) in each of several tasks whose items differ and whose seeds are the same."""
    shift = seed_sd * draws.standard_normal((seeds, 1))
    return [0.1 + shift + draws.normal(0, 0.3, (1, n)) + draws.normal(0, 0.5, (seeds, n)) for n in tasks]


def combined(values: list[npt.NDArray[np.float64]]) -> Estimates:
    weights = np.full(len(values), 1 / len(values))
    parts = [crossed_from_items(each[None, None]) for each in values]
    return over_strata(parts, weights, np.stack([each.mean(1) for each in values]))


def test_one_stratum_is_the_crossed_design() -> None:
    [values] = strata_of((40,), 5, 0.1, rng(4))
    found, whole = combined([values]), crossed_from_items(values[None, None]).contrast([1.0])
    for part in ("estimate", "variance", "df"):
        assert getattr(found, part)[0] == pytest.approx(getattr(whole, part)[0], rel=1e-9)


@pytest.mark.parametrize("seed_sd", [0.0, 0.1])
def test_seeds_that_tasks_share_count_once(seed_sd: float) -> None:
    """The variance is that of the estimate over other seeds and items; without sharing it would be too small."""
    draws, estimates, ours, apart = rng(5), [], [], []
    for _ in range(1500):
        values = strata_of((60, 90), 5, seed_sd, draws)
        found = combined(values)
        estimates.append(found.estimate[0])
        ours.append(found.variance[0])
        each = [crossed_from_items(v[None, None]).contrast([1.0]).variance[0] for v in values]
        apart.append(sum(each) / 4)  # as if a seed were drawn anew for each task
    assert np.mean(ours) == pytest.approx(np.var(estimates), rel=0.15)
    assert np.mean(apart) < 0.8 * np.var(estimates) or seed_sd == 0
