"""A module on a plain transformers model: the numbers of the engine, and a model that is as it was afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

import peftport
from peftport.core.errors import HostRefused, SlotMismatch
from peftport.hosts.load import load_host
from peftport.modules.folders import write_module
from peftport.modules.module import Module, stack
from peftport.objectives.base import decoder_inputs
from peftport.techniques.attach import attached, prefix_length
from pico import SPECS, inputs_of, random_matrices

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
Folders = dict[str, Path]
ROWS = [(5, 6, 7, 8, 9, 10), (11, 12, 13, 14, 15, 16)]
AUTO = {"bert-masked": "AutoModelForMaskedLM", "t5": "AutoModelForSeq2SeqLM", "llama": "AutoModelForCausalLM"}


def made(host: Path, technique: str, out: Path, file_format: Any = "native") -> tuple[Any, Module]:
    """A module of random matrices on a host's folder, and the host."""
    loaded = load_host(str(host), "language_model")
    spec = SPECS[technique]
    module = Module(spec, loaded.fingerprint, random_matrices(loaded, spec))
    write_module(module, loaded, out, file_format)
    return loaded, module


def logits_of(host: Any, module: Module) -> torch.Tensor:
    shift = prefix_length(module.spec, host)
    with torch.no_grad(), attached(host, module.spec, stack([module.matrices])):
        return host.model(**inputs_of(host, ROWS, shift)).logits


@pytest.mark.parametrize("technique", SPECS)
@pytest.mark.parametrize("name", AUTO)
def test_a_plain_model_says_what_the_engine_says(name: str, technique: str, hosts: Folders, tmp_path: Path) -> None:
    host, module = made(hosts[name], technique, tmp_path / "module")
    expected = logits_of(host, module)
    plain = getattr(transformers, AUTO[name]).from_pretrained(hosts[name]).train()
    before, weights = plain.config._attn_implementation, {k: v.clone() for k, v in plain.state_dict().items()}
    inputs = {key: value for key, value in inputs_of(host, ROWS).items() if key != "position_ids"}
    bare = plain.eval()(**inputs).logits
    plain.train()
    with peftport.attach(plain, tmp_path / "module") as on:
        torch.testing.assert_close(on(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
        assert not plain.training and not any(p.requires_grad for p in plain.parameters())
        with pytest.raises(HostRefused, match="without a module, it has one"):
            peftport.attach(plain, tmp_path / "module")
    on.detach()
    assert plain.training and all(p.requires_grad for p in plain.parameters())
    assert plain.config._attn_implementation == before
    torch.testing.assert_close(plain.eval()(**inputs).logits, bare)
    assert not torch.allclose(bare, expected, atol=1e-3)
    assert all(torch.equal(v, weights[k]) for k, v in plain.state_dict().items())


@pytest.mark.parametrize("technique", ["lora", "prefix"])
def test_generation_with_a_cache_is_generation_without(technique: str, hosts: Folders, tmp_path: Path) -> None:
    host, module = made(hosts["llama"], technique, tmp_path / "module")
    with peftport.attach(hosts["llama"], tmp_path / "module") as on:
        short = on.tokenizer(
            ["good film", "the plot was dull ."], padding=True, padding_side="left", return_tensors="pt"
        )
        inputs = {key: short[key] for key in ("input_ids", "attention_mask")}
        options = dict(max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)
        cached = on.model.generate(**inputs, **options)
        assert torch.equal(cached, on.model.generate(**inputs, **options, use_cache=False))
    rows = [tuple(row.tolist()) for row in cached[1:, :-1]]  # the row without padding: the engine's own next word
    shifted = decoder_inputs(host, rows, prefix_length(module.spec, host))
    with torch.no_grad(), attached(host, module.spec, stack([module.matrices])):
        assert int(host.model(**shifted).logits[0, -1].argmax()) == int(cached[1, -1])


def test_a_module_of_another_host_is_refused_and_the_model_left_alone(hosts: Folders, tmp_path: Path) -> None:
    made(hosts["bert-masked"], "lora", tmp_path / "module")
    plain = transformers.AutoModel.from_pretrained(hosts["bert-updated"])
    before = plain.config._attn_implementation
    for model in (plain, hosts["bert-updated"]):
        with pytest.raises(SlotMismatch, match="port it first: peftport port"):
            peftport.attach(model, tmp_path / "module")
    assert plain.config._attn_implementation == before
    with pytest.raises(HostRefused, match="expected a transformers model, got Linear"):
        peftport.attach(torch.nn.Linear(2, 2), tmp_path / "module")


def test_a_model_made_in_memory_is_taken_at_its_word(hosts: Folders, tmp_path: Path) -> None:
    host, module = made(hosts["bert-masked"], "lora", tmp_path / "module")
    config = transformers.AutoConfig.from_pretrained(hosts["bert-masked"])
    model = transformers.AutoModelForMaskedLM.from_config(config)
    model.name_or_path = ""
    model.load_state_dict(host.model.state_dict())
    with peftport.attach(model, tmp_path / "module") as on:
        torch.testing.assert_close(on(**inputs_of(host, ROWS)).logits, logits_of(host, module), atol=1e-5, rtol=1e-5)


def test_peft_loads_what_attach_loads(hosts: Folders, tmp_path: Path) -> None:
    host, _ = made(hosts["llama"], "lora", tmp_path / "module", "peft")
    plain = transformers.AutoModelForCausalLM.from_pretrained(hosts["llama"])
    inputs = {key: value for key, value in inputs_of(host, ROWS).items() if key != "position_ids"}
    with peftport.attach(plain, tmp_path / "module") as on:
        ours = on(**inputs).logits
    theirs = peft.PeftModel.from_pretrained(plain, str(tmp_path / "module")).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(**inputs).logits, ours, atol=1e-5, rtol=1e-5)
