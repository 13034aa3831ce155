"""A LoRA in GGUF is the update of the same matrix: mapped back by transformers' own GGUF loading, it is ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

import peftport as pp
from peftport.core.errors import ModuleRefused, OutputRefused
from peftport.hosts.opening import open_host
from peftport.modules.folders import write_module
from peftport.modules.formats import gguf
from peftport.modules.module import Module
from peftport.techniques import make_spec
from pico import SMALL, SPECS, pico_host, pico_model, random_matrices, word_tokenizer

SITES = {
    "llama": ("attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "ffn_in", "ffn_out"),
    "gpt2": ("attn_q", "attn_v", "attn_o", "ffn_in", "ffn_out"),
    "t5": ("attn_q", "attn_v", "cross_q", "cross_v", "ffn_gate", "ffn_in", "ffn_out"),
}


def module_on(host: Any, sites: tuple[str, ...]) -> Module:
    spec = make_spec("lora", {"rank": 3, "alpha": 5.0, "sites": sites})
    return Module(spec, host.fingerprint, random_matrices(host, spec))


def saved(home: Path, model_type: str) -> Path:
    pico_model(model_type).save_pretrained(home)
    word_tokenizer().save_pretrained(home)
    return home


def test_a_file_says_the_same_updates_in_llama_cpp_s_order(tmp_path: Path) -> None:
    folder = saved(tmp_path / "host", "llama")
    host = open_host(str(folder))
    module = module_on(host, SITES["llama"])
    write_module(module, host, tmp_path / "lora", "peft")
    done = pp.gguf(folder, tmp_path / "lora", out=tmp_path / "lora.gguf")
    read = GGUFReader(tmp_path / "lora.gguf")
    said = {key: read.get_field(key).contents() for key in (
        "general.type", "general.architecture", "adapter.type", "adapter.lora.alpha"
    )}  # fmt: skip
    assert said == {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora",
                    "adapter.lora.alpha": 5.0}  # fmt: skip
    tensors = {tensor.name: np.array(tensor.data) for tensor in read.tensors}
    assert len(tensors) == 2 * 2 * 7 and done.found.size_bytes == (tmp_path / "lora.gguf").stat().st_size
    places = {"attn_q": "attn_q", "attn_k": "attn_k", "attn_v": "attn_v", "attn_o": "attn_output",
              "ffn_gate": "ffn_gate", "ffn_in": "ffn_up", "ffn_out": "ffn_down"}  # fmt: skip
    heads = {"attn_q": 4, "attn_k": 2}
    back = LlamaTensorProcessor(config={})
    for layer in (0, 1):
        for site, name in places.items():
            a, b = (tensors[f"blk.{layer}.{name}.weight.lora_{part}"] for part in "ab")
            update = 5.0 / len(a) * b @ a  # what llama.cpp adds, by the rank of the tensors
            if site in heads:
                update = back._reverse_permute_weights(update, heads[site], heads[site])
            own = module.matrices[f"layers.{layer}.{site}"]
            torch.testing.assert_close(torch.tensor(update), 5 / 3 * own["B"] @ own["A"], atol=1e-6, rtol=1e-5)
    with pytest.raises(OutputRefused, match="expected a new file"):
        pp.gguf(folder, tmp_path / "lora", out=tmp_path / "lora.gguf")


def test_a_file_that_comes_into_being_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = saved(tmp_path / "host", "llama"), tmp_path / "lora.gguf"
    host = open_host(str(folder))
    write_module(module_on(host, SITES["llama"]), host, tmp_path / "lora", "peft")

    def meanwhile(*_: object) -> bytes:
        out.write_bytes(b"another's")
        return b"ours"

    monkeypatch.setattr("peftport.workflows.gguf.gguf_bytes", meanwhile)
    with pytest.raises(OutputRefused, match="expected a new file"):
        pp.gguf(folder, tmp_path / "lora", out=out)
    assert out.read_bytes() == b"another's"


@pytest.mark.parametrize("model_type", ["gpt2", "t5"])
def test_parts_of_a_fused_matrix_and_stacks_have_their_names(model_type: str) -> None:
    host = pico_host(model_type)
    module = module_on(host, SITES[model_type])
    tensors = gguf.gguf_tensors(module, host)
    paths: dict[str, torch.Tensor] = {}
    for name, own in module.matrices.items():
        slot = host.slots[name]
        width = host.slot_module(slot).weight.shape[1 if model_type == "gpt2" else 0]
        whole = paths.setdefault(slot.path, torch.zeros(width, slot.in_width))
        whole[slot.start : slot.start + slot.out_width] += 5 / 3 * own["B"] @ own["A"]
    updates = [
        5.0 / len(tensors[f"{name}.lora_a"]) * tensors[f"{name}.lora_b"] @ tensors[f"{name}.lora_a"]
        for name in dict.fromkeys(key.rsplit(".", 1)[0] for key in tensors)
    ]
    assert len(updates) == len(paths)
    for made, expected in zip(updates, paths.values(), strict=True):
        torch.testing.assert_close(made, expected)
    stacks = {key.split("blk")[0] for key in tensors}
    assert stacks == ({"enc.", "dec."} if model_type == "t5" else {""})


@pytest.mark.parametrize("model_type", sorted(gguf.ARCHITECTURES.keys() & SMALL.keys()))
def test_every_architecture_has_a_name_for_every_linear_site(model_type: str) -> None:
    host = pico_host(model_type)
    sites = tuple(dict.fromkeys(s.site for s in host.slots.values() if s.kind == "linear" and s.site != "attn_qkv"))
    named = gguf.gguf_tensors(module_on(host, sites), host)
    assert len(named) == 2 * len({slot.path for slot in host.slots.values() if slot.kind == "linear"})


def test_what_llama_cpp_has_no_place_for_is_refused() -> None:
    llama, bert = pico_host("llama"), pico_host("bert")
    with pytest.raises(ModuleRefused, match=r"expected a lora, got a prefix.*peftport\.attach"):
        gguf.check_gguf(Module(SPECS["prefix"], llama.fingerprint, random_matrices(llama, SPECS["prefix"])), llama, "m")
    with pytest.raises(ModuleRefused, match="got bert.*peftport merge"):
        gguf.check_gguf(module_on(bert, ("attn_q",)), bert, "m")
    module = module_on(llama, ("attn_q",))
    empty = module.with_matrices(
        {s: {n: torch.zeros_like(t) for n, t in o.items()} for s, o in module.matrices.items()}
    )
    with pytest.raises(ModuleRefused, match="all zeros"):
        gguf.gguf_tensors(empty, llama)
