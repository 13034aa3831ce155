"""A host is what is loaded: folders that hold or ask for more than a plain host end in one line, by every command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from peftport.hosts.load import load_host
from pico import pico_model, word_tokenizer
from pico_folders import Run

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
Function = Callable[..., Any]
Folders = dict[str, Path]


@pytest.fixture
def host(hosts: Folders, tmp_path: Path) -> Path:
    """A copy of the host ``llama``, to be added to."""
    return Path(shutil.copytree(hosts["llama"], tmp_path / "host"))


@pytest.fixture
def refused_host(refused: Function, host: Path, reviews: Path, tmp_path: Path, training: Function) -> Function:
    """The host is refused by show, by train, bare, and as a receiver."""
    module = tmp_path / "module"
    base = pico_model("llama")
    base.name_or_path = ""
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(module)  # type: ignore[arg-type]

    def check(*says: str) -> None:
        refused("hosts", "show", host, says=says)
        refused("evaluate", host, reviews, says=says)
        refused(*training(host, reviews, tmp_path / "out"), says=says)
        refused("port", module, "--from", host, "--to", host, "--out", tmp_path / "out", says=says)

    return check


def test_an_adapter_in_the_hosts_folder(refused_host: Function, host: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(host)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(host)
    refused_host(str(host), "got an adapter in the same folder", "take adapter_config.json away")
    (host / "adapter_config.json").unlink()
    assert not [name for name, _ in load_host(str(host)).model.named_parameters() if "lora" in name]


def test_weights_of_another_name(refused_host: Function, host: Path, edit: Function) -> None:
    other = {name: t + 1 for name, t in load_file(host / "model.safetensors").items()}
    save_file(other, host / "other.safetensors", metadata={"format": "pt"})
    edit(host / "config.json", transformers_weights="other.safetensors")
    refused_host("transformers_weights: other.safetensors", "give those the name model.safetensors")


def test_two_sets_of_weights(refused_host: Function, host: Path) -> None:
    tensors = load_file(host / "model.safetensors")
    save_file(tensors, host / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (host / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    refused_host("expected one set of weights, got two: model.safetensors, which transformers would read", "take away")


def test_pieces_of_a_distributed_checkpoint(refused_host: Function, host: Path) -> None:
    name = "shard-00001-model-00001-of-00001.safetensors"
    shutil.copyfile(host / "model.safetensors", host / name)
    refused_host("got pieces of a distributed checkpoint", name, "take them away")


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
@pytest.mark.parametrize("value", ["kernels-community/flash-attn3", {"": "somebody/kernel@main:attend"}])
def test_kernels_are_never_fetched(key: str, value: Any, refused_host: Function, host: Path, edit: Function) -> None:
    edit(host / "config.json", **{key: value})
    refused_host("this host asks for a kernel to be fetched and run", key, "take that key out")


def test_layers_are_not_fused(refused_host: Function, host: Path, edit: Function) -> None:
    edit(host / "config.json", fusion_config={"mlp": True})
    refused_host("fusion_config", "take that key out")


@pytest.mark.parametrize("value", ["sdpa", "flash_attention_2", "eager"])
def test_the_attention_that_a_host_was_trained_with_is_no_matter(
    value: str, host: Path, edit: Function, hosts: Folders
) -> None:
    edit(host / "config.json", attn_implementation=value)
    ids = torch.arange(5, 15)[None]
    plain, other = (load_host(str(folder), "language_model") for folder in (hosts["llama"], host))
    assert torch.equal(plain.model(input_ids=ids).logits, other.model(input_ids=ids).logits)
    assert plain.fingerprint.same_host(other.fingerprint)


@pytest.mark.parametrize("method", ["bitsandbytes", "fp8", "gptq", "awq", "compressed-tensors"])
def test_packed_hosts(method: str, refused_host: Function, host: Path, edit: Function) -> None:
    edit(host / "config.json", quantization_config={"quant_method": method, "bits": 4, "load_in_4bit": True})
    refused_host("expected weights in full precision, got packed ones", method, "give the base in full precision")


@pytest.mark.parametrize(
    ("auto", "readouts"),
    [
        ("AutoModel", ["prototype", "linear", "cosine", "classifier"]),
        ("AutoModelForSequenceClassification", ["prototype", "linear", "cosine", "head", "classifier"]),
        ("AutoModelForCausalLM", ["label_tokens", "prototype", "linear", "cosine", "answer_tokens", "classifier"]),
    ],
)  # fmt: skip
def test_a_decoder_is_shown_with_what_it_can_do(
    auto: str, readouts: list[str], hosts: Folders, reviews: Path, tmp_path: Path, peftport: Run, refused: Function
) -> None:
    """Without a language-model head (saved as a body, or as a reward model), it is a host still: by every command."""
    folder = tmp_path / "host"
    whole = transformers.AutoModelForCausalLM.from_pretrained(hosts["llama"])
    model = whole if "Causal" in auto else getattr(transformers, auto).from_pretrained(hosts["llama"])
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    assert peftport("hosts", "show", folder, "--json").json["readouts"] == readouts
    shown = peftport("hosts", "show", folder).out
    assert ("its files have no language-model head" in shown) == ("label_tokens" not in readouts)
    module = tmp_path / "module"
    get_peft_model(whole, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(module)
    texts = tmp_path / "texts.txt"
    texts.write_text("the film was good\na dull plot , it was bad\n" * 20, encoding="utf-8")
    for method in (("copy",), ("theseus", "--texts", texts)):
        to = ("--from", hosts["llama"], "--to", folder, "--method", *method, "--out", tmp_path / method[0])
        assert peftport("port", module, *to).code == 0
    for readout in ("linear", "label_tokens"):
        arguments = ("evaluate", folder, reviews, "--readout", readout)
        if readout in readouts:
            assert peftport(*arguments).code == 0
        else:
            refused(*arguments, says=("expected a language-model head", "use --readout prototype or linear"))


def test_what_only_one_way_to_open_a_host_saw(refused_host: Function, host: Path) -> None:
    """A missing layer norm was no matter to methods that only open a host."""
    tensors = load_file(host / "model.safetensors")
    del tensors["model.layers.1.input_layernorm.weight"]
    save_file(tensors, host / "model.safetensors", metadata={"format": "pt"})
    refused_host("1 tensors are missing (first: ", "layers.1.input_layernorm.weight", "fetch the host again")


def test_a_mismatch_says_which_part_differs(
    hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path, edit: Function, refused: Function
) -> None:
    other = Path(shutil.copytree(hosts["bert"], tmp_path / "other"))
    edit(other / "config.json", layer_norm_eps=0.02, _name_or_path="elsewhere")
    said = "different settings (layer_norm_eps by default and 0.02)"
    refused("evaluate", other, reviews, "--module", modules["lora"], says=(said, "port it first"))
    to = ("--to", hosts["bert-updated"], "--out", tmp_path / "out")
    refused("port", modules["lora"], "--from", other, *to, says=(said, "--trust-origin other"))
    refused("check", modules["lora"], "--from", other, "--to", hosts["bert-updated"], says=(said,))
    refused("evaluate", hosts["bert-updated"], reviews, "--module", modules["lora"], says=("different weights",))
