"""Numbers and sets of labels on hosts: by brute force, stacked as alone, learnt, in any unit, read back, distilled."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from torch import Tensor

from peftport.core.errors import BadRequest, TaskRefused
from peftport.core.progress import Silent
from peftport.hosts.host import Host
from peftport.modules.folders import read_module, write_module
from peftport.modules.module import HEAD, Module
from peftport.objectives import OBJECTIVES, bind_objective, objective_for
from peftport.objectives.base import Objective, mean_pooled, row_length
from peftport.porting import porter_named
from peftport.tasks.columns import Columns, Wording
from peftport.tasks.kinds import KINDS
from peftport.tasks.spec import Example
from peftport.tasks.task import Dropped, Split, Task
from peftport.techniques import TECHNIQUES
from peftport.training.bound_task import BoundTask, Start
from peftport.training.loop import TrainSettings
from peftport.workflows.distill import DistillOptions, distill, taught_targets
from pico import SPECS, WORDS, pico_host, random_matrices

HOSTS = ("bert", "t5", "llama")
CASES = [
    ("regression", "linear", 1),
    ("regression", "linear", 2),
    ("regression", "cosine", 2),
    ("multi_label", "linear", 1),
]
SETTINGS = TrainSettings(batch_size=8, max_tokens=16)


@cache
def host_of(model_type: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> Host:
    return replace(pico_host(model_type, seed, view="body", dtype=dtype), name=f"{model_type}-{seed}")


def examples_of(n: int, fields: int, seed: int) -> list[Example]:
    rng = np.random.default_rng(seed)
    made = [tuple(" ".join(rng.choice(WORDS, size=rng.integers(3, 9))) for _ in range(fields)) for _ in range(n)]
    return [texts[0] if fields == 1 else texts for texts in made]


def task_of(kind: str, fields: int = 1, unit: float = 1.0, zero: float = 0.0, seed: int = 0) -> Task:
    """Numbers count the telling words (of pairs, how far both agree); labels name them."""
    examples = examples_of(90, fields, seed)
    words = [[text.split() for text in ((own,) if isinstance(own, str) else own)] for own in examples]
    targets: list[object]
    if kind == "regression":
        moods = [[own.count("good") + own.count("great") - own.count("bad") for own in texts] for texts in words]
        targets = [zero + unit * (mood[0] - abs(mood[-1] - mood[0])) for mood in moods]
    else:
        targets = [[word for word in ("good", "bad", "film") if word in texts[0]] for texts in words]
    names = ("text",) if fields == 1 else ("one", "other")
    columns = Columns("made", dict.fromkeys(names, []), targets)
    spec, read = KINDS[kind].read("made", columns, Wording())
    parts = [slice(0, 60), slice(60, 70), slice(70, 90)]
    splits = [Split(tuple(map(str, range(90)[p])), tuple(examples[p]), read[p]) for p in parts]
    return Task(spec.fitted(splits[0].targets), *splits, Dropped())


def bench_of(model_type: str, kind: str, readout: str, fields: int, seed: int = 0, **more: Any) -> BoundTask:
    host, task = host_of(model_type, seed), task_of(kind, fields, **more)
    return BoundTask(host, task, bind_objective(readout, host, task.spec, 16), SETTINGS)


def modules_of(bench: BoundTask, technique: str, count: int = 3) -> list[dict[str, dict[str, Tensor]]]:
    generator, found = torch.Generator().manual_seed(7), []
    for seed in range(count):
        own = dict(random_matrices(bench.host, SPECS[technique], seed))
        shapes = bench.readout.head_shapes()
        head = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        found.append({**own, HEAD: head} if head else own)
    return found


def brute(objective: Objective, row: Any, head: dict[str, Tensor] | None) -> Tensor:
    """The objective's own numbers for one row on the bare host, a row at a time: no padding, no stack."""
    with torch.no_grad():
        if objective.name == "cosine":
            one, other = (mean_pooled(objective.host, [tuple(part)], 0)[0] for part in (row, row.second))
            return torch.nn.functional.cosine_similarity(one, other, dim=0)
        state = mean_pooled(objective.host, [row], 0)[0]
        return head["weight"].double() @ state + head["bias"].double() if head else torch.zeros(objective.width)  # type: ignore[attr-defined]


@pytest.mark.parametrize("model_type", HOSTS)
@pytest.mark.parametrize(("kind", "readout", "fields"), CASES)
def test_losses_and_predictions_are_their_definitions(model_type: str, kind: str, readout: str, fields: int) -> None:
    bench = bench_of(model_type, kind, readout, fields, unit=3.0, zero=50.0)
    objective, encoded, scale = bench.readout, bench.test_split, getattr(bench.task.spec, "scale", None)
    [module] = modules_of(bench, "lora", 1)
    head = module.get(HEAD)
    stacked = {name: t[None].double() for name, t in head.items()} if head else None
    out = torch.stack([brute(objective, row, head) for row in encoded.rows])
    targets = torch.from_numpy(encoded.targets.copy())
    y = targets.double()
    if kind == "multi_label":
        losses, predicted = -(y * out.sigmoid().log() + (1 - y) * (-out).sigmoid().log()).mean(1), out
    elif readout == "cosine":
        span = scale.highest - scale.lowest
        losses, predicted = (out - (y - scale.lowest) / span) ** 2, scale.lowest + span * out
    else:
        out = out[:, 0]
        losses, predicted = (out - (y - scale.mean) / scale.deviation) ** 2, scale.mean + scale.deviation * out
    with torch.no_grad():
        found = objective.loss(encoded.rows, targets, stacked, 0)
        torch.testing.assert_close(found, losses, rtol=1e-9, atol=1e-9)
        values = objective.predict(encoded.rows, stacked, 0)
    np.testing.assert_allclose(values, predicted, rtol=2e-6 if kind == "multi_label" else 1e-9, atol=1e-6)


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("model_type", HOSTS)
@pytest.mark.parametrize(("kind", "readout", "fields"), CASES[1:])
def test_stacked_modules_predict_and_train_as_alone(
    model_type: str, technique: str, kind: str, readout: str, fields: int
) -> None:
    bench, spec = bench_of(model_type, kind, readout, fields), SPECS[technique]
    modules = modules_of(bench, technique)
    together = bench.test(spec, modules)
    for own, one in zip(together, modules, strict=True):
        [alone] = bench.test(spec, [one])
        np.testing.assert_allclose(own.values, alone.values, rtol=1e-5, atol=1e-6)
    assert not np.allclose(together[0].values, together[1].values)
    starts = [Start(bench.fresh(spec, seed), seed) for seed in range(2)]
    stacked = bench.train(spec, starts, [3], 1e-2)
    for start, found in zip(starts, stacked, strict=True):
        [alone] = bench.train(spec, [start], [3], 1e-2)
        assert found[3].loss == pytest.approx(alone[3].loss, abs=1e-9)
        for slot, own in found[3].matrices.items():
            for name, matrix in own.items():
                torch.testing.assert_close(matrix, alone[3].matrices[slot][name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "readout", "fields"), CASES)
def test_training_learns_and_the_bare_host_knows_nothing(kind: str, readout: str, fields: int) -> None:
    bench, spec = bench_of("bert", kind, readout, fields, unit=10.0, zero=-40.0), SPECS["lora"]
    [bare] = bench.test(None, [])
    if readout == "linear":
        same = bench.task.spec.scale.mean if kind == "regression" else 0.0  # type: ignore[attr-defined]
        assert (bare.values == same).all() and bare.measures().get("pearson") is None
        assert "no head" in bench.remarks_on_bare[0]
    else:
        assert len({*bare.values.tolist()}) > 10 and bench.remarks == ()
    [kept] = bench.train(spec, [Start(bench.fresh(spec, 0), 0)], [0, 10, 80], 2e-2)
    assert (kept[80].loss or 0) < (kept[10].loss or 0)
    name = "rmse" if kind == "regression" else "micro_f1"
    on_train = replace(bench, task=replace(bench.task, test=bench.task.train))
    before, after = (on_train.test(spec, [kept[at].matrices])[0].measures()[name] for at in (0, 80))
    assert (after < 0.8 * before) if kind == "regression" else (after > before + 0.3)  # type: ignore[operator]


@given(st.sampled_from([1e-4, 0.5, 1000.0]), st.sampled_from([0.0, -7.0, 1e4]))
@settings(max_examples=5, deadline=None)
def test_the_unit_of_a_number_changes_nothing_but_the_unit(unit: float, zero: float) -> None:
    """Modules are the same; predictions are in the unit of the targets."""
    spec = SPECS["lora"]
    plain = bench_of("bert", "regression", "linear", 1)
    other = bench_of("bert", "regression", "linear", 1, unit=unit, zero=zero)
    ends = [bench.train(spec, [Start(bench.fresh(spec, 0), 0)], [4], 1e-2)[0][4] for bench in (plain, other)]
    assert ends[1].loss == pytest.approx(ends[0].loss, rel=1e-4)
    [one], [two] = (b.test(spec, [end.matrices]) for b, end in zip((plain, other), ends, strict=True))
    spread = np.abs(two.values - zero).max() + unit
    np.testing.assert_allclose(two.values - zero, unit * one.values, atol=2e-3 * spread)


@pytest.mark.parametrize(("kind", "readout", "fields"), CASES)
def test_a_module_predicts_the_same_when_it_is_read_back(kind: str, readout: str, fields: int, tmp_path: Path) -> None:
    bench, spec = bench_of("bert", kind, readout, fields, unit=2.0, zero=9.0), SPECS["lora"]
    [kept] = bench.train(spec, [Start(bench.fresh(spec, 0), 0)], [3], 1e-2)
    [before] = bench.test(spec, [kept[3].matrices])
    write_module(bench.module(spec, kept[3], 0, 1e-2), bench.host, tmp_path / "m")
    back = read_module(tmp_path / "m")
    [after] = bench.test(spec, [bench.startable(back)])
    assert np.array_equal(before.values, after.values)
    assert back.task is not None and back.task.kind == kind
    assert back.task.scale == getattr(bench.task.spec, "scale", None)
    copied = porter_named("copy").port(back, bench.host, np.random.default_rng(0), None)
    assert np.array_equal(bench.test(spec, [bench.startable(copied)])[0].values, before.values)
    other = bench_of("bert", "regression" if kind == "multi_label" else "multi_label", "linear", 1)
    with pytest.raises(TaskRefused, match=f"trained for a task of kind {kind}"):
        other.startable(back)


def test_a_linear_head_keeps_its_numbers_under_another_task_s_scale() -> None:
    bench, spec = bench_of("bert", "regression", "linear", 1), SPECS["lora"]
    other = bench_of("bert", "regression", "linear", 1, unit=25.0, zero=-300.0)
    [matrices] = modules_of(bench, "lora", 1)
    module = Module(spec, bench.host.fingerprint, matrices, bench.record)
    [one], [two] = (each.test(spec, [each.startable(module)]) for each in (bench, other))
    np.testing.assert_allclose(one.values, two.values, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("kind", "readout", "fields"), CASES)
def test_distilling_teaches_what_the_kind_predicts(kind: str, readout: str, fields: int) -> None:
    home, away = bench_of("bert", kind, readout, fields), bench_of("llama", kind, readout, fields)
    [matrices] = modules_of(home, "lora", 1)
    module = Module(SPECS["lora"], home.host.fingerprint, matrices, home.record)
    texts = home.task.train.examples
    targets = taught_targets(module, home, texts, Silent())
    [said] = replace(home, task=replace(home.task, test=home.task.train)).test(SPECS["lora"], [matrices])
    wanted = expit(said.values) if kind == "multi_label" else said.values
    np.testing.assert_allclose(targets, wanted, rtol=1e-6)
    made = distill(module, home, away, texts, DistillOptions(steps=60, learning_rate=1e-2))
    assert made.task is not None and made.task.scale == getattr(away.task.spec, "scale", None)
    on_train = replace(away, task=replace(away.task, test=away.task.train))
    [bare], [learnt] = on_train.test(None, []), on_train.test(SPECS["lora"], [on_train.startable(made)])
    far = [np.abs(each.values - said.values).mean() for each in (bare, learnt)]
    assert far[1] < far[0]


def test_a_cosine_reads_each_text_by_itself() -> None:
    """Symmetric, each text cut to the limit alone; rows are as long as both; classes are not asked so."""
    objective = bench_of("bert", "regression", "cosine", 2).readout
    long = " ".join(["good"] * 30)
    [one, other] = objective.encode([(long, "a film"), ("a film", long)])
    assert (len(one), len(other), row_length(one)) == (16, 2, 18)
    with torch.no_grad():
        values = objective.predict([one, other], None, 0)
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    single = task_of("regression")
    for kind, wanted in (("encoder", "linear"), ("decoder", "linear")):
        assert objective_for(None, kind, single.spec).name == wanted  # type: ignore[arg-type]
    pair = task_of("regression", 2).spec
    assert [objective_for(None, k, pair).name for k in ("encoder", "decoder", "encoder_decoder")] == [  # type: ignore[arg-type]
        "cosine", "linear", "linear",
    ]  # fmt: skip
    with pytest.raises(BadRequest, match="readout cosine: made is regression of texts"):
        objective_for("cosine", "encoder", single.spec)
    with pytest.raises(BadRequest, match="readout label_tokens: made is multi_label"):
        objective_for("label_tokens", "decoder", task_of("multi_label").spec)


def test_one_name_serves_each_kind_of_task_once() -> None:
    for name, known in OBJECTIVES.items():
        served = [kind for each in known for kind in each.serves]
        assert {each.name for each in known} == {name} and len(served) == len(set(served))
    for kind in KINDS.values():
        assert any(kind.kind in each.serves for known in OBJECTIVES.values() for each in known)
