"""Hosts in 4 bits on the processor: the numbers that their codes stand for, whatever units the processor has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import peftport
from peftport.core.errors import HostRefused
from peftport.hosts.four_bits import multiply_by_blocks, unpacked
from peftport.hosts.host import Host, View
from peftport.hosts.load import load_host
from peftport.hosts.loading import Loading
from peftport.modules.folders import write_module
from peftport.modules.module import Module
from peftport.objectives import bind_objective
from peftport.techniques import technique_named
from peftport.training.evaluation import score_entries
from peftport.training.loop import Entry, TrainSettings, train_entries
from pico import SPECS, TOY, WORDS, inputs_of, pico_model, random_matrices, word_tokenizer

KINDS: dict[str, tuple[str, View]] = {
    "bert": ("prototype", "body"),
    "t5": ("label_tokens", "language_model"),
    "llama": ("label_tokens", "language_model"),
    "gpt2": ("label_tokens", "language_model"),  # its matrices lie the other way round
}
# As narrow as no kernel packs; and of widths that bitsandbytes packs where there are units for bfloat16.
WIDE: dict[str, dict[str, Any]] = {
    "bert": dict(hidden_size=64, intermediate_size=128),
    "t5": dict(d_model=64, d_kv=32, num_heads=2, d_ff=128),
    "llama": dict(hidden_size=64, num_attention_heads=2, intermediate_size=128),
    "gpt2": dict(n_embd=64),
}
by_model = pytest.mark.parametrize("model_type", KINDS)
by_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
by_width = pytest.mark.parametrize("wide", [False, True], ids=["narrow", "wide"])


def a_layer(rows: int, width: int, dtype: torch.dtype, rng: np.random.Generator, **how: Any) -> bnb.nn.Linear4bit:
    """A layer as a loaded host has it: frozen, in evaluation mode, its matrix in 4 bits."""
    layer = bnb.nn.Linear4bit(width, rows, compute_dtype=dtype, quant_type="nf4", **how)
    full = torch.from_numpy(rng.normal(size=(rows, width))).to(dtype)
    layer.weight = bnb.nn.Params4bit(full, requires_grad=False, quant_type="nf4", module=layer, **how).to("cpu")
    layer.bias.data = torch.from_numpy(rng.normal(size=rows)).to(dtype)
    return layer.requires_grad_(False).eval()


def by_definition(weight: Any) -> Tensor:
    """Dettmers et al. 2023: one of 16 levels times the scale of its block; rows do not matter."""
    state = weight.quant_state
    scales = state.absmax
    if state.nested:
        scales = bnb.functional.dequantize_blockwise(scales, state.state2) + state.offset
    codes = weight.data.view(-1)
    levels = state.code.double()[torch.stack([codes >> 4, codes & 15], dim=1).view(-1).long()]
    count = state.shape.numel()
    return (levels[:count] * scales.double().repeat_interleave(state.blocksize)[:count]).view(state.shape)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 100),
    width=st.integers(1, 24) | st.integers(1, 12).map(lambda n: 16 * n) | st.integers(25, 200),
    inputs=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    blocksize=st.sampled_from([64, 64, 128]),
    nested=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_products_and_gradients_are_those_of_the_numbers(
    rows: int, width: int, inputs: int, dtype: torch.dtype, blocksize: int, nested: bool, seed: int
) -> None:
    """To the rounding of the dtype that was asked for; with a gradient or without, before the other and after."""
    rng = np.random.default_rng(seed)
    layer = a_layer(rows, width, dtype, rng, compress_statistics=nested)
    if blocksize != 64:
        full = unpacked(layer.weight, dtype)
        layer.weight = bnb.nn.Params4bit(
            full, requires_grad=False, blocksize=blocksize, quant_type="nf4", compress_statistics=nested
        ).to("cpu")
    numbers, step = by_definition(layer.weight), torch.finfo(dtype).eps
    torch.testing.assert_close(unpacked(layer.weight, dtype).double(), numbers, rtol=step, atol=0)

    multiply_by_blocks(layer)
    x, weights = (torch.from_numpy(rng.normal(size=(inputs, size))).to(dtype) for size in (width, rows))
    bare = layer(x)
    learning = layer(x.requires_grad_())
    learning.backward(weights)
    assert torch.equal(bare, learning)
    assert bare.dtype == dtype and not bare.requires_grad
    assert torch.equal(bare, layer(x.detach()))
    for got, one, other, bias in ((bare, x.detach(), numbers.T, layer.bias), (x.grad, weights, numbers, None)):
        shift = torch.zeros(()) if bias is None else bias.double()
        error = (got.double() - one.double() @ other - shift).abs()
        scale = one.double().abs() @ other.abs() + shift.abs()
        assert (error <= (2 + len(other) * torch.finfo(torch.float32).eps / step) * step * scale).all()


def saved(model_type: str, folder: Path, wide: bool) -> Path:
    pico_model(model_type, **(WIDE[model_type] if wide else {})).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def packed_layers(model: nn.Module) -> dict[str, Any]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, bnb.nn.Linear4bit)}


def outcome(host: Host, readout: str) -> list[Tensor]:
    """Scores of a module, what it is trained to after that, and scores again."""
    bound, spec = bind_objective(readout, host, TOY), SPECS["lora"]
    rng = np.random.default_rng(0)
    rows = bound.encode([" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(8)])
    start = technique_named(spec.kind).start(spec, technique_named(spec.kind).slots(spec, host.slots), 0)
    entry = Entry(start, rows, rng.integers(0, 2, 8), 0, 1e-2)
    found = []
    for _ in range(2):
        [before] = score_entries(host, bound, spec, [random_matrices(host, spec)], rows, np.zeros(8, np.int64))
        trained = train_entries(host, bound, spec, [entry], [3], TrainSettings(batch_size=4))[0][3].matrices
        found += [torch.from_numpy(before.scores), *(m for own in trained.values() for m in own.values())]
    return found


@by_model
@by_dtype
@by_width
def test_a_host_is_the_same_with_and_without_units_for_bfloat16(
    model_type: str, dtype: Any, wide: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, whichever way bitsandbytes decides; nor does it matter what was computed before."""
    readout, view = KINDS[model_type]
    folder = saved(model_type, tmp_path / model_type, wide)
    found = []
    for units in (False, True):
        monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda units=units: units)
        host = load_host(str(folder), view, Loading(bits=4, dtype=dtype))
        assert {layer.support_avx512bf16_for_cpu for layer in packed_layers(host.model).values()} == {units}
        found.append(outcome(host, readout))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    half = len(found[0]) // 2
    assert all(torch.equal(one, again) for one, again in zip(found[0][:half], found[0][half:], strict=True))


@by_model
@by_width
def test_a_host_computes_with_the_numbers_of_its_codes(model_type: str, wide: bool, tmp_path: Path) -> None:
    """As a host in float32 whose matrices are those numbers."""
    readout, view = KINDS[model_type]
    folder = saved(model_type, tmp_path / model_type, wide)
    narrow, plain = (load_host(str(folder), view, Loading(bits=bits)) for bits in (4, None))
    for name, layer in packed_layers(narrow.model).items():
        numbers, whole = by_definition(layer.weight).float(), plain.model.get_submodule(name)
        whole.weight.data = numbers if isinstance(whole, nn.Linear) else numbers.T.contiguous()
    assert len(packed_layers(narrow.model)) > 4
    for one, other in zip(outcome(narrow, readout), outcome(plain, readout), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def four_bit_model(folder: Path) -> Any:
    asked = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    return transformers.AutoModelForCausalLM.from_pretrained(folder, quantization_config=asked, dtype=torch.float32)


def test_a_module_on_a_model_in_4_bits(tmp_path: Path) -> None:
    """A model in memory computes as the loaded host, and has its own products back afterwards."""
    folder = saved("llama", tmp_path / "llama", wide=True)
    host = load_host(str(folder), "language_model", Loading(bits=4))
    write_module(
        Module(SPECS["lora"], host.fingerprint, random_matrices(host, SPECS["lora"])), host, tmp_path / "m", "native"
    )
    model, inputs = four_bit_model(folder), inputs_of(host, [(5, 6, 7, 8, 9)])
    with peftport.attach(model, tmp_path / "m") as on:
        assert all("forward" in vars(layer) for layer in packed_layers(model).values())
        with torch.no_grad():
            bare = host.model(**inputs).logits
        assert (on(**inputs).logits - bare).abs().max() > 1e-3
    assert not any("forward" in vars(layer) for layer in packed_layers(model).values())
    multiply_by_blocks(model)
    assert torch.equal(model.eval()(**inputs).logits, bare)


def test_a_model_that_was_packed_for_this_processor_is_refused(tmp_path: Path) -> None:
    """Its scales have been rounded; without units for bfloat16 no model is, so the mark is set by hand."""
    folder = saved("llama", tmp_path / "llama", wide=True)
    host = load_host(str(folder), "language_model")
    write_module(
        Module(SPECS["lora"], host.fingerprint, random_matrices(host, SPECS["lora"])), host, tmp_path / "m", "native"
    )
    model = four_bit_model(folder)
    next(iter(packed_layers(model).values())).weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(HostRefused, match=r"^model\.layers\.0\.\S+: .* attach before running it$"):
        peftport.attach(model, tmp_path / "m")
