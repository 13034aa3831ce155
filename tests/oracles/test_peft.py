"""LoRA files and decoder prefixes against the `peft` library: equal weights, equal logits, equal gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from oracles.agreement import (
    TOLERANCE,
    Run,
    batch,
    difference,
    loss_weight,
    named_outputs,
    random_matrices,
    random_module,
    run,
    worst_gradient,
    worst_output,
)
from peftport.core.errors import ModuleRefused, SlotMismatch
from peftport.hosts.host import Host, View
from peftport.modules.folders import read_module, write_module
from peftport.modules.module import Module
from peftport.techniques.base import Parameters
from peftport.techniques.lora import LoraSpec
from peftport.techniques.prefix import PrefixSpec
from pico import pico_host, pico_model

# peft 0.21 asks transformers 5.23 for this under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

MODEL_TYPES = ("bert", "t5", "llama", "gemma3_text", "gpt2")
Record = Callable[[str, object], None]


def peft_run(model: nn.Module, inputs: dict[str, Any], weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of a peft model; the gradients stay on its parameters."""
    outputs = named_outputs(model(**inputs, output_hidden_states=True))
    (outputs["logits"] * weight).sum().backward()
    return {name: tensor.detach() for name, tensor in outputs.items()}


def agree(
    record: Record,
    inputs: dict[str, Any],
    ours: Run,
    outputs: dict[str, torch.Tensor],
    gradients: Parameters,
    tolerance: float = TOLERANCE,
) -> None:
    worst = {
        "outputs": worst_output(inputs, ours.outputs, outputs),
        "gradients": worst_gradient(ours.gradients, gradients),
    }
    record("worst", worst)
    assert worst["outputs"] <= tolerance
    assert worst["gradients"] <= tolerance


def lora_pair(model: nn.Module, host: Host, path: str) -> tuple[nn.Parameter, nn.Parameter]:
    """A and B of the peft model at one path below the base model."""
    prefix = "" if host.base is host.model else host.model.base_model_prefix + "."
    layer: Any = model.get_submodule(f"base_model.model.{prefix}{path}")
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def lora_gradients(model: nn.Module, host: Host, module: Module) -> Parameters:
    """Gradients of our matrices out of peft's: slots that share a matrix own its rows of A and blocks of B in turn."""
    gradients: Parameters = {}
    row: dict[str, int] = {}
    for name, own in module.matrices.items():
        slot = host.slots[name]
        a, b = lora_pair(model, host, slot.path)
        start = row.get(slot.path, 0)
        end = row[slot.path] = start + own["A"].shape[0]
        assert a.grad is not None and b.grad is not None
        gradients[name] = {"A": a.grad[start:end], "B": b.grad[slot.start : slot.start + slot.out_width, start:end]}
    return gradients


# --- our files, loaded by peft --------------------------------------------------------------------------------------


def loaded_by_peft(module: Module, host: Host, folder: Path, view: View = "language_model") -> nn.Module:
    """Write the module, load it with peft on an equal host, and check that every tensor arrived, and no other."""
    write_module(module, host, folder, "peft")
    base = pico_model(host.fingerprint.model_type, view=view)
    model = PeftModel.from_pretrained(base, folder, is_trainable=True).eval()
    written = load_file(folder / "adapter_model.safetensors")
    arrived = get_peft_model_state_dict(model, save_embedding_layers=False)  # else it asks the hub for the vocabulary
    assert written.keys() == arrived.keys()
    assert all(torch.equal(written[key], arrived[key]) for key in written)
    result = model.load_adapter(folder, "again")
    assert not result.missing_keys and not result.unexpected_keys
    return model


SITES: dict[str, tuple[str, tuple[str, ...]]] = {
    **{f"{model_type}-default": (model_type, LoraSpec().sites) for model_type in MODEL_TYPES},
    "bert-outputs": ("bert", ("attn_o", "ffn_in", "ffn_out")),
    "bert-ffn_out": ("bert", ("ffn_out",)),  # its leaf, `dense`, is that of other matrices too
    "t5-self": ("t5", ("attn_q", "attn_v")),  # its leaves are those of cross attention too
    "t5-ffn": ("t5", ("ffn_gate", "ffn_in", "ffn_out", "cross_o")),
    "llama-all": ("llama", ("attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "ffn_in", "ffn_out")),
    "gemma3_text-all": ("gemma3_text", ("attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "ffn_in", "ffn_out")),
    "gpt2-v": ("gpt2", ("attn_v",)),
    "gpt2-qkv": ("gpt2", ("attn_q", "attn_k", "attn_v")),
    "gpt2-whole": ("gpt2", ("attn_qkv", "ffn_in")),
    "gpt2-mixed": ("gpt2", ("attn_q", "attn_v", "attn_o")),  # c_proj takes the fused rank, padded with zeros
}


@pytest.mark.parametrize("case", SITES)
def test_peft_loads_our_lora(case: str, tmp_path: Path, record_property: Record) -> None:
    """In float64: in float32 the order of a processor's sums alone moves Gemma's gradients by 3e-5."""
    model_type, sites = SITES[case]
    host = pico_host(model_type, dtype=torch.float64)
    module = random_module(host, LoraSpec(rank=4, alpha=10, sites=sites))
    inputs = batch(host)
    weight = loss_weight(host, inputs)
    model = loaded_by_peft(module, host, tmp_path / "lora").double()
    outputs = peft_run(model, inputs, weight)
    matrices = {slot: {name: each.double() for name, each in of.items()} for slot, of in module.matrices.items()}
    ours = run(host, module.spec, matrices, inputs, weight)
    agree(record_property, inputs, ours, outputs, lora_gradients(model, host, module), tolerance=1e-12)
    bare = run(host, None, {}, inputs, weight)
    assert worst_output(inputs, ours.outputs, bare.outputs) > 1e-2


def test_peft_loads_our_lora_of_a_host_without_a_head(tmp_path: Path) -> None:
    host = pico_host("bert", view="body")
    module = random_module(host, LoraSpec(rank=4, alpha=10))
    inputs = batch(host)
    model = loaded_by_peft(module, host, tmp_path / "lora", view="body")
    weight = torch.ones(*inputs["input_ids"].shape, host.width)
    ours = run(host, module.spec, module.matrices, inputs, weight)
    assert worst_output(inputs, ours.outputs, peft_run(model, inputs, weight)) <= TOLERANCE


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_what_we_write_we_read_as_the_same_update(model_type: str, tmp_path: Path) -> None:
    host = pico_host(model_type)
    module = random_module(host, LoraSpec(rank=4, alpha=10))
    write_module(module, host, tmp_path / "lora", "peft")
    again = read_module(tmp_path / "lora", origin=host)
    inputs = batch(host)
    weight = loss_weight(host, inputs)
    first, second = (run(host, m.spec, m.matrices, inputs, weight) for m in (module, again))
    assert worst_output(inputs, first.outputs, second.outputs) <= TOLERANCE


# --- peft's files, read by us ---------------------------------------------------------------------------------------


def made_by_peft(host: Host, folder: Path, view: View = "language_model", **settings: Any) -> nn.Module:
    """A LoRA that peft itself made on an equal host: its own A, random B, saved."""
    task_type = {"encoder": "FEATURE_EXTRACTION", "encoder_decoder": "SEQ_2_SEQ_LM", "decoder": "CAUSAL_LM"}[host.kind]
    fused = {"fan_in_fan_out": True} if host.layout.family == "gpt2" else {}
    config = LoraConfig(task_type=task_type, **{"r": 4, "lora_alpha": 8, **fused, **settings})
    model = get_peft_model(pico_model(host.fingerprint.model_type, view=view), config).eval()
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}], ids=["plain", "rslora"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_we_read_a_lora_of_peft(
    model_type: str, settings: dict[str, Any], tmp_path: Path, record_property: Record
) -> None:
    host = pico_host(model_type)
    model = made_by_peft(host, tmp_path, **settings)
    compare_read(host, model, tmp_path, record_property)


@pytest.mark.parametrize("model_type", ["t5", "llama", "gemma3_text", "gpt2"])
def test_we_read_a_lora_of_peft_on_all_linear_maps(model_type: str, tmp_path: Path, record_property: Record) -> None:
    """In float64, as gradients are summed in another order here than in `peft`."""
    host = pico_host(model_type, dtype=torch.float64)
    model = made_by_peft(host, tmp_path, target_modules="all-linear").double()
    compare_read(host, model, tmp_path, record_property)


def compare_read(host: Host, model: nn.Module, folder: Path, record_property: Record) -> None:
    module = read_module(folder, origin=host)
    wide = {slot: {name: each.to(host.dtype) for name, each in own.items()} for slot, own in module.matrices.items()}
    module = replace(module, matrices=wide)
    assert module.host == host.fingerprint
    known = dict.fromkeys(slot.site for slot in host.slots.values())
    assert module.spec.sites == tuple(site for site in known if site in module.spec.sites)  # not in the file's order
    assert all(list(own) == ["A", "B"] for own in module.matrices.values())
    inputs = batch(host)
    weight = loss_weight(host, inputs)
    ours = run(host, module.spec, module.matrices, inputs, weight)
    outputs = peft_run(model, inputs, weight)
    agree(record_property, inputs, ours, outputs, lora_gradients(model, host, module))


def test_a_lora_of_peft_on_the_body_is_read_on_the_model_with_its_head(tmp_path: Path) -> None:
    made_by_peft(pico_host("bert", view="body"), tmp_path, view="body")
    with_head, body = pico_host("bert"), pico_host("bert", view="body")
    assert read_module(tmp_path, origin=with_head).matrices.keys() == read_module(tmp_path, origin=body).matrices.keys()


def test_the_origin_must_be_given_and_must_fit(tmp_path: Path) -> None:
    made_by_peft(pico_host("bert"), tmp_path)
    with pytest.raises(ModuleRefused, match="--from HOST"):
        read_module(tmp_path)
    with pytest.raises(SlotMismatch, match="no slot at"):
        read_module(tmp_path, origin=pico_host("llama"))
    with pytest.raises(SlotMismatch, match=r"layers.0.attn_q: lora_A is \(4, 16\).* takes \(4, 32\)"):
        read_module(tmp_path, origin=pico_host("bert", hidden_size=32))


# --- what is refused, by name ---------------------------------------------------------------------------------------


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    host = pico_host("bert")
    made_by_peft(host, tmp_path).save_pretrained(tmp_path, safe_serialization=False)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(ModuleRefused, match="adapter_model.bin: expected adapter_model.safetensors, got pickled"):
        read_module(tmp_path, origin=host)


def test_other_types_are_refused_by_name(tmp_path: Path) -> None:
    config = PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3)
    get_peft_model(pico_model("bert"), config).save_pretrained(tmp_path)
    with pytest.raises(ModuleRefused, match="PREFIX_TUNING: expected a soft prompt of a decoder"):
        read_module(tmp_path, origin=pico_host("bert"))


# --- prefixes on decoders -------------------------------------------------------------------------------------------


def prefix_of_peft(host: Host, matrices: Parameters, length: int, **changes: Any) -> nn.Module:
    """A peft prefix that holds our keys and values. Its embedding is (P, layers * 2 * H_kv * head width)."""
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length)
    model = get_peft_model(pico_model(host.fingerprint.model_type, **changes), config).eval()
    flat = torch.cat([own[name] for own in matrices.values() for name in ("keys", "values")], dim=1)
    model.prompt_encoder["default"].load_prompt_embeddings(flat)
    return model


@pytest.mark.parametrize("positions", ["given", "its own"])
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2"])
def test_a_decoder_prefix_is_that_of_peft(model_type: str, positions: str, record_property: Record) -> None:
    """Positions start at P. Peft adds P to those it is given, and counts the prefix where it is given none."""
    host, length = pico_host(model_type), 5
    spec = PrefixSpec(length=length, hidden=0)
    matrices = random_matrices(host, spec)
    theirs, ours = batch(host, shift=0), batch(host, shift=length)
    if positions == "its own":  # peft numbers padding too: only rows of one length can agree
        theirs, ours = ({name: t[:1] if torch.is_tensor(t) else t for name, t in b.items()} for b in (theirs, ours))
        del theirs["position_ids"]
    weight = loss_weight(host, ours)
    model = prefix_of_peft(host, matrices, length)
    # A cache is how peft passes its prefix, so it must be on.
    outputs = peft_run(model, {**theirs, "use_cache": True}, weight)
    flat = model.prompt_encoder["default"].embedding.weight.grad
    parts = iter(flat.chunk(2 * len(matrices), dim=1))
    gradients: Parameters = {slot: {"keys": next(parts), "values": next(parts)} for slot in matrices}
    result = run(host, spec, matrices, ours, weight)
    agree(record_property, ours, result, outputs, gradients)
    unshifted = run(host, spec, matrices, {**ours, "position_ids": ours["position_ids"] - length}, weight)
    assert difference(unshifted.outputs["logits"][0], result.outputs["logits"][0]) > 1e-3


@pytest.mark.parametrize("window", [4, 8, 11])
def test_peft_moves_a_prefix_out_of_a_window(window: int) -> None:
    """The one place where we leave peft: a prefix of 5 before texts of 6 tokens fits into a window of 11, not of 8.

    Where it does not fit, peft's tokens lose sight of the first rows of the prefix one after the other.
    """
    host, length = pico_host("gemma3_text", sliding_window=window), 5
    spec = PrefixSpec(length=length, hidden=0)
    matrices = random_matrices(host, spec)
    theirs, ours = ({name: t[:1] for name, t in batch(host, shift).items() if torch.is_tensor(t)} for shift in (0, 5))
    weight = loss_weight(host, ours)
    model = prefix_of_peft(host, matrices, length, sliding_window=window)
    got = peft_run(model, {**theirs, "use_cache": True}, weight)["logits"][0]
    apart = (got - run(host, spec, matrices, ours, weight).outputs["logits"][0]).abs().amax(-1)
    in_sight = max(0, window - length)  # tokens that see the whole prefix
    assert len(apart) == 6 and float(apart[:in_sight].max() if in_sight else 0) < 1e-5
    assert bool((apart[in_sight:] > 1e-3).all())
