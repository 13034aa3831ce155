"""Reference arms: few-shot reads training items only, those of the other arms; an offset of nothing is the receiver."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import peftport
from peftport.core.errors import BadRequest, NotFinite, TaskRefused, UnknownName
from peftport.core.progress import Silent
from peftport.hosts.host import Host
from peftport.modules.module import HEAD, Module
from peftport.objectives import bind_objective
from peftport.objectives.base import mean_pooled
from peftport.report.compared import comparison_page
from peftport.report.tables import comparison_table, reference_sentences
from peftport.tasks.kinds.classification import Scores
from peftport.tasks.task import Dropped, Split, Task
from peftport.training.bound_task import BoundTask
from peftport.training.loop import TrainSettings, batches
from peftport.workflows import references
from peftport.workflows.compare_tables import ComparisonAnalysis
from peftport.workflows.comparison import ComparisonPlan, run_comparison
from peftport.workflows.references import few_shot_of_classes, labelled_items, left_out, logit_offset
from pico import SPECS, TOY, WORDS, pico_host, random_matrices
from pico_folders import Run, cut_off, in_process, save_hosts, save_reviews

PLAN = ComparisonPlan(budgets=(0, 2, 5), seeds=(0, 1), learning_rate=1e-2)
host_of = cache(pico_host)  # shared: nothing may change it


def split_of(n: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    made = [" ".join(rng.choice(WORDS, size=rng.integers(3, 9))) for _ in range(n)]
    return Split(tuple(f"{seed}-{i}" for i in range(n)), tuple(made), np.arange(n, dtype=np.int64) % 2)


TASK = Task(TOY, split_of(40, 0), split_of(12, 1), split_of(30, 2), Dropped())


def bound_on(host: Host, readout: str = "prototype", task: Task = TASK) -> BoundTask:
    settings = TrainSettings(batch_size=4)
    return BoundTask(host, task, bind_objective(readout, host, task.spec), settings, test_items=20)


def receiver(readout: str = "prototype", model_type: str = "bert") -> BoundTask:
    view = "language_model" if readout == "label_tokens" else "body"
    host = host_of(model_type, seed=1, view=view, dtype=torch.float64)
    mark = host.fingerprint.model_copy(update={"name": "the-receiver"})
    return bound_on(replace(host, name="the-receiver", fingerprint=mark), readout)


def home(readout: str = "prototype") -> BoundTask:
    return bound_on(host_of("bert", view="language_model" if readout == "label_tokens" else "body"), readout)


def module_of(bound: BoundTask, std: float = 0.3) -> Module:
    return Module(SPECS["lora"], bound.host.fingerprint, random_matrices(bound.host, SPECS["lora"], std=std))


def offset_arm(module: Module, origin: BoundTask, away: BoundTask, factor: float | str = 1.0) -> Scores:
    [bare] = away.test(None, [])
    arm = logit_offset(module, origin, away, bare, factor, "accuracy", Silent())  # type: ignore[arg-type]
    return arm.tests[0, None]


# --- logit_offset -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["prototype", "label_tokens"])
def test_a_module_without_effect_offsets_nothing(readout: str) -> None:
    origin, away = home(readout), receiver(readout)
    silent = module_of(origin, std=0.0)
    [bare] = away.test(None, [])
    assert np.array_equal(offset_arm(silent, origin, away).values, bare.values)


@pytest.mark.parametrize("readout", ["prototype", "label_tokens"])
def test_on_the_origin_itself_the_offset_is_the_module(readout: str) -> None:
    origin = home(readout)
    module = module_of(origin)
    [own] = origin.test(module.spec, [module.matrices])
    np.testing.assert_array_equal(offset_arm(module, origin, origin).values, own.values)


def test_the_offset_is_what_it_says() -> None:
    origin, away = home(), receiver()
    module = module_of(origin)
    [own], [alone], [bare] = origin.test(module.spec, [module.matrices]), origin.test(None, []), away.test(None, [])
    for factor in (0.0, 0.5, 2.0):
        expected = bare.values + factor * (own.values - alone.values)
        np.testing.assert_allclose(offset_arm(module, origin, away, factor).values, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -1e300, 1e39])
def test_nothing_is_read_from_scores_that_are_no_numbers(factor: float) -> None:
    origin, away = home(), receiver()
    with pytest.raises(NotFinite, match="reference arm logit_offset: expected finite scores, got NaN or infinity"):
        offset_arm(module_of(origin), origin, away, factor)
    assert np.isfinite(offset_arm(module_of(origin), origin, away, 1e6).values).all()


def test_validation_items_alone_choose_the_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test items' labels are turned over: the choice stays, and it is the best on validation items."""
    origin, away = home(), receiver()
    module = module_of(origin)
    turned = replace(TASK, test=replace(TASK.test, targets=1 - TASK.test.targets))
    chosen = []
    for task in (TASK, turned):
        there, here = replace(origin, task=task), replace(away, task=task)
        [bare] = here.test(None, [])
        arm = logit_offset(module, there, here, bare, "validation", "accuracy", Silent())  # type: ignore[arg-type]
        chosen.append(arm.title.rpartition(" ")[2])
        assert f"{min(20, len(TASK.valid))} validation labels" in arm.cost
    assert chosen[0] == chosen[1]
    [own], [alone] = origin.validate(module.spec, [module.matrices]), origin.validate(None, [])
    [bare] = away.validate(None, [])
    right = {
        b: float((np.argmax(bare.values + b * (own.values - alone.values), 1) == TASK.valid.targets).mean())
        for b in references.FACTORS
    }
    assert right[float(chosen[0])] == max(right.values())
    empty = replace(TASK, valid=TASK.valid.head(0))
    with pytest.raises(TaskRefused, match="--offset validation: toy: expected validation items"):
        offset_arm(module, replace(origin, task=empty), replace(away, task=empty), "validation")


@pytest.mark.parametrize("headed", [False, True])
@pytest.mark.parametrize("readout", ["prototype", "label_tokens", "linear"])
def test_the_offset_is_left_out_where_the_module_lacks_the_head_that_the_readout_needs(
    readout: str, headed: bool
) -> None:
    """A fresh head knows nothing, so what it changes on the origin would be no offset of the module's."""
    away = receiver(readout)
    module = module_of(home(readout))
    if headed:
        head = {"weight": torch.ones(2, away.host.width), "bias": torch.zeros(2)}
        module = module.with_matrices({**module.matrices, HEAD: head})
    notes = left_out(["few_shot", "logit_offset"], module, away, PLAN.budgets, None)
    assert list(notes) == (["logit_offset"] if readout == "linear" and not headed else [])
    told = f"reference arm logit_offset is left out: the module has no head, and readout {readout} scores nothing"
    assert all(note.startswith(told) for note in notes.values())


# --- few_shot ---------------------------------------------------------------------------------------------------------


def test_examples_are_what_the_arms_have_learnt_from() -> None:
    bound = receiver()
    for seed in (0, 1):
        picks = list(islice(batches(bound.train_split.rows, 4, seed), 5))
        for budget in (1, 2, 5):
            expected = sorted({int(place) for pick in picks[:budget] for place in pick})
            assert labelled_items(bound, budget, seed).tolist() == expected
    assert labelled_items(bound, 2, 0).tolist() != labelled_items(bound, 2, 1).tolist()
    assert len(labelled_items(bound, 500, 0)) == len(TASK.train)  # no more than there are


@pytest.mark.parametrize("seeds", [(0,), (3,), (0, 1, 2, 3, 4, 5)])
def test_the_cost_counts_the_labels_of_every_seed(seeds: tuple[int, ...]) -> None:
    """In the second epoch some items come again and some for the first time, more or fewer with another seed."""
    bound = replace(receiver(), task=replace(TASK, train=split_of(150, 3)))  # 37 batches an epoch, and two items
    arm = few_shot_of_classes(bound, (0, 3, 55), seeds, Silent())
    counts = {budget: {len(labelled_items(bound, budget, seed)) for seed in seeds} for budget in (3, 55)}
    assert counts[3] == {12} and (len(counts[55]) > 1) == (len(seeds) > 1)
    low, high = min(counts[55]), max(counts[55])
    span = f"{low} to {high}" if low < high else f"{low}"
    assert arm.cost.startswith(f"12 labels at 3 steps, {span} labels at 55 steps; each example")


@pytest.mark.parametrize("model_type", ["bert", "t5", "llama"])
def test_scores_are_cosines_to_the_means_of_classes(model_type: str) -> None:
    readout = "prototype" if model_type == "bert" else "label_tokens"
    bound = receiver(readout, model_type)
    arm = few_shot_of_classes(bound, (0, 2), (1,), Silent())
    assert list(arm.tests) == [(2, 1)]
    reader = bind_objective("linear", bound.host, TOY)

    def feature(text: str) -> Any:
        with torch.no_grad():
            own = mean_pooled(bound.host, reader.encode([text]), 0)[0].numpy()
        return own / np.linalg.norm(own)

    items = labelled_items(bound, 2, 1)
    means = [
        np.mean([feature(TASK.train.texts[i]) for i in items if TASK.train.targets[i] == label], axis=0)
        for label in (0, 1)
    ]
    for place, text in enumerate(TASK.test.texts[:20]):
        expected = [feature(text) @ mean / np.linalg.norm(mean) / 0.05 for mean in means]
        np.testing.assert_allclose(arm.tests[2, 1].values[place], expected, rtol=1e-5, atol=1e-5)
    assert arm.tests[2, 1].targets.tolist() == TASK.test.targets[:20].tolist()


def test_labels_of_test_and_validation_items_are_never_read() -> None:
    bound = receiver()
    turned = replace(
        TASK,
        test=replace(TASK.test, targets=1 - TASK.test.targets),
        valid=replace(TASK.valid, targets=1 - TASK.valid.targets),
    )
    one, other = (few_shot_of_classes(replace(bound, task=task), (3,), (0,), Silent()) for task in (TASK, turned))
    assert np.array_equal(one.tests[3, 0].values, other.tests[3, 0].values)


def test_a_class_without_an_example_is_the_last_choice() -> None:
    one_class = replace(TASK, train=replace(TASK.train, targets=np.zeros(40, dtype=np.int64)))
    arm = few_shot_of_classes(replace(receiver(), task=one_class), (2,), (0,), Silent())
    assert np.all(arm.tests[2, 0].values[:, 1] == -20) and np.all(np.argmax(arm.tests[2, 0].values, 1) == 0)


# --- in a comparison --------------------------------------------------------------------------------------------------


def test_references_are_shown_and_are_no_ports() -> None:
    """In the table, the sentences, JSON and the page; gains, verdict and summary stay what they are without them."""
    origin, away = home(), receiver()
    module = module_of(origin)
    plain = run_comparison(module, away, PLAN)
    [bare] = away.test(None, [])
    arms = (
        few_shot_of_classes(away, PLAN.budgets, PLAN.seeds, Silent()),
        logit_offset(module, origin, away, bare, 1.0, "accuracy", Silent()),  # type: ignore[arg-type]
    )
    beside = replace(plain, references=arms)
    before, after = ComparisonAnalysis([plain]), ComparisonAnalysis([beside])
    assert before.gains.equals(after.gains) and before.verdicts.equals(after.verdicts)
    assert before.curves.equals(after.curves)
    assert "references" not in plain.as_json()
    document = json.loads(json.dumps(beside.as_json()))
    assert {key: value for key, value in document.items() if key != "references"} == json.loads(
        json.dumps(plain.as_json())
    )
    assert [arm["name"] for arm in document["references"]] == ["few_shot", "logit_offset"]
    assert [(row["budget"], row["seed"]) for row in document["references"][0]["rows"]] == [
        (2, 0), (2, 1), (5, 0), (5, 1),
    ]  # fmt: skip
    table = {row[1]: row for row in comparison_table(after).rows if row[0] == "reference"}
    assert table["few_shot"][2] == "" and table["few_shot"][3].startswith(
        f"{np.mean([arms[0].tests[2, seed].accuracy for seed in (0, 1)]):.3f}"
    )
    offset = f"{arms[1].tests[0, None].accuracy:.3f}"
    assert table["logit_offset"][2:] == (offset, "", "")
    later = replace(beside, plan=replace(PLAN, budgets=(2, 5)))
    shown = {row[1]: row for row in comparison_table(ComparisonAnalysis([later])).rows if row[0] == "reference"}
    assert shown["logit_offset"][2:] == (offset, "")  # it is no arm of a budget
    said = reference_sentences(after)
    assert all(s.startswith(f"Reference {name}, no port:") for s, name in zip(said, table, strict=True))
    assert "8 labels at 2 steps, 20 labels at 5 steps" in said[0] and "both in memory" in said[1]
    gain = after.difference("ported", "few_shot", 5)
    right = [beside.scores["ported", 5, seed].correct.mean() - arms[0].tests[5, seed].accuracy for seed in (0, 1)]
    assert gain.estimate == pytest.approx(np.mean(right)) and f"{gain.estimate:+.3f} [" in said[0]
    page = comparison_page(after, "peftport compare")
    assert "Reference few_shot, no port" in page and "Reference logit_offset, no port" in page


def test_compare_takes_them(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cut_off(monkeypatch, tmp_path / "cache")
    run: Run = in_process(monkeypatch, capfd)
    hosts = save_hosts(tmp_path, ["bert", "bert-updated", "llama", "llama-updated"])
    reviews = save_reviews(tmp_path / "reviews.csv")
    made = run("train", hosts["bert"], reviews, "--technique", "lora", "--steps", 2, "--out", tmp_path / "m")
    assert made.code == 0, made.err
    asked = ["compare", tmp_path / "m", "--to", hosts["bert-updated"], "--task", reviews, "--budgets", "0,2"]
    asked += ["--seeds", 2, "--batch-size", 4, "--json"]
    plain = run(*asked)
    both = ["--from", hosts["bert"], "--references", "few_shot,logit_offset"]
    found = run(*asked, *both, "--offset", "validation", "--out", tmp_path / "page.html")
    assert (plain.code, found.code) == (0, 0), found.err
    assert found.json["rows"][0].keys() == plain.json["rows"][0].keys()
    values = [[row["accuracy"] for row in one.json["rows"]] for one in (plain, found)]
    assert values[0] == values[1] and "references" not in plain.json
    unread = run(*asked[:6], "--budgets", "0", "--seeds", 1, "--references", "few_shot")
    assert "reference arm few_shot is left out: it has as many labels as training reads" in unread.out + unread.err
    assert [arm["name"] for arm in found.json["references"]] == ["few_shot", "logit_offset"]
    assert len(found.json["references_summary"]) == 2
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "--references few_shot,logit_offset --offset validation" in page
    headless = run(*asked[:6], "--budgets", "0", "--seeds", 1, "--readout", "linear", *both, "--json")
    assert headless.code == 0 and headless.json.get("references", []) == []
    assert any("logit_offset is left out: the module has no head" in line for line in headless.json["remarks"])
    for wrong, says in (
        (["--references", "fewshot"], "unknown reference arm 'fewshot': did you mean 'few_shot'"),
        (["--offset", "2"], "--offset 2.0: expected with --references logit_offset"),
        (["--references", "logit_offset", "--offset", "much"], "--offset: "),
        (["--references", "logit_offset", "--from", hosts["llama"]], "expected a module of llama"),
    ):
        told = run(*asked, *wrong)
        assert told.code == 2 and told.err.count("\n") == 1 and says in told.err, told.err
    import shutil

    shutil.move(hosts["bert"], tmp_path / "elsewhere")
    told = run(*asked, "--references", "logit_offset")
    assert told.code == 2 and told.err.count("\n") == 1 and "name its folder with --from HOST" in told.err, told.err


def test_where_they_cannot_serve_they_are_left_out_with_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cut_off(monkeypatch, tmp_path / "cache")
    hosts = save_hosts(tmp_path, ["llama", "llama-updated"])
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.permutation(WORDS[:14])[: rng.integers(4, 9)]) for _ in range(120)]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps({"text": t, "label": t.split()[-1]}) + "\n" for t in texts), encoding="utf-8")
    from peftport.tasks import load_task

    questions = load_task(str(file), kind="completion")
    short: dict[str, Any] = dict(max_tokens=24, test_items=6, generate=0)
    peftport.train(hosts["llama"], questions, "lora", out=tmp_path / "m", steps=1, **short)
    found = peftport.compare(
        tmp_path / "m", to=hosts["llama-updated"], task=questions, budgets=(0,), seeds=1, arms=("ported",),
        references=("few_shot", "logit_offset"), **short,
    )  # fmt: skip
    notes = [remark for remark in found.remarks() if remark.startswith("reference arm")]
    assert len(notes) == 1 and "logit_offset is left out" in notes[0] and "one vocabulary" in notes[0]
    assert len(found.as_json()["few_shot"]) == 1 and "references" not in found.as_json()


def test_unknown_references_are_refused_in_python() -> None:
    with pytest.raises(UnknownName, match="reference arm"):
        peftport.compare("m", to="h", task="t", references=("none",))
    with pytest.raises(BadRequest, match="offset"):
        peftport.compare("m", to="h", task="t", references=("logit_offset",), offset="all")
    for offset in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(BadRequest, match="offset .*: expected a finite number or validation"):
            peftport.compare("m", to="h", task="t", references=("logit_offset",), offset=offset)
