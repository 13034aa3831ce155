"""A merged model is the host with the module attached, as transformers itself loads it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import peftport as pp
from peftport.core.errors import BadRequest, NotFinite, OutputRefused, SlotMismatch
from peftport.hosts.opening import open_host
from peftport.hosts.rewriting import copy_host
from peftport.modules.folders import write_module
from peftport.modules.module import HEAD, Module, TaskRecord
from peftport.techniques import TECHNIQUES, make_spec
from pico import SPECS, pico_model, random_matrices, word_tokenizer
from pico_folders import process_environment
from techniques.ia3 import Ia3, Ia3Spec

ALL_LINEAR = (
    "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_o", "cross_q", "cross_k", "cross_v", "cross_o", "ffn_gate",
    "ffn_in", "ffn_out",
)  # fmt: skip
AUTO = {
    "bert": "AutoModelForMaskedLM", "t5": "AutoModelForSeq2SeqLM", "llama": "AutoModelForCausalLM",
    "gpt2": "AutoModelForCausalLM",
}  # fmt: skip
KILLED = """
import os, signal
from peftport.hosts import rewriting
import peftport
whole = rewriting._rewrite
def then_killed(*arguments):
    whole(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
rewriting._rewrite = then_killed
peftport.merge(*{asked!r}, out={out!r})
"""


def saved(home: Path, model_type: str, dtype: torch.dtype = torch.float32, shard: str | None = None) -> Path:
    """A small host with everything that a folder may have beside its weights."""
    model = pico_model(model_type).to(dtype)
    model.save_pretrained(home, **({"max_shard_size": shard} if shard else {}))
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    tokenizer.save_pretrained(home)
    if AUTO[model_type] != "AutoModelForMaskedLM":
        transformers.GenerationConfig(max_new_tokens=7, eos_token_id=1, pad_token_id=0).save_pretrained(home)
    (home / "README.md").write_text("---\nlicense: mit\nlanguage: [en]\n---\n# Host\n", encoding="utf-8")
    (home / "pytorch_model.bin").write_bytes(b"weights of the old host in another format")
    return home


def lora_on(host: Path, out: Path, std: float = 0.3, **settings: Any) -> Path:
    opened = open_host(str(host))
    spec = make_spec("lora", {"rank": 3, "alpha": 5.0, "sites": ALL_LINEAR, **settings})
    write_module(Module(spec, opened.fingerprint, random_matrices(opened, spec, std=std)), opened, out)
    return out


def logits(model: Any, kind: str) -> torch.Tensor:
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
    more = {"decoder_input_ids": ids[:, :4]} if kind == "t5" else {}
    with torch.no_grad():
        return model(input_ids=ids, **more).logits


@pytest.mark.parametrize("model_type", AUTO)
def test_a_merged_model_is_the_attached_one(model_type: str, tmp_path: Path) -> None:
    host = saved(tmp_path / "host", model_type, shard="4KB")
    module = lora_on(host, tmp_path / "lora")
    done = pp.merge(host, module, out=tmp_path / "merged")
    auto = getattr(transformers, AUTO[model_type])
    merged = auto.from_pretrained(tmp_path / "merged").eval()
    plain = auto.from_pretrained(host).eval()
    before = logits(plain, model_type)
    with pp.attach(plain, module) as attached:
        torch.testing.assert_close(logits(merged, model_type), logits(attached.model, model_type), atol=1e-5, rtol=0)
    assert (logits(merged, model_type) - before).abs().max() > 0.1  # the module does something

    files = {path.name for path in host.iterdir()} - {"pytorch_model.bin"}
    assert {path.name for path in (tmp_path / "merged").iterdir()} == files
    assert len([name for name in files if name.endswith(".safetensors")]) > 2  # as many shards as the host has
    old, new = (tensors_of(folder) for folder in (host, tmp_path / "merged"))
    apart = [name for name in old if not torch.equal(old[name], new[name])]
    assert old.keys() == new.keys() and len(apart) == done.found.changed < len(old) == done.found.tensors
    for kept in ("tokenizer.json", "chat_template.jinja", "config.json", "generation_config.json"):
        if kept in files:
            assert as_read(host / kept) == as_read(tmp_path / "merged" / kept)
    card = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in card and "language:\n- en" in card and "merged" in card


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def as_read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else text


def test_what_is_generated_is_the_same(tmp_path: Path) -> None:
    host = saved(tmp_path / "host", "llama")
    module = lora_on(host, tmp_path / "lora")
    pp.merge(host, module, out=tmp_path / "merged")
    merged = transformers.pipeline("text-generation", str(tmp_path / "merged"))
    assert merged.model.generation_config.max_new_tokens == 7
    conversation = [{"role": "user", "content": "the film was"}]
    ids = merged.tokenizer.apply_chat_template(conversation, return_tensors="pt", return_dict=True)
    with pp.attach(transformers.AutoModelForCausalLM.from_pretrained(host), module) as attached:
        expected = attached.model.generate(**ids)
    assert torch.equal(merged.model.generate(**ids), expected) and expected.shape[1] > ids["input_ids"].shape[1]


@pytest.mark.parametrize(
    ("stored", "wanted", "std"),
    [(torch.float32, None, 0.3), (torch.bfloat16, None, 1e-3), (torch.float16, "float32", 0.3),
     (torch.float64, "float16", 1e-2), (torch.float64, None, 1e-4)],
)  # fmt: skip
def test_every_number_format_rounds_once(stored: torch.dtype, wanted: Any, std: float, tmp_path: Path) -> None:
    """Each changed tensor is the exact one, rounded to the nearest number of the format; what is lost is said."""
    home = tmp_path
    host = saved(home / "host", "llama", stored)
    module = lora_on(host, home / "lora", std)
    done = pp.merge(host, module, out=home / "merged", dtype=wanted)
    format = getattr(torch, wanted) if wanted else stored
    matrices = load_file(module / "module.safetensors")
    old, new, lost, update = tensors_of(host), tensors_of(home / "merged"), 0.0, 0.0
    assert {tensor.dtype for tensor in new.values()} == {format}
    name, slot = "model.layers.1.mlp.down_proj.weight", "layers.1.ffn_out"
    exact = old[name].double() + 5 / 3 * matrices[f"{slot}/B"].double() @ matrices[f"{slot}/A"].double()
    torch.testing.assert_close(new[name], exact.to(format), rtol=torch.finfo(format).eps, atol=0)
    assert torch.equal(new["model.norm.weight"], old["model.norm.weight"].to(format))
    for key, tensor in new.items():
        site = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
                "self_attn.o_proj": "attn_o", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_in",
                "mlp.down_proj": "ffn_out"}.get(".".join(key.split(".")[3:5]))  # fmt: skip
        if site:
            at = f"layers.{key.split('.')[2]}.{site}"
            delta = 5 / 3 * matrices[f"{at}/B"].double() @ matrices[f"{at}/A"].double()
            lost += float((tensor.double() - old[key].double() - delta).square().sum())
            update += float(delta.square().sum())
    assert done.found.rounding == pytest.approx((lost / update) ** 0.5, rel=1e-4, abs=1e-8)
    assert bool(done.remarks()) == (done.found.rounding > 0.01)
    assert json.loads((home / "merged" / "config.json").read_text())["dtype"] == str(format).removeprefix("torch.")


def test_a_technique_of_the_recipe_folds_into_weights_and_biases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TECHNIQUES, "ia3", Ia3())
    host = saved(tmp_path / "host", "gpt2")
    opened, spec = open_host(str(host)), Ia3Spec()
    write_module(Module(spec, opened.fingerprint, random_matrices(opened, spec)), opened, tmp_path / "ia3")
    pp.merge(host, tmp_path / "ia3", out=tmp_path / "merged")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with pp.attach(transformers.AutoModelForCausalLM.from_pretrained(host), tmp_path / "ia3") as attached:
        torch.testing.assert_close(logits(merged, "gpt2"), logits(attached.model, "gpt2"), atol=1e-5, rtol=0)


def test_the_parts_of_a_fused_matrix_are_each_in_their_place(tmp_path: Path) -> None:
    host = saved(tmp_path / "host", "gpt2")
    module = lora_on(host, tmp_path / "lora", sites=("attn_q", "attn_v"))
    pp.merge(host, module, out=tmp_path / "merged")
    old, new = (tensors_of(folder)["transformer.h.1.attn.c_attn.weight"] for folder in (host, tmp_path / "merged"))
    assert (old - new).abs().amax(0).view(3, 16).amax(1).gt(0).tolist() == [True, False, True]


def test_a_linear_readout_lies_beside_the_weights(tmp_path: Path) -> None:
    host = saved(tmp_path / "host", "bert")
    opened = open_host(str(host))
    spec = SPECS["lora"]
    head = {"weight": torch.randn(2, 16), "bias": torch.randn(2)}
    record = TaskRecord(name="toy", labels=("negative", "positive"), digest="", readout="linear")
    module = Module(spec, opened.fingerprint, {**random_matrices(opened, spec), HEAD: head}, record)
    write_module(module, opened, tmp_path / "lora")
    done = pp.merge(host, tmp_path / "lora", out=tmp_path / "merged")
    for name, tensor in load_file(tmp_path / "merged" / "readout.safetensors").items():
        assert torch.equal(tensor, head[name])
    assert "readout.safetensors" in done.remarks()[0]
    transformers.AutoModel.from_pretrained(tmp_path / "merged")


@pytest.mark.parametrize("technique", ["adapter", "compacter", "prefix"])
def test_what_is_no_change_of_weights_is_refused(technique: str, tmp_path: Path) -> None:
    host = saved(tmp_path / "host", "llama")
    opened = open_host(str(host))
    module = Module(SPECS[technique], opened.fingerprint, random_matrices(opened, SPECS[technique]))
    write_module(module, opened, tmp_path / "module")
    with pytest.raises(BadRequest, match=r"expected a module that can be folded.*peftport\.attach"):
        pp.merge(host, tmp_path / "module", out=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    host, other = saved(tmp_path / "host", "llama"), saved(tmp_path / "other", "llama", torch.float16)
    module = lora_on(host, tmp_path / "lora")
    with pytest.raises(SlotMismatch, match="port it first"):
        pp.merge(other, module, out=tmp_path / "merged")
    with pytest.raises(OutputRefused, match="not empty"):
        pp.merge(host, module, out=host)
    huge = lora_on(host, tmp_path / "huge", std=1e3)
    with pytest.raises(NotFinite, match="float16 holds"):
        pp.merge(host, huge, out=tmp_path / "merged", dtype="float16")
    assert not (tmp_path / "merged").exists() and not list(tmp_path.glob(".merged*"))


def test_files_of_a_sentence_encoder_go_over(tmp_path: Path) -> None:
    host = saved(tmp_path / "host", "bert")
    (host / "1_Pooling").mkdir()
    (host / "1_Pooling" / "config.json").write_text("{}")
    (host / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}, {"path": "../secret"}]))
    (host / "onnx").mkdir()
    (host / ".git").mkdir()
    (tmp_path / "new").mkdir()
    copy_host(host, tmp_path / "new", {})
    assert sorted(path.name for path in (tmp_path / "new").iterdir() if path.is_dir()) == ["1_Pooling"]
    old, new = (tensors_of(folder) for folder in (host, tmp_path / "new"))
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_a_killed_merge_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    """A process is killed when it has written the weights; the next call sweeps what it left."""
    host = saved(tmp_path / "host", "llama")
    module = lora_on(host, tmp_path / "lora")
    script = KILLED.format(asked=(str(host), str(module)), out=str(tmp_path / "merged"))
    killed = subprocess.run([sys.executable, "-c", script], env=process_environment(), check=False)
    assert killed.returncode == -signal.SIGKILL
    [left] = tmp_path.glob(".merged*")
    assert (left / "model.safetensors").is_file() and not (tmp_path / "merged").exists()
    pp.merge(host, module, out=tmp_path / "merged")
    assert (tmp_path / "merged" / "config.json").is_file() and not list(tmp_path.glob(".merged*"))
