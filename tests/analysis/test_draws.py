"""Resampled items in place of per-item results: on accuracy, which has both, the two agree."""

from __future__ import annotations

import numpy as np
import pytest

from peftport.analysis.stats.crossed import crossed_from_draws, crossed_from_items
from peftport.metrics import metric_named
from peftport.metrics.resampling import resampled
from peftport.tasks.kinds.classification import Scores


@pytest.mark.parametrize("seeds", [1, 4])
def test_draws_of_accuracy_vary_as_its_items_say(seeds: int) -> None:
    """Two arms whose items share their difficulty: pairing is kept, for a contrast as for one arm."""
    rng, n = np.random.default_rng(0), 150
    labels, hard = rng.integers(0, 2, n), rng.normal(0, 1, n)

    def scores(lead: float) -> Scores:
        margin = (hard + rng.normal(lead, 0.7, n)) * np.where(labels == 1, 1, -1)
        return Scores(np.stack([-margin, margin], 1).astype(np.float32), labels)

    tests = [[scores(lead) for _ in range(seeds)] for lead in (0.3, 0.6)]
    flat = [test for arm in tests for test in arm]
    correct = np.array([[[test.correct for test in arm] for arm in tests]], dtype=np.uint8)
    known = crossed_from_items(correct)
    drawn = resampled(metric_named("accuracy"), flat, rng=np.random.default_rng(1), draws=3000)
    values = np.array([[[test.accuracy for test in arm] for arm in tests]])
    found = crossed_from_draws(values, drawn.reshape(1, 2, seeds, -1), np.array([n]))
    for weights in ([1.0, -1.0], [1.0, 0.0]):
        one, other = known.contrast(weights), found.contrast(weights)
        assert other.estimate[0] == pytest.approx(one.estimate[0], abs=1e-9)
        assert other.variance[0] == pytest.approx(one.variance[0], rel=0.12)
        assert other.df[0] == pytest.approx(one.df[0], rel=0.3)
    unpaired = found.contrast([1.0, 0.0]).variance[0] + found.contrast([0.0, 1.0]).variance[0]
    assert found.contrast([1.0, -1.0]).variance[0] < 0.8 * unpaired


def test_runs_that_share_a_test_share_its_draws() -> None:
    labels = np.array([0, 1] * 10)
    one = Scores(np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32), labels)
    drawn = resampled(metric_named("auroc"), [one, one], rng=np.random.default_rng(0), draws=9)
    assert np.array_equal(drawn[0], drawn[1]) and np.isfinite(drawn).all() and len(set(drawn[0])) > 1
