"""Measures of planted ledgers: what was planted is found, pairs pair, and what cannot be said is not."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from peftport.analysis.measures import (
    Declared,
    Evidence,
    aggregates,
    curves,
    directions,
    gains,
    lifts,
    pooled,
    retention,
    savings,
)
from peftport.analysis.stats.permutation import holm
from peftport.core.errors import BadRequest
from planted import Grid, Key, curve, ledger

COLUMNS = {
    "curves": "technique origin receiver origin_task receiver_task arm method budget mean low high seeds items",
    "retention": "technique origin receiver origin_task receiver_task method base ceiling ported retention low high "
    "eligible reason host_distance",
    "gains": "technique origin receiver origin_task receiver_task method budget versus gain low high p p_holm permuted "
    "seeds note",
    "savings": "technique origin receiver origin_task receiver_task method target steps_ported steps_scratch "
    "ported_censored scratch_censored training_saved break_even area_ported area_sampled area_scratch negative_flips "
    "regret",
    "directions": "technique host_a host_b origin_task receiver_task retention_ab low_ab high_ab retention_ba low_ba "
    "high_ba",
    "pooled": "scope tasks technique origin receiver method budget versus beside gain low high p p_holm other_metric "
    "other_gain cells seeds",
    "aggregates": "technique quantity estimate low high note",
}
RATE = curve(
    copy=(0.75, 0.77, 0.8), theseus=(0.7, 0.75, 0.8), sampled=(0.65, 0.7, 0.78), scratch=(0.65, 0.7, 0.8), bare=(0.65,),
    ceiling=(0.85,),
)  # fmt: skip
GRID = Grid(
    ("lora", "prefix"), (("a", "b"), ("b", "a"), ("a", "c")), (("x", "x"), ("x", "y")), ("copy", "theseus"), items=200
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


RUNS, CORRECT = ledger(GRID, RATE, rng())


def frames(evidence: Evidence) -> dict[str, pl.DataFrame]:
    kept = retention(evidence)
    return {
        "curves": curves(evidence), "retention": kept, "gains": gains(evidence, rng=rng()),
        "savings": savings(evidence), "directions": directions(kept),
        "pooled": pooled(evidence), "aggregates": aggregates(evidence, rng=rng()),
    }  # fmt: skip


WHOLE = frames(Evidence.of(RUNS, CORRECT))


def cells(count: int = 2) -> int:
    return count * len(GRID.techniques) * len(GRID.pairs) * len(GRID.data)


def test_columns_are_the_contract() -> None:
    assert {name: " ".join(found.columns) for name, found in WHOLE.items()} == COLUMNS
    assert not any(pl.Categorical in found.dtypes for found in WHOLE.values())


def test_every_cell_is_there_once() -> None:
    assert len(WHOLE["retention"]) == len(WHOLE["savings"]) == cells()
    assert len(WHOLE["gains"]) == cells() * 3 * 3
    assert len(WHOLE["curves"]) == cells(1) * (3 * (2 + 1 + 1) + 2)
    assert len(WHOLE["directions"]) == 2 * 2  # techniques x data; a-c has one direction
    for name, keys in {"gains": 8, "curves": 8, "retention": 6}.items():
        assert not WHOLE[name].select(WHOLE[name].columns[:keys]).is_duplicated().any()


def test_numbers_are_those_of_the_runs() -> None:
    """One cell by hand: means, differences, share, areas."""
    at = dict(technique="lora", receiver="b", receiver_task="y")
    own = RUNS.filter(**at).group_by("arm", "method", "budget").agg(pl.col("accuracy").mean())
    mean = {(arm, method, budget): value for arm, method, budget, value in own.iter_rows()}
    bare = RUNS.filter(arm="bare", receiver="b", receiver_task="y")["accuracy"][0]
    gain = WHOLE["gains"].filter(**at, method="copy")
    for budget, versus, value in gain.select("budget", "versus", "gain").iter_rows():
        other = {
            "bare": bare,
            "sampled": mean.get(("sampled", "gaussian", budget)),
            "scratch": mean.get(("scratch", None, budget)),
        }
        assert value == pytest.approx(mean["ported", "copy", budget] - other[versus])
    [kept] = WHOLE["retention"].filter(**at, method="copy").to_dicts()
    ceiling = mean["ceiling", None, 120]
    assert (kept["base"], kept["ceiling"]) == pytest.approx((bare, ceiling))
    assert kept["retention"] == pytest.approx((mean["ported", "copy", 0] - bare) / (ceiling - bare))
    [saved] = WHOLE["savings"].filter(**at, method="copy").to_dicts()
    scores = [mean["ported", "copy", b] for b in (0, 10, 40)]
    assert saved["area_ported"] == pytest.approx(np.trapezoid(scores, [0, 10, 40]) / 40)
    assert saved["target"] == pytest.approx(bare + 0.9 * (ceiling - bare))
    [untrained] = WHOLE["curves"].filter(**at, arm="ported", method="copy", budget=0).to_dicts()
    assert (untrained["mean"], untrained["seeds"], untrained["items"]) == (pytest.approx(scores[0]), 5, 200)


def test_planted_gains_lie_in_their_intervals() -> None:
    """300 settings: 95 % intervals hold the planted differences in 92 to 99 % of them, at every budget."""
    grid = Grid(pairs=tuple((f"o{i}", f"r{i}") for i in range(300)), items=200)
    evidence = Evidence.of(*ledger(grid, RATE, rng(1)))
    found = gains(evidence, rng=rng())
    for versus, budget in itertools.product(("sampled", "scratch", "bare"), (0, 10, 40)):
        key = Key("lora", "o", "r", "x", "x", versus, None, 0 if versus == "bare" else budget, 0)
        truth = RATE(Key("lora", "o", "r", "x", "x", "ported", "copy", budget, 0)) - RATE(key)
        own = found.filter(versus=versus, budget=budget)
        held = own.select(((pl.col("low") <= truth) & (pl.col("high") >= truth)).mean()).item()
        assert 0.92 <= held <= 0.99, (versus, budget, held)
    kept = retention(evidence).filter("eligible")
    assert kept.select(((pl.col("low") <= 0.5) & (pl.col("high") >= 0.5)).mean()).item() >= 0.92


def test_without_items_estimates_stay_and_intervals_widen() -> None:
    blind = frames(Evidence.of(RUNS))
    assert_frame_equal(blind["gains"].select("gain", "seeds"), WHOLE["gains"].select("gain", "seeds"))
    width = [(f["gains"]["high"] - f["gains"]["low"]).mean() for f in (blind, WHOLE)]
    assert width[0] > 1.1 * width[1]  # type: ignore[operator]
    assert blind["gains"]["note"].str.contains("no per-item results").all()
    assert WHOLE["gains"]["note"].is_null().all()
    assert blind["savings"]["negative_flips"].is_null().all()
    assert blind["retention"]["eligible"].sum() > 0


def test_rows_may_come_in_any_order() -> None:
    shuffled = Evidence.of(
        RUNS.sample(fraction=1, shuffle=True, seed=3), CORRECT.sample(fraction=1, shuffle=True, seed=4)
    )
    found = frames(shuffled)
    for name in ("curves", "retention", "gains", "savings", "directions"):
        assert_frame_equal(found[name], WHOLE[name], abs_tol=1e-9)


def test_negative_flips_are_counted_item_by_item() -> None:
    rows = RUNS.join(CORRECT, on="run")
    bare = np.array(rows.filter(arm="bare", receiver="b", receiver_task="x")["correct"][0])
    at = dict(arm="ported", technique="lora", origin="a", receiver="b", receiver_task="x", method="copy", budget=0)
    ported = np.array(rows.filter(**at)["correct"].to_list())
    [saved] = (
        WHOLE["savings"].filter(technique="lora", origin="a", receiver="b", receiver_task="x", method="copy").to_dicts()
    )
    assert saved["negative_flips"] == pytest.approx((bare & ~ported).mean())


def steps(**arms: tuple[float, ...]) -> dict[str, object]:
    """Savings of one cell whose accuracies are exactly as given: no chance."""
    grid = Grid(seeds=1, items=100, seed_sd=0.0)
    runs, _ = ledger(grid, curve(**arms), rng())
    rate = curve(**arms)
    exact = [rate(Key(**{k: row[k] for k in Key.__dataclass_fields__})) for row in runs.iter_rows(named=True)]
    [found] = savings(Evidence.of(runs.with_columns(accuracy=pl.Series(exact)))).to_dicts()
    return found


def test_steps_to_target_break_even_and_regret() -> None:
    """Target .65 + .9 x .2 = .83."""
    found = steps(
        copy=(0.7, 0.84, 0.84), sampled=(0.6, 0.6, 0.6), scratch=(0.6, 0.8, 0.86), bare=(0.65,), ceiling=(0.85,)
    )
    assert (found["steps_ported"], found["steps_scratch"], found["training_saved"]) == (10, 40, 0.75)
    assert (found["ported_censored"], found["scratch_censored"], found["break_even"]) == (False, False, 40)
    assert found["regret"] == pytest.approx((0 + 0 + 0.02) / 3)
    assert found["area_sampled"] == pytest.approx(0.6)


def test_what_is_not_reached_is_censored() -> None:
    never = steps(
        copy=(0.7, 0.7, 0.7), sampled=(0.6, 0.6, 0.6), scratch=(0.6, 0.6, 0.65), bare=(0.65,), ceiling=(0.85,)
    )
    assert (never["steps_ported"], never["ported_censored"], never["training_saved"]) == (None, True, None)
    assert (never["steps_scratch"], never["break_even"]) == (
        120,
        None,
    )  # the ceiling is a point of the curve of scratch
    at_once = steps(
        copy=(0.9, 0.9, 0.9), sampled=(0.6, 0.6, 0.6), scratch=(0.6, 0.6, 0.6), bare=(0.65,), ceiling=(0.85,)
    )
    assert (at_once["steps_ported"], at_once["training_saved"]) == (0, 1.0)
    flat = steps(copy=(0.7, 0.7, 0.7), sampled=(0.6, 0.6, 0.6), scratch=(0.6, 0.6, 0.6), bare=(0.65,), ceiling=(0.66,))
    assert (flat["target"], flat["steps_ported"], flat["ported_censored"]) == (None, None, None)


def test_a_small_lift_gives_no_share() -> None:
    rate = curve(copy=(0.75, 0.8, 0.8), sampled=(0.65,) * 3, scratch=(0.65,) * 3, bare=(0.65,), ceiling=(0.65,))
    runs, correct = ledger(Grid(), rate, rng(2))
    [found] = retention(Evidence.of(runs, correct, Declared(floor=0.1))).to_dicts()
    assert not found["eligible"] and found["retention"] is None and "the floor of 0.1" in found["reason"]
    [unsettled] = retention(Evidence.of(runs, correct, Declared(floor=1e-9))).to_dicts()
    assert unsettled["retention"] is None
    assert "not settled to reach the floor" in unsettled["reason"]


def test_a_share_is_told_only_where_the_lift_is_settled() -> None:
    """By the lower bound: a lift above the floor whose interval is not gives no percentage, however large it is."""
    rate = curve(copy=(0.7, 0.7, 0.7), sampled=(0.65,) * 3, scratch=(0.65,) * 3, bare=(0.65,), ceiling=(0.72,))
    runs, correct = ledger(Grid(items=60), rate, rng(3))
    few, many = (
        retention(Evidence.of(*found)).to_dicts()[0]
        for found in ((runs, correct), ledger(Grid(items=4000), rate, rng(3)))
    )
    assert few["ceiling"] - few["base"] > 0.1
    assert (few["eligible"], few["retention"], few["low"]) == (False, None, None)
    assert many["eligible"] and many["retention"] == pytest.approx(0.05 / 0.07, abs=0.3)
    untold = savings(Evidence.of(runs, correct)).to_dicts()[0]
    assert (untold["target"], untold["training_saved"]) == (None, None)


@pytest.mark.parametrize(
    ("gone", "reason"),
    [
        ("bare", "no finished test of the bare host"),
        ("ceiling", "no finished ceiling"),
        ("ported", "no finished run at"),
    ],
)
def test_what_is_missing_is_said(gone: str, reason: str) -> None:
    runs, correct = ledger(Grid(), RATE, rng(2))
    failed = runs.with_columns(state=pl.when(pl.col("arm") == gone).then(pl.lit("failed")).otherwise("state"))
    [found] = retention(Evidence.of(failed, correct)).to_dicts()
    assert (found["eligible"], found["retention"]) == (False, None) and reason in found["reason"]


def test_seeds_that_failed_are_left_out_of_their_pairs() -> None:
    runs, correct = ledger(Grid(), RATE, rng(3))
    lost = ((pl.col("arm") == "scratch") & (pl.col("seed") == 0)) | (
        (pl.col("arm") == "ported") & (pl.col("seed") == 1)
    )
    failed = runs.with_columns(
        state=pl.when(lost).then(pl.lit("failed")).otherwise("state"), accuracy=pl.when(~lost).then("accuracy")
    )
    found = gains(Evidence.of(failed, correct), rng=rng()).filter(budget=0)
    by = {row["versus"]: row for row in found.to_dicts()}
    assert {v: row["seeds"] for v, row in by.items()} == {"bare": 4, "sampled": 4, "scratch": 3}
    assert by["scratch"]["note"] == "3 of 5 seeds finished in both arms"
    none = failed.with_columns(state=pl.when(pl.col("arm") == "scratch").then(pl.lit("failed")).otherwise("state"))
    left = gains(Evidence.of(none, correct), rng=rng())
    assert "scratch" not in left["versus"].to_list() and len(left) == 6


@pytest.mark.parametrize("kept", [["ported"], ["bare"], ["ported", "bare"], ["ported", "scratch", "ceiling"], []])
def test_tables_with_arms_left_out_have_every_column(kept: list[str]) -> None:
    runs, correct = ledger(Grid(), RATE, rng(5))
    found = frames(Evidence.of(runs.filter(pl.col("arm").is_in(kept)), correct))
    assert {name: " ".join(own.columns) for name, own in found.items()} == COLUMNS
    assert len(found["retention"]) == (1 if "ported" in kept else 0)
    assert not found["retention"]["eligible"].any()


def test_small_samples_say_so() -> None:
    runs, correct = ledger(Grid(seeds=1), RATE, rng(4))
    [bare, *_] = gains(Evidence.of(runs, correct), rng=rng()).to_dicts()
    assert bare["note"] == "one seed: the interval covers test items only"
    runs, correct = ledger(Grid(seeds=5), RATE, rng(4))
    signs = gains(Evidence.of(runs, correct, Declared(test="sign_flip")), rng=rng())
    assert (signs["p"] >= 0.0625).all()
    assert signs["note"].str.contains("not enough seeds: a sign-flip p cannot fall under 0.0625").all()


@pytest.mark.parametrize("family", ["versus", "cell", "all"])
def test_holm_is_over_the_declared_family(family: str) -> None:
    found = gains(Evidence.of(RUNS, CORRECT, Declared(family=family)), rng=rng())
    keys = {"versus": ["versus"], "cell": found.columns[:6], "all": []}[family]
    for _, own in found.group_by(keys) if keys else [((), found)]:
        np.testing.assert_allclose(own["p_holm"].to_numpy(), holm(own["p"].to_numpy()), atol=1e-12)


def test_other_metrics_go_by_seeds() -> None:
    """AUROC cannot be paired item by item: the values count, per-item results do not."""
    runs = RUNS.with_columns(auroc=pl.col("accuracy") + 0.1)
    found = gains(Evidence.of(runs, CORRECT, Declared(metric="auroc")), rng=rng())
    np.testing.assert_allclose(found["gain"].to_numpy(), WHOLE["gains"]["gain"].to_numpy(), atol=1e-12)
    assert found["note"].str.contains("no per-item results").all()


def test_the_sampler_is_declared_or_the_gaussian() -> None:
    other = RUNS.filter(arm="sampled").with_columns(
        run=pl.format("{}-p", "run"), method=pl.lit("permutation"), accuracy=pl.lit(0.5)
    )
    both = pl.concat([RUNS, other])
    usual = gains(Evidence.of(both, CORRECT, Declared(family="versus")), rng=rng())
    assert_frame_equal(usual.filter(pl.col("versus") != "sampled by permutation"), WHOLE["gains"])
    further = usual.filter(versus="sampled by permutation")
    assert further.height == WHOLE["gains"].filter(versus="sampled").height
    named = gains(Evidence.of(both, None, Declared(sampler="permutation")), rng=rng()).filter(versus="sampled")
    ported = curves(Evidence.of(RUNS)).filter(arm="ported", method="copy", budget=0)["mean"]
    for copied in (named.filter(method="copy", budget=0), further.filter(method="copy", budget=0)):
        np.testing.assert_allclose(copied["gain"].to_numpy(), ported.to_numpy() - 0.5, atol=1e-12)
    with pytest.raises(BadRequest, match="sampler: expected one of gaussian, permutation, got 'x'"):
        gains(Evidence.of(both, None, Declared(sampler="x")), rng=rng())


def test_lifts_are_those_at_home_and_gains_those_without_training() -> None:
    """By hand: of the origin's host and task, from runs at home where there are any, else from ceilings there."""
    found = lifts(Evidence.of(RUNS, CORRECT))
    at = {
        "technique": "lora",
        "origin": "b",
        "receiver": "a",
        "origin_task": "x",
        "receiver_task": "x",
        "method": "copy",
    }
    score = lambda **of: RUNS.filter(**of)["accuracy"].mean()  # noqa: E731
    bare = {host: score(arm="bare", receiver=host, receiver_task="x") for host in ("a", "b")}
    [own] = found.filter(**at).to_dicts()
    assert own["lift"] == pytest.approx(
        score(arm="ceiling", technique="lora", receiver="b", receiver_task="x") - bare["b"]
    )
    assert own["gain"] == pytest.approx(score(arm="ported", budget=0, **at) - bare["a"])
    assert own["lift_low"] < own["lift"] < own["lift_high"] and own["low"] < own["gain"] < own["high"]
    [across] = found.filter(**{**at, "receiver_task": "y"}).to_dicts()
    assert across["lift"] == own["lift"]
    homes = RUNS.filter(arm="ceiling", receiver="b").with_columns(
        run=pl.format("{}-h", "run"), arm=pl.lit("home"), accuracy=pl.col("accuracy") + 0.05
    )
    [told] = lifts(Evidence.of(pl.concat([RUNS, homes]))).filter(**at).to_dicts()
    assert told["lift"] == pytest.approx(own["lift"] + 0.05)
    known = set(found["origin"]) | {"a"}
    assert found.height == RUNS.filter(arm="ported", budget=0).select(COLUMNS["retention"].split()[:6]).unique().height
    assert known == {"a", "b"}


def test_both_directions_are_those_of_retention() -> None:
    kept = WHOLE["retention"]
    for row in WHOLE["directions"].to_dicts():
        shared = {k: row[k] for k in ("technique", "origin_task", "receiver_task")}
        assert (row["host_a"], row["host_b"]) == ("a", "b")
        [there] = kept.filter(**shared, origin="a", receiver="b", method="copy")["retention"]
        [back] = kept.filter(**shared, origin="b", receiver="a", method="copy")["retention"]
        assert (row["retention_ab"], row["retention_ba"]) == (there, back)


def test_aggregates_speak_of_all_and_of_each_technique() -> None:
    found = WHOLE["aggregates"]
    for tasks in ("same-task", "cross-task"):
        one = found.filter(quantity=f"copy, {tasks}: interquartile mean gain over sampled, 0 steps")
        assert one["technique"].to_list() == [None, "lora", "prefix"]
        assert one.select(((pl.col("low") < 0.1) & (pl.col("high") > 0.09)).all()).item()
        chance = found.filter(quantity=f"copy, {tasks}: probability of improvement over scratch, 0 steps")
        assert chance["estimate"].min() > 0.9  # type: ignore[operator]
        model = found.filter(pl.col("quantity") == f"copy, {tasks}: mixed model gain over sampled, smallest budget")
        assert model["technique"].to_list() == ["lora", "prefix"]
        assert model.select(((pl.col("estimate") - 0.1).abs() < 0.02).all()).item()
    few, correct = ledger(Grid(), RATE, rng())
    notes = aggregates(Evidence.of(few, correct), rng=rng())["note"].drop_nulls().to_list()
    assert notes == ["not fitted: fewer than 3 host pairs"]


def test_pooled_gains_are_means_of_the_cells_gains() -> None:
    """Where all cells have all seeds: over all, by technique, by pair, by both; at every budget, own task and other."""
    same = pl.col("origin_task") == pl.col("receiver_task")
    cell = WHOLE["gains"].with_columns(tasks=pl.when(same).then(pl.lit("same-task")).otherwise(pl.lit("cross-task")))
    found = WHOLE["pooled"].filter(pl.col("beside").is_null())
    for scope, keys in (("all", []), ("technique", ["technique"]), ("pair", ["origin", "receiver"])):
        on = ["method", "budget", "versus", "tasks", *keys]
        means = cell.group_by(on).agg(pl.col("gain").mean().alias("mean"), pl.len().alias("count"))
        both = found.filter(scope=scope).join(means, on=on, how="full", nulls_equal=True)
        assert len(both) == len(means)
        assert both.select(((pl.col("gain") - pl.col("mean")).abs() < 1e-6).all()).item()
        assert (both["cells"] == both["count"]).all()
    assert found.filter(scope="technique and pair").height == cell.height  # one test task of each relation
    assert (found["other_metric"] == "auroc").all()  # planted as equal to accuracy
    assert found.select(((pl.col("other_gain") - pl.col("gain")).abs() < 1e-6).all()).item()


def test_what_tells_techniques_and_directions_apart_is_a_difference_of_gains() -> None:
    found = WHOLE["pooled"].filter(method="copy", budget=0, versus="sampled", tasks="same-task")
    gains_ = found.filter(pl.col("beside").is_null())
    [lora], [prefix] = (gains_.filter(scope="technique", technique=t)["gain"] for t in ("lora", "prefix"))
    apart = dict(found.filter(beside="the other techniques").select("technique", "gain").rows())
    assert apart == pytest.approx({"lora": lora - prefix, "prefix": prefix - lora})
    [direction] = found.filter(beside="the opposite direction").rows(named=True)
    gain = {(r["origin"], r["receiver"]): r["gain"] for r in gains_.filter(scope="pair").rows(named=True)}
    assert (direction["origin"], direction["receiver"]) == ("a", "b")
    assert direction["gain"] == pytest.approx(gain["a", "b"] - gain["b", "a"])


def test_a_seed_that_a_cell_lacks_is_left_out_of_the_pool() -> None:
    where = {"technique": "lora", "arm": "ported", "seed": 0, "origin": "a", "receiver": "b"}
    one = pl.all_horizontal(pl.col(name) == value for name, value in where.items())
    lost = RUNS.with_columns(state=pl.when(one).then(pl.lit("failed")).otherwise("state"))
    found = pooled(Evidence.of(lost, CORRECT)).filter(pl.col("beside").is_null())
    every = WHOLE["pooled"]["seeds"].max()
    assert set(found.filter(scope="technique", technique="lora")["seeds"]) == {every - 1}  # type: ignore[operator]
    assert set(found.filter(scope="technique", technique="prefix")["seeds"]) == {every}


def test_pooled_intervals_cover_the_planted_gain() -> None:
    """Seeds, which all tasks share, and items vary in the simulation: the interval holds the truth 95 times in 100."""
    covered = []
    for seed in range(120):
        few = Grid(
            ("lora", "prefix"), (("a", "b"), ("b", "a")), (("x", "x"), ("y", "y")), budgets=(0,), items=100,
            shared_seed_sd=0.04,
        )  # fmt: skip
        row = pooled(Evidence.of(*ledger(few, RATE, rng(seed)))).filter(scope="all", versus="sampled")
        [(low, high)] = row.select("low", "high").rows()
        covered.append(low <= 0.1 <= high)
    assert sum(covered) >= 108  # 90 %: five standard deviations below 114 would be 102


def test_a_claim_is_one_family() -> None:
    """Over all cells of a kind, at every budget: Holm over all tests of one claim, and no claim with another."""
    claims = WHOLE["pooled"].filter(pl.col("beside").is_null(), scope="all", method="copy")
    for versus in ("sampled", "scratch"):
        own = claims.filter(versus=versus)
        assert own.select("tasks", "budget").unique().height == own.height == 2 * 3
        np.testing.assert_allclose(own["p_holm"].to_numpy(), holm(own["p"].to_numpy()), atol=1e-12)


def test_the_shuffled_arm_is_paired_by_method_and_pooled() -> None:
    """Ports of modules trained on shuffled labels: each against the port of the true module by the same method."""
    shuffled = RUNS.filter(arm="ported").with_columns(
        run=pl.format("{}-s", "run"), arm=pl.lit("shuffled"), accuracy=pl.col("accuracy") - 0.25
    )
    found = Evidence.of(pl.concat([RUNS, shuffled]))
    own = gains(found, rng=rng()).filter(versus="shuffled")
    assert own.height == RUNS.filter(arm="ported").select("technique", "origin", "receiver", "origin_task",
        "receiver_task", "method", "budget").unique().height  # fmt: skip
    np.testing.assert_allclose(own["gain"].to_numpy(), 0.25, atol=1e-12)


def test_without_items_nothing_is_pooled() -> None:
    assert pooled(Evidence.of(RUNS)).height == 0


def test_names_stay_what_they_are() -> None:
    awkward = {"a": "<script>", "b": "ünïcode & co", "c": ""}
    runs = RUNS.with_columns(pl.col("origin", "receiver").replace(awkward))
    assert set(retention(Evidence.of(runs))["origin"]) == {"<script>", "ünïcode & co"}


@pytest.mark.parametrize(
    ("runs", "correct", "says"),
    [
        (RUNS.drop("accuracy"), None, "runs: expected columns .* got none named accuracy"),
        (
            pl.concat([RUNS, RUNS.head(1)]),
            None,
            "runs: expected one row for each cell, arm, budget and seed, got r0, r0",
        ),
        (RUNS.with_columns(n_items=pl.int_range(pl.len()) % 2 + 100), None, "as many test items in all runs"),
        (RUNS, CORRECT.with_columns(pl.col("correct").list.head(10)), "correct: run r0: expected 200 items"),
        (RUNS, CORRECT.with_columns(correct=pl.col("correct").list.eval(~pl.element())), "of accuracy"),
    ],
)
def test_tables_that_do_not_agree_are_refused(runs: pl.DataFrame, correct: pl.DataFrame | None, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as refusal:
        curves(Evidence.of(runs, correct)), gains(Evidence.of(runs, correct), rng=rng())
    assert refusal.value.exit_code == 2 and "\n" not in str(refusal.value)


def test_the_example_of_the_page_makes_every_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    runs, correct = ledger(Grid(pairs=(("a", "b"), ("b", "a")), items=200), RATE, rng())
    tables = {"runs": runs, "correct": correct}
    exec(compile(example, "docs/statistics.md", "exec", dont_inherit=True), tables)
    for name, columns in COLUMNS.items():
        assert tables[name].columns == columns.split() and len(tables[name]), name
    assert len(tables["verdicts"]) == 2 and len(tables["regret"])
