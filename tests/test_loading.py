"""Where hosts are loaded and in what numbers: the same modules come out, or a refusal that says what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from peftport.errors import HostRefused
from peftport.evaluation import evaluate
from peftport.hosts import loading
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.hosts.loading import Loading, checkpoint_layers, placement
from peftport.readouts import bind_readout
from peftport.techniques import TECHNIQUES, technique_named
from peftport.training import Checkpoint, Entry, TrainSettings, train
from pico import SPECS, TOY, WORDS, pico_host, pico_model, random_matrices, word_tokenizer

SETTINGS = TrainSettings(batch_size=4)
KINDS = [("bert", "prototype"), ("bert", "linear"), ("t5", "label_tokens"), ("llama", "label_tokens")]
by_kind = pytest.mark.parametrize(("model_type", "readout"), KINDS)
by_technique = pytest.mark.parametrize("technique", TECHNIQUES)


def a_host(model_type: str, readout: str, dtype: torch.dtype) -> Host:
    return pico_host(model_type, view="language_model" if readout == "label_tokens" else "body", dtype=dtype)


def trained(host: Host, readout: str, technique: str, steps: int = 3, rate: float = 1e-2) -> Checkpoint:
    bound, spec = bind_readout(readout, host, TOY), SPECS[technique]
    rng, made = np.random.default_rng(0), technique_named(spec.kind)
    rows = bound.encode([" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(16)])
    start = made.start(spec, made.slots(spec, host.slots), 0)
    shapes = bound.head_shapes()
    start |= {"readout": {name: torch.zeros(shape) for name, shape in shapes.items()}} if shapes else {}
    entry = Entry(start, rows, rng.integers(0, 2, 16), 0, rate)
    return train(host, bound, spec, [entry], [steps], SETTINGS)[0][steps]


def assert_near(one: Checkpoint, other: Checkpoint, atol: float) -> None:
    for slot, own in one.matrices.items():
        for name, tensor in own.items():
            torch.testing.assert_close(tensor, other.matrices[slot][name], rtol=0, atol=atol)


@by_kind
@by_technique
def test_checkpointed_layers_give_the_same_training(model_type: str, readout: str, technique: str) -> None:
    """Layers run a second time in the backward pass, with the module on them."""
    plain, saving = (a_host(model_type, readout, torch.float64) for _ in range(2))
    checkpoint_layers(saving.base, saving.layout)
    ran: list[int] = [0, 0]
    for index, host in enumerate((plain, saving)):
        first = next(m for name, m in host.model.named_modules() if isinstance(m, nn.Linear))
        first.register_forward_hook(lambda *_, index=index: ran.__setitem__(index, ran[index] + 1))
    one, other = trained(plain, readout, technique), trained(saving, readout, technique)
    assert_near(one, other, 1e-7)
    assert one.loss == pytest.approx(other.loss, abs=1e-10)
    assert ran[1] > ran[0] > 0
    assert not any(module.training for module in saving.model.modules() if isinstance(module, nn.Dropout))


@by_kind
@by_technique
def test_a_host_in_bfloat16_trains_modules_in_float32(model_type: str, readout: str, technique: str) -> None:
    """To the same loss within bfloat16's eight bits; steps far below its resolution are not lost."""
    wide, narrow = (a_host(model_type, readout, dtype) for dtype in (torch.float32, torch.bfloat16))
    one, other = trained(wide, readout, technique), trained(narrow, readout, technique)
    assert one.loss == pytest.approx(other.loss, rel=0.1, abs=0.1)
    start, moved = trained(narrow, readout, technique, 1, 1e-6), trained(narrow, readout, technique, 2, 1e-6)
    assert any(not torch.equal(t, start.matrices[s][n]) for s, own in moved.matrices.items() for n, t in own.items())
    assert all(t.dtype == torch.float32 for own in moved.matrices.values() for t in own.values())


@by_kind
def test_a_host_in_bfloat16_scores_as_in_float32_nearly(model_type: str, readout: str) -> None:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        host = a_host(model_type, readout, dtype)
        bound = bind_readout(readout, host, TOY)
        rows = bound.encode(["a good film", "the plot was dull and bad", "it is great"])
        module = random_matrices(host, SPECS["lora"], std=0.1)
        head = {"readout": {"weight": torch.eye(2, 16), "bias": torch.ones(2)}} if readout == "linear" else {}
        [scores] = evaluate(host, bound, SPECS["lora"], [module | head], rows, np.zeros(3, np.int64))
        found.append(scores.scores)
    scale = np.abs(found[0]).max()
    assert 0 < np.abs(found[0] - found[1]).max() < 0.1 * scale


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hosts") / "pico"
    pico_model("llama").save_pretrained(made)
    word_tokenizer().save_pretrained(made)
    return made


def test_options_reach_the_host(folder: Path) -> None:
    host = load_host(str(folder), "language_model", Loading(dtype="bfloat16", checkpointing=True))
    assert (host.dtype, host.wide_dtype, host.device.type) == (torch.bfloat16, torch.float32, "cpu")
    assert "forward" in vars(host.base.get_submodule("layers.1"))  # the layer's own, in place of its class's
    plain = load_host(str(folder), "language_model")
    assert plain.dtype == plain.wide_dtype == torch.float32
    assert "forward" not in vars(plain.base.get_submodule("layers.1"))


@by_technique
def test_a_host_cut_over_devices_trains_the_same(folder: Path, technique: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By accelerate's device map; where no second device is, a layer lies on the disk and is fetched when it is run."""
    from peftport.hosts import load

    whole = load_host(str(folder), "language_model")
    cut = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "cpu"}
    options = {"device_map": cut | {"lm_head": "cpu", "model.rotary_emb": "cpu"}, "offload_folder": str(folder / "off")}
    monkeypatch.setattr(load, "placement", lambda asked: {"dtype": torch.float32, **options})
    parts = load_host(str(folder), "language_model", Loading(device="auto", spread=True))
    assert next(parts.base.get_submodule("layers.1").parameters()).device.type == "meta"
    assert_near(trained(whole, "label_tokens", technique), trained(parts, "label_tokens", technique), 1e-6)


def test_what_is_asked_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda name: object())
    assert placement(Loading()) == {"dtype": torch.float32}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert placement(Loading(device="cpu")) == {"dtype": torch.float32}
    assert placement(Loading(device="auto"))["device_map"] == {"": "cuda"}
    assert placement(Loading(device="auto", spread=True))["device_map"] == "auto"
    for bits in (8, 4):
        asked: Any = placement(Loading(device="cuda", bits=bits, dtype="bfloat16"))["quantization_config"]
        assert (asked.load_in_8bit, asked.load_in_4bit) == (bits == 8, bits == 4)
        assert asked.bnb_4bit_compute_dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("asked", "missing", "message"),
    [
        (Loading(device="cuda"), "", "expected a CUDA device, torch sees none"),
        (Loading(bits=4), "bitsandbytes", "bitsandbytes: expected it for hosts in 4 bits.*pip install bitsandbytes"),
        (Loading(device="auto", spread=True), "accelerate", "accelerate: expected it for hosts on several devices"),
    ],
)
def test_what_is_not_here_is_refused(
    asked: Loading, missing: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda name: None if name == missing else object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(HostRefused, match=message) as refusal:
        placement(asked)
    assert refusal.value.exit_code == 2 and "\n" not in str(refusal.value)


def test_a_host_on_the_processor_is_in_one_place() -> None:
    with pytest.raises(ValidationError, match="expected device auto or cuda"):
        Loading(spread=True)


def test_weights_in_fewer_bits_keep_their_widths_and_are_not_read_as_numbers() -> None:
    host = pico_host("bert")
    slot = next(s for s in host.slots.values() if s.kind == "linear")
    packed: Any = host.slot_module(slot)
    packed.weight = nn.Parameter(torch.zeros(128, 1, dtype=torch.uint8), requires_grad=False)
    from peftport.hosts.slots import linear_shape

    assert linear_shape(packed) == (16, 16)
    assert host.dtype == torch.float32
    with pytest.raises(HostRefused, match="loaded in fewer bits"):
        host.slot_weight(slot)


def test_the_command_line_reads_loading() -> None:
    from peftport.cli.options import loading as read
    from peftport.errors import BadRequest

    assert read(None) is None
    assert read(["device=auto", "dtype=bfloat16", "bits=4", "spread=true", "checkpointing=true"]) == Loading(
        device="auto", dtype="bfloat16", bits=4, spread=True, checkpointing=True
    )
    for wrong, message in (
        (["device"], "--load: expected KEY=VALUE"),
        (["device=tpu"], "device=tpu: device: Input should be 'auto', 'cpu' or 'cuda'"),
        (["bits=3"], "bits: Input should be 8 or 4"),
        (["gpu=1"], "gpu: Extra inputs.*the keys are device, dtype, spread, bits, checkpointing"),
        (["spread=true"], "expected device auto or cuda, got cpu"),
    ):
        with pytest.raises(BadRequest, match=message) as refusal:
            read(wrong)
        assert "\n" not in str(refusal.value)
