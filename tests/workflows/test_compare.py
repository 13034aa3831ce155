"""The comparison on a pico host: every run is there, repeats, equals the same training alone, and claims no more."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from peftport.analysis.stats.crossed import crossed_from_items
from peftport.core.arms import ARMS, BARE
from peftport.core.errors import BadRequest, SlotMismatch, UnknownName
from peftport.core.hashing import rng_for
from peftport.modules.module import HEAD, Module
from peftport.objectives import bind_objective
from peftport.porting import SAMPLERS, porter_named, sampler_named
from peftport.report.tables import comparison_sentence, comparison_table
from peftport.tasks.task import Dropped, Split, Task
from peftport.techniques import TECHNIQUES
from peftport.training.bound_task import BoundTask, Start
from peftport.training.evaluation import Scores
from peftport.training.loop import TrainSettings
from peftport.workflows.compare_tables import ComparisonAnalysis
from peftport.workflows.comparison import Comparison, ComparisonPlan, run_comparison
from pico import SPECS, TOY, WORDS, pico_host, random_matrices

PLAN = ComparisonPlan(budgets=(0, 2, 5), seeds=(0, 1, 2), learning_rate=1e-2)
host_of = cache(pico_host)  # shared: nothing may change it
by_technique = pytest.mark.parametrize("technique", TECHNIQUES)


def split_of(n: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    made = [" ".join(rng.choice(WORDS, size=rng.integers(3, 9))) for _ in range(n)]
    labels = np.array([i % 2 for i in range(n)], dtype=np.int64)
    return Split(tuple(f"{seed}-{i}" for i in range(n)), tuple(made), labels)


TASK = Task(TOY, split_of(40, 0), split_of(8, 1), split_of(30, 2), Dropped())


def bound_task_of(model_type: str = "bert", readout: str = "prototype", seed: int = 1) -> BoundTask:
    view = "language_model" if readout == "label_tokens" else "body"
    host = host_of(model_type, seed=seed, view=view, dtype=torch.float64)
    mark = host.fingerprint.model_copy(update={"name": "the-receiver"})
    host = replace(host, name="the-receiver", fingerprint=mark)
    return BoundTask(host, TASK, bind_objective(readout, host, TOY), TrainSettings(batch_size=4), test_items=20)


def module_of(technique: str, model_type: str = "bert", head: bool = False) -> Module:
    origin = host_of(model_type)
    matrices = random_matrices(origin, SPECS[technique])
    if head:
        weight = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
        matrices[HEAD] = {"weight": weight, "bias": torch.tensor([0.1, -0.2])}
    return Module(SPECS[technique], origin.fingerprint, matrices)


@by_technique
@pytest.mark.parametrize(("model_type", "readout"), [("bert", "prototype"), ("bert", "linear"), ("t5", "label_tokens")])
def test_every_run_is_a_row(technique: str, model_type: str, readout: str) -> None:
    """Arms x budgets x seeds; the ported module before training is one module, so its seeds agree."""
    bound_task = bound_task_of(model_type, readout)
    found = run_comparison(module_of(technique, model_type, head=readout == "linear"), bound_task, PLAN)
    keys = [(row.arm, row.budget, row.seed) for row in found.rows]
    assert keys == [(arm, budget, seed) for arm in ARMS for budget in (0, 2, 5) for seed in (0, 1, 2)]
    assert keys == list(found.scores)
    for row in found.rows:
        scores = found.scores[row.arm, row.budget, row.seed]
        assert (row.technique, row.origin, row.receiver) == (technique, f"pico-{model_type}", "the-receiver")
        assert row.measures == scores.measures() and row.as_row()["accuracy"] == scores.accuracy
        assert row.n_items == len(scores.labels) == 20
        assert np.array_equal(scores.labels, TASK.test.labels[:20])
        assert row.seconds >= 0

    def all_of(arm: str, budget: int) -> list[bytes]:
        return [found.scores[arm, budget, seed].scores.tobytes() for seed in PLAN.seeds]

    assert len(set(all_of("ported", 0))) == 1
    assert len(set(all_of("ported", 2))) == len(set(all_of("sampled", 0))) == len(set(all_of("scratch", 5))) == 3
    assert json.loads(json.dumps(found.as_json()))["rows"][0]["arm"] == "ported"


@by_technique
def test_a_comparison_repeats(technique: str) -> None:
    """The same numbers twice, bit for bit; only the time taken may differ."""
    module, bound_task = module_of(technique), bound_task_of()
    one, other = run_comparison(module, bound_task, PLAN), run_comparison(module, bound_task_of(), PLAN)
    assert all(np.array_equal(one.scores[key].scores, other.scores[key].scores) for key in one.scores)
    assert [replace(row, seconds=0) for row in one.rows] == [replace(row, seconds=0) for row in other.rows]
    found = [ComparisonAnalysis([each]).difference("ported", "sampled", 2) for each in (one, other)]
    assert found[0] == found[1]


@by_technique
@pytest.mark.parametrize("readout", ["prototype", "linear"])
def test_an_arm_equals_its_training_alone(technique: str, readout: str) -> None:
    """Scratch: fresh of the seed. Sampled: drawn from the ported. Ported: the module itself. On the seed's batches."""
    bound_task, module, spec = (
        bound_task_of(readout=readout),
        module_of(technique, head=readout == "linear"),
        SPECS[technique],
    )
    found = run_comparison(module, bound_task, PLAN)
    ported = porter_named("copy").port(module, bound_task.host, rng_for(0, "porting"))
    for seed, budget in ((0, 0), (1, 2), (2, 5)):
        drawn = sampler_named("gaussian").port(ported, bound_task.host, rng_for(seed, "sampling"))
        starts = {
            "scratch": bound_task.fresh(spec, seed),
            "sampled": bound_task.startable(drawn),
            "ported": bound_task.startable(ported),
        }
        for arm, start in starts.items():
            [kept] = bound_task.train(spec, [Start(start, seed)], (budget,), 1e-2)
            [alone] = bound_task.test(spec, [kept[budget].matrices])
            np.testing.assert_allclose(found.scores[arm, budget, seed].scores, alone.scores, rtol=0, atol=1e-5)


def test_arms_can_be_left_out_and_change_nothing() -> None:
    module, bound_task = module_of("lora"), bound_task_of()
    whole, part = (
        run_comparison(module, bound_task, PLAN),
        run_comparison(module, bound_task, replace(PLAN, arms=("scratch",), seeds=(1,))),
    )
    assert [(row.arm, row.seed) for row in part.rows] == [("scratch", 1)] * 3
    for key, scores in part.scores.items():
        np.testing.assert_allclose(scores.scores, whole.scores[key].scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_can_be_an_arm(sampler: str) -> None:
    found = run_comparison(module_of("lora"), bound_task_of(), ComparisonPlan((0,), (0, 1), sampler=sampler))
    ported, *sampled = (found.scores[key].scores for key in (("ported", 0, 0), ("sampled", 0, 0), ("sampled", 0, 1)))
    assert all(not np.array_equal(one, ported) for one in sampled)
    assert found.as_json()["plan"]["sampler"] == sampler


def test_the_bare_host_is_the_host_without_a_module() -> None:
    bound_task = bound_task_of()
    found = run_comparison(module_of("lora"), bound_task, ComparisonPlan((0,), (0,)))
    assert np.array_equal(found.bare.scores, bound_task.test(None, [])[0].scores)
    np.testing.assert_array_equal(found.scores["scratch", 0, 0].scores, found.bare.scores)  # a fresh LoRA does nothing


def test_a_head_for_other_labels_is_refused() -> None:
    """Of another number of labels, or no head at all under that name."""
    module, bound_task = module_of("lora"), bound_task_of(readout="linear")
    for head in ({"weight": torch.ones(3, 16), "bias": torch.ones(3)}, {"bias": torch.ones(2)}):
        with pytest.raises(SlotMismatch, match="^readout: .*the-receiver") as refusal:
            run_comparison(module.with_matrices({**module.matrices, HEAD: head}), bound_task, PLAN)
        assert refusal.value.exit_code == 2 and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"arms": ("ported", "scrach")}, UnknownName, "unknown arm 'scrach': did you mean 'scratch'"),
        ({"arms": ()}, BadRequest, "at least one seed and one arm"),
        ({"arms": ("ported", "ported")}, BadRequest, "--arms: expected each once"),
        ({"seeds": ()}, BadRequest, "at least one seed and one arm"),
        ({"seeds": (0, 1, 0)}, BadRequest, "--seeds: expected each once"),
        ({"budgets": ()}, BadRequest, "--budgets"),
        ({"budgets": (0, 5, 5)}, BadRequest, "--budgets"),
        ({"budgets": (-1,)}, BadRequest, "--budgets"),
        ({"method": "copi"}, UnknownName, "did you mean 'copy'"),
        ({"sampler": "gausian"}, UnknownName, "did you mean 'gaussian'"),
    ],
)
def test_an_impossible_plan_is_refused(changes: dict[str, Any], error: type[BadRequest], message: str) -> None:
    with pytest.raises(error, match=message) as refusal:
        ComparisonPlan(**changes)
    assert refusal.value.exit_code == 2 and "\n" not in str(refusal.value)


# --- what is said of it ----------------------------------------------------------------------------------------------


def planted(technique: str, correct: dict[str, Sequence[Any]], n: int) -> Comparison:
    """A comparison with given correctness at budget 0: for each arm one array (N,) a seed."""

    def scores(right: Any) -> Scores:
        right = np.asarray(right, dtype=bool)
        labels = np.arange(n) % 2
        said = np.where(right, labels, 1 - labels)
        return Scores(np.eye(2, dtype=np.float32)[said], labels)

    found = {(arm, 0, seed): scores(right) for arm, seeds in correct.items() for seed, right in enumerate(seeds)}
    arms: Any = tuple(correct)
    plan = ComparisonPlan((0,), tuple(range(len(correct[arms[0]]))), arms)
    bare = scores(np.arange(n) % 2 == 0)
    return Comparison(technique, "origin", "receiver", "toy", plan, 1e-3, bare, [], found)


def claims(comparisons: Sequence[Comparison]) -> dict[str, str]:
    """What the sentence says of each technique: beats, worse or open."""
    sentence = comparison_sentence(ComparisonAnalysis(comparisons))
    assert len(sentence.splitlines()) == 1 and sentence.endswith(".")
    verdicts: dict[str, str] = {}
    for part in sentence.split("; "):
        kinds = [kind for kind in ("beats", "worse", "not settled") if kind in part]
        assert len(kinds) == 1, sentence
        verdicts.update({c.technique: kinds[0] for c in comparisons if re.search(rf"\b{c.technique} \(", part)})
    assert verdicts.keys() == {c.technique for c in comparisons}, sentence
    return verdicts


def expected(comparisons: Sequence[Comparison]) -> dict[str, str]:
    """The claims by the items themselves: crossed differences, and Holm over the techniques."""
    found = {}
    for one in comparisons:
        right = [[one.scores[arm, 0, s].correct for s in one.plan.seeds] for arm in ("ported", "sampled")]
        contrast = crossed_from_items(np.array([right], dtype=np.uint8)).contrast([1.0, -1.0])
        found[one.technique] = (float(contrast.estimate[0]), float(contrast.p[0]))
    adjusted = multipletests([p for _, p in found.values()], method="holm")[1]
    return {
        name: "not settled" if p >= 0.05 else "beats" if gain > 0 else "worse"
        for (name, (gain, _)), p in zip(found.items(), adjusted, strict=True)
    }


def noisy(rng: np.random.Generator, rate: float, n: int, seeds: int = 5) -> list[Any]:
    return [rng.random(n) < rate for _ in range(seeds)]


def test_the_sentence_says_what_the_intervals_carry() -> None:
    rng = np.random.default_rng(0)
    up = planted("lora", {"ported": noisy(rng, 0.9, 200), "sampled": noisy(rng, 0.5, 200)}, 200)
    down = planted("adapter", {"ported": noisy(rng, 0.4, 200), "sampled": noisy(rng, 0.8, 200)}, 200)
    same = [rng.random(200) < 0.6]
    equal = planted("prefix", {"ported": same, "sampled": same}, 200)
    shifted = np.roll(same[0], 1)
    shifted[:2] = False  # one or two items less: other items right, hardly fewer
    close = planted("compacter", {"ported": same, "sampled": [shifted]}, 200)
    assert claims([up, down, equal, close]) == {
        "lora": "beats", "adapter": "worse", "prefix": "not settled", "compacter": "not settled",
    }  # fmt: skip
    for one, verdict in ((up, "beats"), (down, "worse"), (equal, "not settled"), (close, "not settled")):
        assert claims([one]) == {one.technique: verdict}


@given(st.integers(0, 10**6), st.floats(0.2, 0.8), st.floats(-0.4, 0.4), st.integers(40, 80))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_the_sentence_never_claims_what_an_interval_leaves_open(seed: int, rate: float, gain: float, n: int) -> None:
    """Two techniques, so that both intervals must hold jointly."""
    rng = np.random.default_rng(seed)
    comparisons = [
        planted(name, {"ported": noisy(rng, rate + by, n), "sampled": noisy(rng, rate, n)}, n)
        for name, by in (("lora", gain), ("adapter", 0.0))
    ]
    verdicts = claims(comparisons)
    for comparison in comparisons:
        interval = ComparisonAnalysis([comparison]).difference("ported", "sampled", 0)
        if interval.low <= 0 <= interval.high:
            assert verdicts[comparison.technique] == "not settled"
    assert verdicts == expected(comparisons)


def test_several_techniques_are_judged_together() -> None:
    """A difference that 95 % would settle for one alone stays open among twenty."""
    n = 100
    ported = np.arange(n) < 60
    sampled = ported.copy()
    sampled[:6] = False  # six items decide: the exact permutation p of five is 0.0625
    one = planted("lora", {"ported": [ported], "sampled": [sampled]}, n)
    assert ComparisonAnalysis([one]).difference("ported", "sampled", 0).low > 0
    assert claims([one]) == {"lora": "beats"}
    assert "95% intervals" in comparison_sentence(ComparisonAnalysis([one]))
    many = [replace(one, technique=f"t{index:03d}") for index in range(200)]
    sentence = comparison_sentence(ComparisonAnalysis(many))
    assert "beats" not in sentence and "not settled" in sentence and "settled by Holm" in sentence


def test_without_a_sampled_arm_the_bare_host_is_the_measure() -> None:
    n = 100
    one = planted("lora", {"ported": [np.ones(n, bool)], "scratch": [np.zeros(n, bool)]}, n)
    assert f"beats the {BARE} without further training for lora (+0.500" in comparison_sentence(
        ComparisonAnalysis([one])
    )
    none = planted("lora", {"scratch": [np.ones(n, bool)]}, n)
    assert comparison_sentence(ComparisonAnalysis([none])).startswith(
        "No ported arm was asked for; the bare host scores 0.500"
    )


def test_the_table_holds_every_mean() -> None:
    rng = np.random.default_rng(0)
    right = {arm: noisy(rng, 0.5, 50, seeds=3) for arm in ARMS}
    table = comparison_table(ComparisonAnalysis([planted("lora", right, 50)]))
    assert table.columns == ("technique", "arm", "0 steps")
    by_arm = {row[1]: row[2] for row in table.rows[1:]}
    for arm, seeds in right.items():
        means = [float(np.mean(one)) for one in seeds]
        assert by_arm[arm].startswith(f"{np.mean(means):.3f}")
        assert f"({min(means):.3f}-{max(means):.3f})" in by_arm[arm]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert table.markdown().count("\n|") == len(table.rows) + 2
