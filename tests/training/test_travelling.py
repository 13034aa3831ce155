"""Training for modules that travel: the norm penalty, and FFNs that are left out or masked, each off by default."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from peftport.core.errors import BadRequest
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.hosts.loading import Loading
from peftport.modules.module import stack
from peftport.objectives import bind_objective
from peftport.objectives.base import Objective
from peftport.study.jobs import JobIds
from peftport.techniques import TECHNIQUES, technique_named
from peftport.techniques.base import SHARED, TechniqueSpec
from peftport.training.evaluation import predict_entries
from peftport.training.loop import Checkpoint, Entry, TrainSettings, squared_norm, train_entries
from peftport.training.perturbation import Perturbation, perturbed
from pico import SPECS, TOY, inputs_of, pico_host, random_matrices
from pico_folders import Run, cut_off, in_process, save_hosts, save_reviews
from pico_study import TINY, plan_of

host_of = cache(pico_host)  # shared: nothing may change it
HOSTS = {"bert": "prototype", "t5": "label_tokens", "llama": "label_tokens", "opt": "label_tokens"}
ALL = dict(norm_penalty=0.1, drop_ffn=0.3, mask_ffn=0.2)
OFF = TrainSettings(batch_size=4, max_grad_norm=0.5)
TEXTS = [f"{a} {b} film the plot was {a}" for a in ("good", "bad", "fine", "dull") for b in ("it", "a", "is movie")]
ROWS = ((9, 5, 20, 7, 11, 1), (6, 14, 10, 1, 1, 1))
by_technique = pytest.mark.parametrize("technique", TECHNIQUES)


def bound(model_type: str) -> Objective:
    view = "body" if HOSTS[model_type] == "prototype" else "language_model"
    return bind_objective(HOSTS[model_type], host_of(model_type, view=view, dtype=torch.float64), TOY)


def entry(readout: Objective, spec: TechniqueSpec, seed: int) -> Entry:
    technique = technique_named(spec.kind)
    start = technique.start(spec, technique.slots(spec, readout.host.slots), seed)
    texts = [f"{text} {'was good ' * (seed % 3)}" for text in TEXTS]  # of other lengths in each entry
    return Entry(start, readout.encode(texts), np.arange(len(texts)) % 2, seed, 1e-2)


def run(
    readout: Objective, spec: TechniqueSpec, entries: Sequence[Entry], steps: Sequence[int] = (4,), **asked: float
) -> list[dict[int, Checkpoint]]:
    return train_entries(readout.host, readout, spec, entries, steps, OFF.model_copy(update=asked))


def apart(one: Checkpoint, other: Checkpoint) -> float:
    return max(float((t - other.matrices[s][n]).abs().max()) for s, own in one.matrices.items() for n, t in own.items())


# --- off --------------------------------------------------------------------------------------------------------------


def test_settings_that_are_off_are_not_on_record() -> None:
    """So ids of jobs, which are made of the settings, are those from before there were these."""
    before = {"batch_size": 16, "weight_decay": 0.0, "max_grad_norm": 1.0, "max_tokens": 128}
    assert TrainSettings().model_dump(mode="json") == before
    assert TrainSettings(drop_ffn=0.1).model_dump(mode="json") == {**before, "drop_ffn": 0.1}


@by_technique
@pytest.mark.parametrize("model_type", HOSTS)
def test_off_is_as_it_was(model_type: str, technique: str) -> None:
    readout, spec = bound(model_type), SPECS[technique]
    [plain] = run(readout, spec, [entry(readout, spec, 0)])
    [off] = run(readout, spec, [entry(readout, spec, 0)], norm_penalty=0.0, drop_ffn=0.0, mask_ffn=0.0)
    assert apart(plain[4], off[4]) == 0 and plain[4].loss == off[4].loss


def test_tests_run_on_the_host_as_it_is() -> None:
    """No hook stays behind, and the bare host answers to the bit as before."""
    readout, spec = bound("bert"), SPECS["adapter"]
    rows = readout.encode(TEXTS)
    [before] = predict_entries(readout.host, readout, None, [], rows)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in readout.host.model.modules()]
    [kept] = run(readout, spec, [entry(readout, spec, 0)], **ALL)
    [after] = predict_entries(readout.host, readout, None, [], rows)
    assert np.array_equal(before, after)
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in readout.host.model.modules()]
    tests = [predict_entries(readout.host, readout, spec, [kept[4].matrices], rows)[0] for _ in range(2)]
    assert np.array_equal(*tests)


# --- entries ----------------------------------------------------------------------------------------------------------


@by_technique
@pytest.mark.parametrize("model_type", HOSTS)
def test_an_entry_does_not_feel_its_company(model_type: str, technique: str) -> None:
    readout, spec = bound(model_type), SPECS[technique]
    entries = [entry(readout, spec, seed) for seed in range(4)]
    together = run(readout, spec, entries, (2, 5), **ALL)
    for index in (0, 3):
        [alone] = run(readout, spec, [entries[index]], (2, 5), **ALL)
        for budget in (2, 5):
            assert together[index][budget].loss == pytest.approx(alone[budget].loss, rel=0, abs=1e-9)
            assert apart(together[index][budget], alone[budget]) < 1e-6


@pytest.mark.parametrize("asked", [{name: value} for name, value in ALL.items()], ids=list(ALL))
def test_each_setting_changes_the_training_and_seeds_decide_it(asked: dict[str, float]) -> None:
    readout, spec = bound("bert"), SPECS["lora"]
    one = entry(readout, spec, 0)
    [plain], [first], [again] = (run(readout, spec, [one], (6,), **more) for more in ({}, asked, asked))
    assert apart(first[6], again[6]) == 0 and apart(first[6], plain[6]) > 1e-6
    [long] = run(readout, spec, [one], (2, 6), **asked)
    assert apart(long[6], first[6]) == 0  # budgets are prefixes


# --- the norm penalty -------------------------------------------------------------------------------------------------


@by_technique
def test_the_penalty_is_of_the_whole_update(technique: str) -> None:
    host, spec = host_of("bert", dtype=torch.float64), SPECS[technique]
    modules = [random_matrices(host, spec, seed) for seed in (1, 2)]
    stacked = stack(modules, torch.float64)
    made = technique_named(technique)
    norms = squared_norm(host, spec, stacked)
    for index in range(2):
        updates = [
            made.effective(spec, slot, stacked[name], stacked.get(SHARED, {}))[index]
            for name, slot in made.slots(spec, host.slots).items()
        ]
        torch.testing.assert_close(norms[index], sum(update.square().sum() for update in updates))


def test_factors_of_one_update_have_one_penalty() -> None:
    """B 10 and A / 10 are the same LoRA, so its penalty is the same."""
    host, spec = host_of("bert", dtype=torch.float64), SPECS["lora"]
    one = random_matrices(host, spec, 1)
    other = {slot: {"A": own["A"] / 10, "B": own["B"] * 10} for slot, own in one.items()}
    norms = squared_norm(host, spec, stack([one, other], torch.float64))
    torch.testing.assert_close(norms[0], norms[1])


def test_a_large_penalty_keeps_the_update_small() -> None:
    readout, spec = bound("bert"), SPECS["lora"]
    norms = []
    for penalty in (0.0, 0.1, 10.0):
        [kept] = run(readout, spec, [entry(readout, spec, 0)], (30,), norm_penalty=penalty)
        norms.append(float(squared_norm(readout.host, spec, stack([kept[30].matrices]))[0]))
    assert norms[0] > norms[1] > norms[2] and norms[2] < norms[0] / 4, norms


def test_the_loss_on_record_is_the_task_s() -> None:
    readout, spec = bound("bert"), SPECS["lora"]
    start = {slot: {n: t + 0.5 for n, t in own.items()} for slot, own in entry(readout, spec, 0).start.items()}
    one = replace(entry(readout, spec, 0), start=start)
    plain, penalised = (run(readout, spec, [one], (1,), norm_penalty=c)[0][1].loss for c in (0.0, 100.0))
    assert plain == penalised


# --- the disturbed host -----------------------------------------------------------------------------------------------


def outputs(host: Host, seeds: Sequence[int], **how: float) -> torch.Tensor:
    rows = [row for _ in seeds for row in ROWS]
    with torch.no_grad(), perturbed(host, Perturbation(**how), seeds, 3):
        found: torch.Tensor = host.model(**inputs_of(host, rows)).logits
    return found


@pytest.mark.parametrize("model_type", ["bert", "t5", "llama", "opt", "gpt2", "bart", "distilbert", "phi", "mixtral"])
def test_an_ffn_that_is_left_out_adds_nothing(model_type: str) -> None:
    host = host_of(model_type, dtype=torch.float64)
    without = pico_host(model_type, dtype=torch.float64)
    for slot in [slot for slot in without.slots.values() if slot.site == "ffn_out"]:
        for name, parameter in without.slot_module(slot).named_parameters():
            if slot.kind == "linear" or "experts" in name:
                parameter.data.zero_()
    dropped = outputs(host, [0], drop_ffn=1 - 1e-12)
    torch.testing.assert_close(dropped, outputs(without, [0]))
    assert float((dropped - outputs(host, [0])).abs().max()) > 1e-3


@pytest.mark.parametrize("model_type", ["bert", "t5", "llama", "opt", "gpt2"])
def test_units_that_are_masked_are_zero(model_type: str) -> None:
    """Each of two entries by its own draw, as a host whose last maps lack the columns of those units."""
    host = host_of(model_type, dtype=torch.float64)
    both = outputs(host, [0, 1], mask_ffn=0.4)
    for place, seed in enumerate((0, 1)):
        cut = pico_host(model_type, dtype=torch.float64)
        for slot in [slot for slot in cut.slots.values() if slot.site == "ffn_out"]:
            from peftport.training.perturbation import _kept

            kept = _kept(0.4, [seed], ("ffn masking", 3, slot.name), slot.in_width)[0, 0]
            assert 0 < int(kept.sum()) < slot.in_width
            weight = cut.slot_module(slot).weight
            columns = kept if weight.shape[-1] == slot.in_width and model_type != "gpt2" else kept[:, None]
            weight.data.mul_(columns)
        torch.testing.assert_close(both[2 * place : 2 * place + 2], outputs(cut, [seed]))


def test_units_are_left_out_as_often_as_asked() -> None:
    from peftport.training.perturbation import _kept

    kept = torch.cat([_kept(0.1, [0, 1], ("ffn masking", step, "x"), 100) for step in range(200)])
    assert float(1 - kept.double().mean()) == pytest.approx(0.1, abs=0.005)


def test_layers_that_run_again_are_disturbed_alike(tmp_path: Path) -> None:
    """With checkpointing, layers run once more during the backward pass."""
    folder = save_hosts(tmp_path, ["llama"])["llama"]
    losses = []
    for checkpointing in (False, True):
        host = load_host(str(folder), "language_model", Loading(checkpointing=checkpointing))
        readout = bind_objective("label_tokens", host, TOY)
        [kept] = run(readout, SPECS["lora"], [entry(readout, SPECS["lora"], 0)], (3,), drop_ffn=0.5, mask_ffn=0.3)
        losses.append(kept[3])
    assert apart(*losses) < 1e-5 and losses[0].loss == pytest.approx(losses[1].loss, rel=1e-5)


# --- asked for --------------------------------------------------------------------------------------------------------


def test_hosts_that_cannot_be_disturbed_are_refused() -> None:
    with pytest.raises(BadRequest, match="--mask-ffn: pico-mixtral: .*use --drop-ffn"):
        Perturbation(mask_ffn=0.1).check(pico_host("mixtral"))
    bare = pico_host("bert")
    nowhere = replace(bare, slots={n: slot for n, slot in bare.slots.items() if slot.site != "ffn_out"})
    with pytest.raises(BadRequest, match="--drop-ffn: pico-bert: .*an FFN of a known place"):
        Perturbation(drop_ffn=0.1).check(nowhere)
    Perturbation().check(nowhere)


def test_a_module_says_how_it_was_trained(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cut_off(monkeypatch, tmp_path / "cache")
    peftport: Run = in_process(monkeypatch, capfd)
    host, reviews = save_hosts(tmp_path, ["bert"])["bert"], save_reviews(tmp_path / "reviews.csv")
    start: list[Any] = ["train", host, reviews, "--technique", "lora", "--steps", 2]
    options = ["--norm-penalty", 0.01, "--drop-ffn", 0.1, "--mask-ffn", 0.2]
    for name, more in (("plain", []), ("travels", options)):
        done = peftport(*start, "--out", tmp_path / name, *more)
        assert done.code == 0, done.err
    records = [json.loads((tmp_path / n / "module.json").read_text())["training"] for n in ("plain", "travels")]
    assert not {"norm_penalty", "drop_ffn", "mask_ffn"} & records[0].keys()
    assert {name: records[1][name] for name in records[1].keys() - records[0].keys()} == {
        "norm_penalty": 0.01, "drop_ffn": 0.1, "mask_ffn": 0.2,
    }  # fmt: skip
    for wrong, says in (
        (["--drop-ffn", 1], "--drop-ffn: expected a number above 0 and under 1, got 1"),
        (["--norm-penalty", -1], "--norm-penalty: expected a number above 0"),
    ):
        told = peftport(*start, "--out", tmp_path / "wrong", *wrong)
        assert told.code == 2 and says in told.err and told.err.count("\n") == 1


def test_a_study_trains_like_this_where_its_file_says_so(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(TINY, encoding="utf-8")
    plain, asked = plan_of(study), plan_of(study, training__drop_ffn="0.1")
    trained = [{job.id for job in plan.jobs.values() if job.kind == "chain"} for plan in (plain, asked)]
    assert not trained[0] & trained[1] and len(trained[0]) == len(trained[1])
    others = [{job.id for job in plan.jobs.values() if job.kind != "chain"} for plan in (plain, asked)]
    assert others[0] == others[1]
    assert JobIds(asked.study)._training.count("drop_ffn") == 1
