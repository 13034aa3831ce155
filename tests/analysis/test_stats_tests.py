"""Sign flips, Holm, aggregates, the mixed model: against scipy and statsmodels, and their limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from peftport.analysis.stats.mixed import mixed_model
from peftport.analysis.stats.permutation import holm, sign_flip, sign_flip_floor
from peftport.analysis.stats.resampling import (
    interquartile_mean,
    large_interquartile_mean,
    large_probability_of_improvement,
    probability_of_improvement,
    stratified_bootstrap,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("pairs", [1, 2, 5, 8, 12])
def test_few_pairs_are_flipped_in_every_way(pairs: int) -> None:
    """scipy's exact permutation test, to twelve digits; the floor is reached where all pairs agree."""
    d = rng(pairs).normal(0.3, 1, (6, pairs))
    d[0] = np.abs(d[0])
    found = sign_flip(d, rng=rng())
    for row, p in zip(d, found, strict=True):
        if pairs > 1:
            exact = stats.permutation_test(
                (row,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
            )
            assert p == pytest.approx(exact.pvalue, abs=1e-12)
    assert found[0] == sign_flip_floor(pairs) == 2.0 ** (1 - pairs)


def test_many_pairs_are_flipped_at_random() -> None:
    d = rng(1).normal(0.25, 1, (3, 40))
    one, same, other = (sign_flip(d, rng=rng(s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    np.testing.assert_allclose(one, stats.ttest_1samp(d, 0, axis=1).pvalue, atol=0.02)


def test_equal_pairs_give_no_evidence() -> None:
    np.testing.assert_array_equal(sign_flip(np.zeros((2, 5)), rng=rng()), 1.0)


def test_sign_flips_keep_their_level() -> None:
    """5,000 null data sets of eight pairs: p <= 0.05 in at most 5 % and a margin of chance."""
    p = sign_flip(rng(2).normal(0, 1, (5000, 8)), rng=rng())
    assert 0.03 <= (p <= 0.05).mean() <= 0.06


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_holm_is_statsmodels_holm(p: list[float]) -> None:
    found = holm(np.array(p))
    np.testing.assert_allclose(found, multipletests(p, method="holm")[1], atol=1e-12)
    assert (found >= np.array(p)).all()


def test_interquartile_mean_is_scipy_s_trimmed_mean() -> None:
    for shape in ((5, 7), (3, 4), (1, 1), (2, 1)):
        x = rng(3).random(shape)
        assert float(interquartile_mean(x)) == pytest.approx(stats.trim_mean(x, 0.25, axis=None), abs=1e-14)


def test_probability_of_improvement_is_mann_whitney() -> None:
    x, y = rng(4).integers(0, 6, (5, 9)) / 6, rng(5).integers(0, 6, (4, 9)) / 6
    u = [stats.mannwhitneyu(x[:, t], y[:, t]).statistic / 20 for t in range(9)]
    assert float(probability_of_improvement(x, y)) == pytest.approx(np.mean(u), abs=1e-12)
    assert float(probability_of_improvement(x, x)) == pytest.approx(0.5)
    assert float(probability_of_improvement(x + 2, x)) == 1.0


def test_formulas_for_many_cells_agree_with_the_bootstrap() -> None:
    """50 cells of 5 seeds, where the measures change over: ends within a tenth of the width."""
    cells = rng(6).normal(0, 0.05, 50)
    x, y = (cells + at + rng(7 + k).normal(0, 0.03, (5, 50)) for k, at in enumerate((0.72, 0.70)))
    for statistic, large, samples in (
        (interquartile_mean, large_interquartile_mean, (x,)),
        (probability_of_improvement, large_probability_of_improvement, (x, y)),
    ):
        slow = stratified_bootstrap(statistic, samples, level=0.95, rng=rng(8), resamples=4000)
        fast = large(*samples, level=0.95)
        width = slow.high - slow.low
        assert fast.estimate == pytest.approx(slow.estimate, abs=1e-12)
        assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), abs=0.1 * width)


def test_strata_keep_their_seeds() -> None:
    """A cell's scores never stand in another: cells without spread give an interval without width."""
    x = np.tile(np.array([0.1, 0.5, 0.9]), (4, 1))
    found = stratified_bootstrap(interquartile_mean, (x,), level=0.95, rng=rng(9), resamples=200)
    assert (found.low, found.estimate, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_the_mixed_model_finds_planted_effects() -> None:
    """60 designs: planted technique means lie in their 95 % intervals in at least 80 % of them (both at once)."""
    held, spread = 0, []
    for seed in range(60):
        draws = rng(seed)
        pair, data = draws.normal(0, 0.05, 8), draws.normal(0, 0.03, 4)
        rows = [(t, p, d) for t in (0, 1) for p in range(8) for d in range(4)]
        y = np.array([0.1 + 0.05 * t + pair[p] + data[d] + draws.normal(0, 0.02) for t, p, d in rows])
        labels = [[f"{kind}{row[k]}" for row in rows] for k, kind in enumerate("tpd")]
        found = mixed_model(y, labels[0], {"pair": labels[1], "data": labels[2]}, level=0.95)
        held += all(found.effects[f"t{t}"].low <= 0.1 + 0.05 * t <= found.effects[f"t{t}"].high for t in (0, 1))
        spread.append(found.deviations["pair"])
        difference = found.effects["t1"].estimate - found.effects["t0"].estimate
        assert difference == pytest.approx(y[32:].mean() - y[:32].mean(), abs=1e-6)  # balanced: the plain difference
    assert held >= 0.8 * 60
    assert np.mean(spread) == pytest.approx(0.05, rel=0.25)


def test_seeds_that_cells_share_are_drawn_together() -> None:
    """Cells that move alike with the seed: their mean varies as one cell's does, by resampling and by formula."""
    x = rng(12).normal(0.7, 0.05, (6, 1)) + np.zeros((6, 80))
    y = rng(13).normal(0.7, 0.05, (6, 1)) + np.zeros((6, 80))
    for statistic, quick, samples in (
        (interquartile_mean, large_interquartile_mean, (x,)),
        (probability_of_improvement, large_probability_of_improvement, (x, y)),
    ):
        one = stratified_bootstrap(statistic, tuple(s[:, :1] for s in samples), level=0.95, rng=rng(14))
        alike = stratified_bootstrap(statistic, samples, level=0.95, rng=rng(14), shared=True)
        apart = stratified_bootstrap(statistic, samples, level=0.95, rng=rng(14))
        formula = quick(*samples, level=0.95, shared=True)
        width = {found: found.high - found.low for found in (one, alike, apart, formula)}
        assert width[alike] == pytest.approx(width[one], rel=0.1)
        assert width[apart] < width[alike] / 3
        assert width[formula] > width[alike] / 2
