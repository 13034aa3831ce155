"""Statistics of pairs: what scipy computes, the coverage that is promised, and the ends where nothing varies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from peftport.analysis.stats import paired_difference


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.9875])
def test_a_paired_difference_is_scipy_s_bca_bootstrap(level: float) -> None:
    one, other = rng(1).integers(0, 2, 60).astype(float), rng(2).integers(0, 3, 60) / 2
    found = paired_difference(one, other, level=level, rng=rng(5))
    expected = stats.bootstrap(
        (one, other), lambda a, b, axis=-1: np.mean(a - b, axis=axis), paired=True, n_resamples=4999,
        confidence_level=level, method="BCa", rng=rng(5), vectorized=True,
    ).confidence_interval  # fmt: skip
    assert found.estimate == pytest.approx(one.mean() - other.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.level == level


def test_the_generator_decides() -> None:
    one, other = rng(1).random(50), rng(2).random(50)
    assert paired_difference(one, other, level=0.9, rng=rng(3)) == paired_difference(one, other, level=0.9, rng=rng(3))
    assert paired_difference(one, other, level=0.9, rng=rng(3)) != paired_difference(one, other, level=0.9, rng=rng(4))


def test_pairs_count() -> None:
    """Items that are hard for both cancel: shuffling one side widens the interval."""
    one = (rng(1).random(200) < 0.5).astype(float)
    other = np.where(rng(2).random(200) < 0.05, 1 - one, one)
    paired = paired_difference(one, other, level=0.95, rng=rng(0))
    shuffled = paired_difference(one, rng(3).permutation(other), level=0.95, rng=rng(0))
    assert (paired.high - paired.low) < 0.5 * (shuffled.high - shuffled.low)


def test_coverage_is_what_is_promised() -> None:
    """200 data sets of 200 pairs with a true difference of 0.1: the 95 % interval holds it in 90 to 99 % of them."""
    truth, held, draws = 0.1, 0, rng(0)
    for _ in range(200):
        fate = draws.random(200)  # below 0.5 both are right, to 0.7 one alone, to 0.9 none, above the other alone
        one, other = fate < 0.7, (fate < 0.5) | (fate > 0.9)
        found = paired_difference(one.astype(float), other.astype(float), level=0.95, rng=draws)
        held += found.low <= truth <= found.high
    assert 0.90 <= held / 200 <= 0.99


@pytest.mark.parametrize("difference", [-1.0, -0.25, 0.0, 1.0])
def test_a_constant_difference_is_its_own_interval(difference: float) -> None:
    base = rng(0).integers(0, 2, 30).astype(float)
    found = paired_difference(base + difference, base, level=0.95, rng=rng(0))
    assert (found.estimate, found.low, found.high) == (difference,) * 3


def test_booleans_and_integers_are_numbers() -> None:
    """Correctness comes as booleans, which cannot be subtracted."""
    one, other = np.array([True, True, False, True]), np.array([False, True, True, False])
    found = paired_difference(one, other, level=0.9, rng=rng(0))  # type: ignore[arg-type]
    assert found.estimate == 0.25 and found.low < 0.25 < found.high


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=25), st.integers(0, 5))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_an_interval_is_finite_and_ordered(differences: list[float], seed: int) -> None:
    values = np.array(differences)
    found = paired_difference(values, np.zeros(len(values)), level=0.95, rng=rng(seed))
    assert all(math.isfinite(v) for v in (found.estimate, found.low, found.high))
    assert -1 <= found.low <= found.high <= 1
    assert found.estimate == pytest.approx(values.mean())
    mirrored = paired_difference(-values, np.zeros(len(values)), level=0.95, rng=rng(seed))
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), abs=0.2)
