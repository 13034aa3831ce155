"""Verdicts on planted truths: right at the stated error rates, never a winner the intervals leave open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftport.analysis.columns import run_columns
from peftport.analysis.measures import Declared, Evidence
from peftport.analysis.verdict.choice import Contrast, decide, decided, word_of
from peftport.analysis.verdict.regret import regret_report
from peftport.analysis.verdict.table import SCHEMA, settings_of, verdicts
from peftport.training.evaluation import Scores
from peftport.workflows.compare_tables import ComparisonAnalysis, compare_frames
from peftport.workflows.comparison import Comparison, ComparisonPlan
from planted import Grid, Key, Rate, curve, ledger

MANY = 200
PAIRS = tuple((f"old{i}", f"new{i}") for i in range(MANY))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def shares(rate: Rate, seed: int, grid: Grid | None = None, held: bool = True) -> dict[str, float]:
    """How often each word is said of independent settings with one truth."""
    runs, correct = ledger(grid or Grid(pairs=PAIRS), rate, rng(seed))
    found = verdicts(Evidence.of(runs, correct if held else None))["verdict"].to_list()
    return {word: found.count(word) / len(found) for word in set(found)}


def arms(*ported: float, scratch: tuple[float, ...] = (0.6, 0.65, 0.75)) -> Rate:
    return curve(copy=ported, sampled=(0.6, 0.65, 0.72), scratch=scratch, bare=(0.6,), ceiling=(0.8,))


def test_equal_arms_are_not_told_apart() -> None:
    """Ported as good as bare and scratch at every budget: a verdict in at most 5 % of 200, and chance (3 %)."""
    for held in (True, False):
        found = shares(arms(0.6, 0.65, 0.75), seed=1, held=held)
        assert 1 - found["not enough evidence"] <= 0.08


def test_a_planted_gain_is_copied() -> None:
    """+.15 untrained and after 10 steps, over 300 items and 5 seeds: copy in 95 %, retrain never."""
    found = shares(arms(0.75, 0.8, 0.8), seed=2)
    assert found["copy"] >= 0.95 and "retrain" not in found and "align" not in found


def test_a_planted_loss_is_retrained() -> None:
    found = shares(arms(0.45, 0.5, 0.6), seed=3)
    assert found["retrain"] >= 0.95 and "copy" not in found


def test_one_direction_may_be_worse() -> None:
    """A -> B helps, B -> A harms: each gets its own verdict."""

    def rate(key: Key) -> float:
        helps = key.receiver == "new"
        return (arms(0.78, 0.8, 0.82) if helps else arms(0.45, 0.45, 0.5))(key)

    runs, correct = ledger(Grid(pairs=(("old", "new"), ("new", "old"))), rate, rng(4))
    found = {row["receiver"]: row for row in verdicts(Evidence.of(runs, correct)).to_dicts()}
    assert (found["new"]["verdict"], found["old"]["verdict"]) == ("copy", "retrain")
    assert found["old"]["high"] < 0 < found["new"]["low"]


def test_a_better_method_is_named_only_where_it_is_settled() -> None:
    """theseus .15 over copy: align by theseus. As good as copy: copy, in all but 5 % and chance."""
    grid = Grid(pairs=PAIRS[:60], methods=("copy", "theseus"))

    def rate(theseus: float) -> Rate:
        return curve(
            copy=(0.72, 0.75, 0.76), theseus=(theseus, theseus + 0.02, theseus + 0.03), sampled=(0.6, 0.65, 0.72),
            scratch=(0.55, 0.58, 0.6), bare=(0.55,), ceiling=(0.8,),
        )  # fmt: skip

    assert shares(rate(0.87), 5, grid)["align"] >= 0.95
    assert shares(rate(0.72), 6, grid)["copy"] >= 0.88


def test_distilling_is_a_refresh() -> None:
    rate = curve(
        copy=(0.5, 0.55, 0.6), distill=(0.8, 0.82, 0.82), sampled=(0.5,) * 3, scratch=(0.55, 0.6, 0.68), bare=(0.55,),
        ceiling=(0.85,),
    )  # fmt: skip
    runs, correct = ledger(Grid(methods=("copy", "distill")), rate, rng(7))
    [found] = verdicts(Evidence.of(runs, correct)).to_dicts()
    assert (found["verdict"], found["method"]) == ("refresh", "distill")
    assert "distill" in found["sentence"]


def test_the_allowance_bounds_what_is_weighed() -> None:
    """Copying pays untrained and loses after 40 steps: retrain with 40 to spend, copy with none."""
    runs, correct = ledger(Grid(), arms(0.78, 0.7, 0.6, scratch=(0.6, 0.7, 0.8)), rng(8))
    [whole] = verdicts(Evidence.of(runs, correct)).to_dicts()
    [none] = verdicts(Evidence.of(runs, correct, Declared(allowance=0))).to_dicts()
    assert (whole["verdict"], whole["cost_steps"], whole["cost_seconds"]) == ("retrain", 40, pytest.approx(4.0))
    assert (none["verdict"], none["cost_steps"], none["cost_seconds"]) == ("copy", 0, 0)
    assert "without further training it beats the bare host" in whole["sentence"]


def test_the_sentence_holds_the_numbers() -> None:
    runs, correct = ledger(Grid(), arms(0.75, 0.8, 0.8), rng(9))
    evidence = Evidence.of(runs, correct)
    [found] = verdicts(evidence).to_dicts()
    [one] = settings_of(evidence)
    said = found["sentence"]
    assert said.startswith("Copy the module: without further training it beats the bare host by +") and said.endswith(
        "."
    )
    for text in (
        f"[{found['low']:+.3f}, {found['high']:+.3f}]",
        f"it keeps {one.shares['copy'].share:.0%} [",
        "of the lift of 120 steps from scratch",
        "jointly 95% intervals over 5 seeds and 300 test items",
    ):
        assert text in said
    assert "\n" not in said and list(found) == list(SCHEMA)


def test_regret_is_what_the_best_would_have_given() -> None:
    runs, correct = ledger(Grid(), arms(0.75, 0.8, 0.8), rng(10))
    [found] = verdicts(Evidence.of(runs, correct)).to_dicts()
    mean = {(a, b): v for a, b, v in runs.group_by("arm", "budget").agg(pl.col("accuracy").mean()).iter_rows()}
    pairs = [(mean["ported", b], mean["bare", 0] if b == 0 else mean["scratch", b]) for b in (0, 10, 40)]
    assert found["regret"] == pytest.approx(np.mean([max(p) - p[0] for p in pairs]))


def test_regret_of_policies_on_pairs_they_have_not_seen() -> None:
    """Copying helps on five pairs and harms on one: what the others teach costs on that one."""
    pairs = tuple((f"o{i}", f"n{i}") for i in range(6))

    def rate(key: Key) -> float:
        return (arms(0.45, 0.5, 0.6) if key.receiver == "n5" else arms(0.78, 0.8, 0.82))(key)

    evidence = Evidence.of(*ledger(Grid(("lora", "prefix"), pairs), rate, rng(11)))
    found = {(row["policy"], row["technique"]): row for row in regret_report(evidence).to_dicts()}
    copy, retrain, other, own = (
        found[policy, None]["regret"]
        for policy in ("always copy", "always scratch", "best on other pairs", "own verdict, else scratch")
    )
    assert other == pytest.approx(copy)  # five of six say: copy; the sixth is taught by the other five too
    assert own < copy < retrain and own == pytest.approx(0, abs=0.005)
    assert {row["pairs"] for row in found.values()} == {6} and ("always copy", "lora") in found
    one = regret_report(Evidence.of(*ledger(Grid(), arms(0.78, 0.8, 0.82), rng(12))))
    assert one.filter(policy="best on other pairs")["regret"].null_count() == 2  # no other pair, no policy


def test_settings_without_a_rival_are_left_open() -> None:
    runs, correct = ledger(Grid(), arms(0.75, 0.8, 0.8), rng(13))
    alone = runs.filter(pl.col("arm") == "ported")
    [found] = verdicts(Evidence.of(alone, correct)).to_dicts()
    assert found["verdict"] == "not enough evidence" and "no arm to compare the module with" in found["sentence"]
    assert len(verdicts(Evidence.of(runs.filter(pl.col("arm") != "ported"), correct))) == 0


# --- the rule ------------------------------------------------------------------------------------------------------


def duel(budget: int, gain: float, margin: float = 0.05) -> Contrast:
    return Contrast(budget, gain, gain - margin, gain + margin)


def test_the_settled_comparison_with_the_largest_budget_decides() -> None:
    assert decided([duel(0, 0.1), duel(10, -0.1), duel(40, 0.0)]) == -1
    assert decided([duel(40, 0.01), duel(0, 0.1)]) == 1
    assert decided([duel(0, 0.0)]) == decided([]) == 0


DUELS = st.lists(
    st.builds(duel, st.sampled_from([0, 10, 40]), st.floats(-0.2, 0.2)),
    min_size=1,
    max_size=3,
    unique_by=lambda d: d.budget,
)
METHODS = ("copy", "theseus", "skip", "distill")


@given(st.dictionaries(st.sampled_from(METHODS), DUELS, max_size=4), st.data())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_no_winner_the_intervals_do_not_support(duels: Mapping[str, Sequence[Contrast]], data: st.DataObject) -> None:
    between = {
        (one, other): data.draw(DUELS) for one in duels for other in duels if METHODS.index(one) < METHODS.index(other)
    }
    found = decide(duels, between)
    if found.method is not None:
        assert decided(duels[found.method]) > 0 and found.word == word_of(found.method)
        assert found.carried_by in duels[found.method] and found.carried_by.low > 0
        if "copy" in duels and decided(duels["copy"]) > 0 and found.method != "copy":
            assert any(decided(own) > 0 for (cheaper, _), own in between.items() if cheaper == "copy")
    elif found.word == "retrain":
        assert duels and all(decided(own) < 0 for own in duels.values()) and found.carried_by is not None
    else:
        assert found.carried_by is None and not any(decided(own) > 0 for own in duels.values())


# --- one comparison ------------------------------------------------------------------------------------------------


def comparison(n: int, correct: Mapping[str, Mapping[int, Sequence[float]]], bare: float, seed: int = 0) -> Comparison:
    """Arms with given accuracies: arm -> budget -> one a seed."""
    draws = rng(seed)

    def scores(rate: float) -> Scores:
        labels = np.arange(n) % 2
        right = draws.random(n) < rate
        return Scores(np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)], labels)

    found = {
        (a, b, s): scores(r) for a, own in correct.items() for b, rates in own.items() for s, r in enumerate(rates)
    }
    first = next(iter(correct.values()))
    plan = ComparisonPlan(tuple(first), tuple(range(len(next(iter(first.values()))))), tuple(correct))  # type: ignore[arg-type]
    return Comparison("lora", "old", "new", "toy", plan, 1e-3, scores(bare), [], found)


THREE = {
    "ported": {0: (0.8,) * 3, 20: (0.85,) * 3},
    "sampled": {0: (0.5,) * 3, 20: (0.6,) * 3},
    "scratch": {0: (0.5,) * 3, 20: (0.6,) * 3},
}


def test_a_comparison_becomes_the_tables_of_a_study() -> None:
    one = comparison(200, THREE, 0.5)
    frames = compare_frames([one])
    assert dict(frames.runs.schema) == run_columns()
    assert len(frames.runs) == len(frames.correct) == 3 * 2 * 3 + 3 + 1
    by_arm = frames.runs.group_by("arm").agg(pl.col("method").unique(), pl.col("origin").unique())
    methods = {arm: own for arm, own, _ in by_arm.iter_rows()}
    assert (methods["ported"], methods["sampled"], methods["scratch"]) == (["copy"], ["gaussian"], [None])
    assert frames.runs.filter(arm="ceiling")["budget"].unique().to_list() == [20]
    for run, accuracy, items in frames.runs.select("run", "accuracy", "n_items").iter_rows():
        right = frames.correct.filter(run=run)["correct"][0].to_numpy()
        assert (right.mean(), len(right)) == (pytest.approx(accuracy), items)


def verdict_of(one: Comparison) -> dict[str, Any] | None:
    found = ComparisonAnalysis([one]).verdicts
    return found.row(0, named=True) if len(found) else None


def test_a_comparison_gets_a_verdict() -> None:
    found = verdict_of(comparison(300, THREE, 0.5))
    assert found is not None
    assert (found["verdict"], found["method"], found["origin"], found["receiver"]) == ("copy", "copy", "old", "new")
    assert "of the lift of 20 steps from scratch" in found["sentence"]
    equal = {arm: {0: (0.6,) * 3} for arm in ("ported", "sampled")}
    open_ = verdict_of(comparison(60, equal, 0.6))
    assert open_ is not None and open_["verdict"] == "not enough evidence"
    assert verdict_of(comparison(60, {"scratch": {0: (0.6,)}}, 0.6)) is None


def test_one_seed_says_what_it_covers() -> None:
    found = verdict_of(comparison(300, {"ported": {0: (0.8,)}, "scratch": {0: (0.5,)}}, 0.5))
    assert found is not None and found["verdict"] == "copy"
    assert "300 test items; one seed, so they say nothing of other seeds" in found["sentence"]
