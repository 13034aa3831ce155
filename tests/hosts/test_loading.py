"""Where hosts are loaded and in what numbers: the same modules come out, or a refusal that says what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from peftport.core.errors import HostRefused
from peftport.hosts import loading
from peftport.hosts.host import Host, View
from peftport.hosts.load import load_host
from peftport.hosts.loading import Loading, checkpoint_layers, placement
from peftport.hosts.weights import HostWeights
from peftport.objectives import bind_objective
from peftport.techniques import TECHNIQUES, technique_named
from peftport.training.evaluation import score_entries
from peftport.training.loop import Checkpoint, Entry, TrainSettings, train_entries
from pico import SPECS, TOY, WORDS, pico_host, pico_model, random_matrices, word_tokenizer

SETTINGS = TrainSettings(batch_size=4)
KINDS = [("bert", "prototype"), ("bert", "linear"), ("t5", "label_tokens"), ("llama", "label_tokens")]
by_kind = pytest.mark.parametrize(("model_type", "readout"), KINDS)
by_technique = pytest.mark.parametrize("technique", TECHNIQUES)


def a_host(model_type: str, readout: str, dtype: torch.dtype) -> Host:
    return pico_host(model_type, view="language_model" if readout == "label_tokens" else "body", dtype=dtype)


def trained(host: Host, readout: str, technique: str, steps: int = 3, rate: float = 1e-2) -> Checkpoint:
    bound, spec = bind_objective(readout, host, TOY), SPECS[technique]
    rng, made = np.random.default_rng(0), technique_named(spec.kind)
    rows = bound.encode([" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(16)])
    start = made.start(spec, made.slots(spec, host.slots), 0)
    shapes = bound.head_shapes()
    start |= {"readout": {name: torch.zeros(shape) for name, shape in shapes.items()}} if shapes else {}
    entry = Entry(start, rows, rng.integers(0, 2, 16), 0, rate)
    return train_entries(host, bound, spec, [entry], [steps], SETTINGS)[0][steps]


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
        bound = bind_objective(readout, host, TOY)
        rows = bound.encode(["a good film", "the plot was dull and bad", "it is great"])
        module = random_matrices(host, SPECS["lora"], std=0.1)
        head = {"readout": {"weight": torch.eye(2, 16), "bias": torch.ones(2)}} if readout == "linear" else {}
        [scores] = score_entries(host, bound, SPECS["lora"], [module | head], rows, np.zeros(3, np.int64))
        found.append(scores.scores)
    scale = np.abs(found[0]).max()
    assert 0 < np.abs(found[0] - found[1]).max() < 0.1 * scale


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {model_type: tmp_path_factory.mktemp("hosts") / model_type for model_type, _ in KINDS}
    for model_type, folder in made.items():
        pico_model(model_type).save_pretrained(folder)
        word_tokenizer().save_pretrained(folder)
    return made


@pytest.fixture(scope="module")
def folder(folders: dict[str, Path]) -> Path:
    return folders["llama"]


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
        assert bits == 8 or (asked.bnb_4bit_quant_type, asked.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)


@pytest.mark.parametrize(
    ("asked", "missing", "message"),
    [
        (Loading(device="cuda"), "", "expected a CUDA device, torch sees none"),
        (
            Loading(bits=4),
            "bitsandbytes",
            "expected bitsandbytes>=0.50 for hosts in 4 bits, it is not installed; pip",
        ),
        (Loading(device="auto", spread=True), "accelerate", "expected accelerate for hosts on several devices"),
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


def test_numbers_in_words() -> None:
    assert Loading(device="auto", checkpointing=True).numbers == "float32"
    assert Loading(dtype="bfloat16", bits=4).numbers == "bfloat16, their matrices packed in 4 bits"


def test_a_library_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "version", lambda name: "0.49.2")
    with pytest.raises(HostRefused, match="expected bitsandbytes>=0.50 for hosts in 8 bits, got version 0.49.2; pip"):
        placement(Loading(bits=8))


def test_a_host_on_the_processor_is_in_one_place() -> None:
    with pytest.raises(ValidationError, match="expected device auto or cuda"):
        Loading(spread=True)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@by_kind
def test_a_host_in_fewer_bits_trains_nearly_the_same(
    folders: dict[str, Path], model_type: str, readout: str, dtype: Any, bits: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """By bitsandbytes itself, on the processor: the frozen matrices are packed, modules stay in float32."""
    view: View = "language_model" if readout == "label_tokens" else "body"
    wide = load_host(str(folders[model_type]), view)
    narrow = load_host(str(folders[model_type]), view, Loading(bits=bits, dtype=dtype))
    wanted = {slot.path for slot in narrow.slots.values() if slot.kind == "linear"}
    left = {path for path in wanted if path.endswith(".wo")}  # transformers leaves T5's in float32
    assert packed_modules(narrow) >= wanted - left > set()
    assert not packed_modules(wide)
    assert (narrow.dtype, narrow.wide_dtype) == (getattr(torch, loading.DTYPES[dtype]), torch.float32)
    for technique in TECHNIQUES:
        one, other = trained(wide, readout, technique), trained(narrow, readout, technique)
        assert one.loss == pytest.approx(other.loss, rel=0.1)
        assert one.loss != other.loss
        assert all(t.dtype == torch.float32 for own in other.matrices.values() for t in own.values())
        assert shapes(one) == shapes(other)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def packed_modules(host: Host) -> set[str]:
    """Paths of the layers that are bitsandbytes' own."""
    found = {name: type(module) for name, module in host.base.named_modules() if isinstance(module, nn.Linear)}
    return {name for name, kind in found.items() if kind is not nn.Linear}


def shapes(checkpoint: Checkpoint) -> dict[tuple[str, str], tuple[int, ...]]:
    return {(slot, name): tuple(t.shape) for slot, own in checkpoint.matrices.items() for name, t in own.items()}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("model_type", ["bert", "t5", "llama", "gpt2"])
def test_methods_read_the_numbers_that_were_packed(tmp_path: Path, model_type: str, bits: Any) -> None:
    """Not their codes: from the files, slot by slot, as from the host loaded whole."""
    pico_model(model_type).save_pretrained(tmp_path / model_type)
    word_tokenizer().save_pretrained(tmp_path / model_type)
    packed, whole = (load_host(str(tmp_path / model_type), "body", Loading(bits=b)) for b in (bits, None))
    assert packed.slots == whole.slots
    files, memory = HostWeights(packed), HostWeights(whole)
    for slot in whole.slots.values():
        if slot.kind == "linear":
            torch.testing.assert_close(files.matrix(slot), memory.matrix(slot), rtol=0, atol=0)
    torch.testing.assert_close(files.embeddings(), memory.embeddings(), rtol=0, atol=0)


def test_packed_weights_of_no_folder_are_not_read_as_numbers() -> None:
    host = pico_host("bert")
    packed: Any = host.slot_module(next(s for s in host.slots.values() if s.kind == "linear"))
    packed.weight = nn.Parameter(torch.zeros(128, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(HostRefused, match="load it without bits"):
        HostWeights(host)


def test_the_command_line_reads_loading() -> None:
    from peftport.cli.options import values_of
    from peftport.core.errors import BadRequest
    from peftport.hosts.loading import loading_of
    from peftport.workflows.requests import TrainRequest

    def read(texts: list[str] | None) -> Loading | None:
        return loading_of(values_of(TrainRequest, {"load": texts}).get("load"))

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
