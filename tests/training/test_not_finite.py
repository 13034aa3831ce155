"""Not finite is not a score: hosts, tests, trainings and ports with NaN or infinity fail, and say where it began."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from peftport.core.errors import HostRefused, NotFinite, TrainingFailed
from peftport.hosts.fingerprint import fingerprint
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.hosts.opening import open_host
from peftport.hosts.tracing import where_not_finite
from peftport.modules.module import HEAD, Module
from peftport.objectives import bind_objective
from peftport.porting import PORTERS
from peftport.porting.base import PortedMatrices, PortInputs
from peftport.training.evaluation import score_entries
from peftport.training.loop import Entry, TrainSettings, train_entries
from pico import SPECS, TOY, pico_host, pico_model, random_matrices, word_tokenizer

TEXTS = ["the film was good", "a dull plot", "it was a great movie .", "this is bad or fine"] * 4
HUGE = 3e38


def saved(folder: Path, name: str, value: float, at: int = 0, model_type: str = "bert") -> Path:
    """A host in a folder with one number changed."""
    pico_model(model_type, view="body").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[at] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@cache
def names() -> list[str]:
    return sorted(name for name, _ in pico_model("bert", view="body").named_parameters())


@given(st.sampled_from(names()), st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 15))
@examples(max_examples=12, deadline=None)
def test_a_host_with_a_weight_that_is_not_finite_is_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: float, at: int
) -> None:
    folder = saved(tmp_path_factory.mktemp("home") / "host", name, value, at)
    for get in (load_host, open_host):
        with pytest.raises(HostRefused, match=f"{name}: expected finite numbers, got (NaN|infinity)") as refusal:
            get(str(folder))
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_every_kind_of_number_is_looked_at(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = saved(tmp_path / "host", "embeddings.LayerNorm.bias", 0.0)
    tensors = load_file(folder / "model.safetensors")
    for value, refused in ((1.0, False), (np.nan, True)):
        odd = torch.full((3,), value).to(dtype)
        save_file({**tensors, "cls.bias": odd}, folder / "model.safetensors", metadata={"format": "pt"})
        if refused:
            with pytest.raises(HostRefused, match="cls.bias: expected finite numbers, got NaN"):
                fingerprint(folder, "host", "bert")
        else:
            fingerprint(folder, "host", "bert")


def test_finite_numbers_that_add_up_to_infinity_are_finite(tmp_path: Path) -> None:
    folder = saved(tmp_path / "host", "pooler.dense.bias", HUGE)
    tensors = load_file(folder / "model.safetensors")
    tensors["pooler.dense.bias"].fill_(HUGE)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_host(str(folder)).fingerprint.weights


# --- tests ------------------------------------------------------------------------------------------------------------


def broken(model_type: str = "bert", view: Any = "body", layer: int = 1) -> Host:
    """A host whose second layer gives numbers that are too large."""
    host = pico_host(model_type, view=view)
    slot = next(s for s in host.slots.values() if s.kind == "linear" and f".{layer}." in s.name and s.site == "ffn_in")
    host.slot_module(slot).weight.data.fill_(HUGE)
    return host


CASES = [
    ("bert", "prototype"),
    ("bert", "linear"),
    ("t5", "label_tokens"),
    ("llama", "label_tokens"),
    ("gpt2", "linear"),
]


@pytest.mark.parametrize(("model_type", "readout"), CASES)
def test_scores_that_are_not_finite_fail_and_say_where_they_began(model_type: str, readout: str) -> None:
    host = broken(model_type, "language_model" if readout == "label_tokens" else "body")
    bound = bind_objective(readout, host, TOY)
    rows, labels = bound.encode(TEXTS), np.zeros(len(TEXTS), dtype=np.int64)
    modules = [random_matrices(host, SPECS["lora"], seed, std=0.01) for seed in (0, 1)]
    if readout == "linear":
        head = {"weight": torch.ones(2, 16), "bias": torch.ones(2)}
        modules = [{**one, HEAD: head} for one in modules]
    for spec, some in ((None, []), (SPECS["lora"], modules)):
        if readout == "linear" and spec is None:
            continue
        with pytest.raises(NotFinite, match=r"expected finite scores, got NaN or infinity for 16 of 16") as failure:
            score_entries(host, bound, spec, some, rows, labels)
        assert ".1.ffn" in str(failure.value) and "\n" not in str(failure.value)
        assert failure.value.exit_code == 1


def test_a_module_with_outsized_numbers_has_no_accuracy() -> None:
    host = pico_host("bert", view="body")
    bound = bind_objective("prototype", host, TOY)
    good, bad = (random_matrices(host, SPECS["lora"], seed) for seed in (0, 1))
    slot = next(name for name in bad if ".1." in name)
    bad[slot] = {name: torch.full_like(t, 1e30) for name, t in bad[slot].items()}
    labels = np.zeros(len(TEXTS), dtype=np.int64)
    with pytest.raises(NotFinite, match=rf"module 1 of 2 .*first behind {slot} \("):
        score_entries(host, bound, SPECS["lora"], [good, bad], bound.encode(TEXTS), labels)
    assert score_entries(host, bound, SPECS["lora"], [good], bound.encode(TEXTS), labels)[0].accuracy >= 0


def test_looking_for_the_place_leaves_nothing_behind() -> None:
    host = broken()
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in host.model.modules()]
    ids = torch.arange(5, 15)[None]
    assert where_not_finite(host, lambda: host.base(input_ids=ids)).startswith("first behind layers.1.ffn_in")
    assert before == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in host.model.modules()]


# --- trainings --------------------------------------------------------------------------------------------------------


def training(host: Host, rate: float) -> Callable[[], object]:
    bound, spec = bind_objective("prototype", host, TOY), SPECS["lora"]
    labels = np.array([1, 0, 1, 0] * 4)
    entry = Entry(random_matrices(host, spec, std=0.01), bound.encode(TEXTS), labels, 0, rate)
    return lambda: train_entries(host, bound, spec, [entry], (12,), TrainSettings(batch_size=4))


def test_a_training_that_diverges_says_at_which_step() -> None:
    with pytest.raises(
        TrainingFailed, match=r"entry 0: the loss is no longer finite at step (\d+); lower the learn"
    ) as e:
        training(pico_host("bert", view="body"), 1e30)()
    assert "step 1;" not in str(e.value) and "step 12;" not in str(e.value)


def test_a_host_without_a_finite_loss_is_not_laid_to_the_learning_rate() -> None:
    with pytest.raises(
        TrainingFailed, match=r"step 1 is not finite before any training either, first \w+ layers.1.ffn"
    ):
        training(broken(), 1e-3)()


# --- ports ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", PORTERS)
def test_no_method_writes_numbers_that_are_not_finite(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = pico_host("bert", view="body")
    module = Module(SPECS["lora"], host.fingerprint, random_matrices(host, SPECS["lora"]))
    porter = PORTERS[method]
    bad = {slot: {name: t.clone() for name, t in own.items()} for slot, own in module.matrices.items()}
    slot = sorted(bad)[3]
    next(iter(bad[slot].values()))[0, 0] = np.nan
    monkeypatch.setattr(type(porter), "carry", lambda *_: PortedMatrices(bad, dict.fromkeys(bad, "made")))
    monkeypatch.setattr(type(porter), "_check_inputs", lambda *_: None)
    with pytest.raises(NotFinite, match=rf"{method}: {slot}\.\w+: expected finite numbers for pico-bert"):
        porter.port(module, host, np.random.default_rng(0), PortInputs())


@pytest.mark.parametrize("method", [name for name, one in PORTERS.items() if one.needs not in ("labels", "anchors")])
@pytest.mark.parametrize("at", ["origin", "receiver"])
def test_ports_with_an_outsized_weight_end_in_a_word_or_in_finite_numbers(method: str, at: str) -> None:
    hosts = {"origin": pico_host("bert", view="body"), "receiver": pico_host("bert", seed=1, view="body")}
    for slot in [s for s in hosts[at].slots.values() if s.kind == "linear" and ".0." in s.name]:
        hosts[at].slot_module(slot).weight.data[0, 0] = HUGE
    origin, receiver = hosts["origin"], hosts["receiver"]
    module = Module(SPECS["lora"], origin.fingerprint, random_matrices(origin, SPECS["lora"]))
    given_ = PortInputs(origin=origin, texts=tuple(TEXTS))
    try:
        ported = PORTERS[method].port(module, receiver, np.random.default_rng(0), given_)
    except NotFinite as failure:
        assert "\n" not in str(failure)
    else:
        assert all(bool(t.isfinite().all()) for own in ported.matrices.values() for t in own.values())
