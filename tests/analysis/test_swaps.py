"""Items swapped between two arms: against exact tests, its level where seeds and items vary, one answer everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from peftport.analysis.columns import run_columns
from peftport.analysis.measures import Declared, Evidence, gains
from peftport.analysis.stats.crossed import crossed_from_items
from peftport.analysis.stats.swaps import swapped_items, swaps_of
from peftport.analysis.verdict.table import verdicts
from peftport.metrics import metric_named, metrics_of
from peftport.metrics.resampling import resampled, swapped
from peftport.tasks.kinds.classification import Scores


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.integers(0, 2**32), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_of_one_seed_s_right_and_wrong_answers_it_is_mcnemar_s_exact_test(seed: int, n: int) -> None:
    draws = rng(seed)
    d = draws.choice([-1, 0, 1], size=(1, 1, n), p=[0.1, 0.75, 0.15]).astype(np.float32)
    up, down = int((d == 1).sum()), int((d == -1).sum())
    exact = stats.binomtest(up, up + down).pvalue if up + down else 1.0
    close = 1e-12 if up + down <= 11 else 0.06  # of 1,999 random swaps: five standard errors
    assert swapped_items(d, rng=draws)[0] == pytest.approx(exact, abs=close)


def test_of_one_seed_s_numbers_it_is_scipy_s_paired_permutation_test() -> None:
    d = rng(1).normal(0.4, 1, (5, 1, 10)).astype(np.float32)
    for row, p in zip(d[:, 0], swapped_items(d, rng=rng()), strict=True):
        exact = stats.permutation_test((row,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert p == pytest.approx(exact.pvalue, abs=1e-12)


def test_seeds_that_vary_do_not_settle_what_items_alone_would() -> None:
    """400 null data sets of 5 seeds whose means vary: at most 5 % and chance; means would reject half of them."""
    draws, n = rng(2), 80
    d = 0.3 * draws.normal(size=(400, 5, 1)) + 0.3 * draws.normal(size=(400, 1, n)) + draws.normal(size=(400, 5, n))
    d = d.astype(np.float32)
    p = np.maximum(swapped_items(d, rng=draws, swaps=499), crossed_from_items(d[:, None]).contrast([1.0]).p)
    assert (p <= 0.05).mean() <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / 400)
    signs = swaps_of(np.ones(n, bool), rng=draws, swaps=499).signs
    means = np.abs(signs @ d.mean(1).T)
    assert (((means >= means[0]).mean(0)) <= 0.05).mean() > 0.3
    apart = np.maximum(swapped_items(d + 1, rng=draws, swaps=499), crossed_from_items(d[:, None] + 1).contrast([1.0]).p)
    assert (apart <= 0.05).mean() > 0.9


@pytest.mark.parametrize("metric", metrics_of("classification"))
def test_swapped_predictions_are_measured_as_they_lie(metric: str) -> None:
    draws, n = rng(3), 30
    labels = draws.integers(0, 2, n)
    one, other = (Scores(draws.normal(size=(n, 2)).astype(np.float32), labels) for _ in range(2))
    kept = draws.integers(0, 2, (4, n)) == 1
    found = swapped(metric_named(metric), [(one, other)], kept)
    for own, difference in zip(kept[:, :, None], found[:, 0], strict=True):
        first, second = (Scores(np.where(own, a.values, b.values), labels) for a, b in ((one, other), (other, one)))
        wanted = [metric_named(metric).aggregate(test) for test in (first, second)]
        assert difference == pytest.approx(wanted[0] - wanted[1], abs=1e-12)  # type: ignore[operator]


def table(tests: dict[tuple[str, int], Scores]) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Scores]]:
    """Runs, their items and their tests, of arms and seeds at budget 0."""
    rows: list[dict[str, Any]] = []
    for (arm, seed), test in tests.items():
        place = {"technique": "lora", "receiver": "b", "receiver_task": "t", "budget": 0, "steps": 0, "state": "done"}
        ported = {"origin": "a", "method": "copy"} if arm == "ported" else {}
        rows.append({**place, **ported, "run": f"{arm}-{seed}", "arm": arm, "seed": seed, **test.measures()})
        rows[-1]["n_items"] = len(test)
    named = {f"{arm}-{seed}": test for (arm, seed), test in tests.items()}
    correct = pl.DataFrame([{"run": run, "correct": test.correct.tolist()} for run, test in named.items()])
    return pl.DataFrame(rows, schema=run_columns()), correct, named


def answers(right: list[bool], labels: list[int]) -> Scores:
    margin = np.where(right, 1.0, -1.0) * (2 * np.array(labels) - 1)
    return Scores(np.stack([-margin, margin], 1).astype(np.float32), np.array(labels))


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "balanced_accuracy"])
def test_five_items_settle_nothing_however_they_came_out(metric: str) -> None:
    """All right against all wrong has an exact p of 1/16; Student's t, which sees no spread, has one of 0."""
    labels = [0, 1, 0, 1, 1]
    tests = {("ported", s): answers([True] * 5, labels) for s in (0, 1)}
    tests |= {("scratch", s): answers([False] * 5, labels) for s in (0, 1)}
    runs, correct, named = table(tests)
    drawn = resampled(metric_named(metric), list(named.values()), rng=rng())
    evidence = Evidence.of(
        runs, correct, Declared(metric=metric), draws=dict(zip(named, drawn, strict=True)), tests=named
    )
    [gain] = gains(evidence, rng=rng()).to_dicts()
    assert gain["gain"] == 1 and gain["p"] == pytest.approx(1 / 16) and gain["permuted"] == "items"
    assert gain["low"] <= 0 and "swapping items between the arms does not settle it (p 0.0625)" in gain["note"]
    [said] = verdicts(evidence).to_dicts()
    assert said["verdict"] == "not enough evidence" and "+1.000 [+0.000, +2.000]" in said["sentence"]


@given(st.integers(0, 2**32), st.sampled_from(["accuracy", "auroc"]))
@settings(max_examples=12, deadline=None)
def test_an_interval_excludes_zero_where_p_is_under_its_level(seed: int, metric: str) -> None:
    """Small tests, where Student's t and swaps part: p and interval never say two things."""
    draws = rng(seed)
    n, gap = int(draws.integers(6, 40)), draws.uniform(0, 1.5)
    labels = [0, 1, *draws.integers(0, 2, n - 2).tolist()]
    tests = {
        (arm, s): answers((draws.normal(own, 1, n) > 0).tolist(), labels)
        for arm, own in (("ported", gap), ("scratch", 0.0))
        for s in range(int(draws.integers(1, 4)))
    }
    runs, correct, named = table(tests)
    drawn = resampled(metric_named(metric), list(named.values()), rng=draws)
    evidence = Evidence.of(
        runs, correct, Declared(metric=metric), draws=dict(zip(named, drawn, strict=True)), tests=named
    )
    for row in gains(evidence, rng=rng()).to_dicts():
        assert (row["p"] < 0.05) == (row["low"] > 0 or row["high"] < 0)
