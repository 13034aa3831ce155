"""Hosts that are broken, unsafe or of no known family: exit 2, one line, no file touched, no code of theirs run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pico_folders import Run

Refused = Callable[..., str]
Function = Callable[..., Any]
Folders = dict[str, Path]
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def host(hosts: Folders, tmp_path: Path) -> Path:
    """A copy of the host ``bert``, to be broken."""
    return Path(shutil.copytree(hosts["bert"], tmp_path / "host"))


@pytest.fixture
def refused_host(
    refused: Refused, host: Path, reviews: Path, modules: Folders, tmp_path: Path, training: Function
) -> Callable[..., None]:
    """The host is refused by show, by train and as a receiver."""

    def check(*says: str) -> None:
        refused("hosts", "show", host, says=says)
        refused(*training(host, reviews, tmp_path / "out"), says=says)
        refused("port", modules["lora"], "--to", host, "--out", tmp_path / "out", says=says)

    return check


def test_no_config(refused_host: Refused, host: Path) -> None:
    (host / "config.json").unlink()
    refused_host(f"{host}: expected a transformers folder with config.json, found none", "give the model's folder")


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"{}", b"\xff\xfe", b"", b'{"model_type": 3}', b'{"model_type": ["bert"]}']
)
def test_broken_config(content: bytes, refused_host: Refused, host: Path) -> None:
    (host / "config.json").write_bytes(content)
    refused_host(f"{host / 'config.json'}: expected")


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "wide"}, {"hidden_size": 24}, {"num_hidden_layers": 3}, {"num_attention_heads": 3},
        {"num_hidden_layers": -1}, {"vocab_size": 99}, {"hidden_act": "magic"}, {"num_hidden_layers": [2]},
    ],
)  # fmt: skip
def test_config_that_does_not_describe_the_weights(
    changes: dict[str, Any], refused_host: Refused, host: Path, edit: Function
) -> None:
    edit(host / "config.json", **changes)
    refused_host("host", "expected", "fetch")


@pytest.mark.parametrize("layers", [0, 1])
def test_weights_of_more_layers_than_the_config_has(
    layers: int, refused_host: Refused, host: Path, edit: Function
) -> None:
    """Loaded as they are said to be they would be another host, quietly."""
    edit(host / "config.json", num_hidden_layers=layers)
    refused_host("host: expected")


def test_weights_inside_a_layer_that_have_no_place(refused_host: Refused, host: Path) -> None:
    tensors = load_file(host / "model.safetensors")
    name = "encoder.layer.1.attention.self.gate.weight"
    save_file({**tensors, name: torch.zeros(2)}, host / "model.safetensors", metadata={"format": "pt"})
    refused_host("host: expected the layers that config.json describes, 1 more tensor", name, "fetch the host again")


@pytest.mark.parametrize(
    "name", ["encoder.layer.1.attn.masked_bias", "encoder.layer.0.rotary_emb.inv_freq", "cls.bias"]
)
def test_weights_left_over_by_older_versions_are_no_matter(name: str, host: Path, peftport: Function) -> None:
    tensors = load_file(host / "model.safetensors")
    save_file({**tensors, name: torch.zeros(2)}, host / "model.safetensors", metadata={"format": "pt"})
    assert peftport("hosts", "show", host, "--json").code == 0


def test_unknown_model_type(refused_host: Refused, host: Path, edit: Function) -> None:
    edit(host / "config.json", model_type="bertt")
    refused_host("host: model type 'bertt' is none that transformers", "use a base model of another type, or a newer")


def test_the_weights_of_another_model_type_are_not_this_one_s(
    refused_host: Refused, host: Path, edit: Function
) -> None:
    edit(host / "config.json", model_type="mamba")
    refused_host("expected all weights", "are missing")


def test_remote_code_is_never_run(refused_host: Refused, host: Path, marker: Path, edit: Function) -> None:
    (host / "modeling_custom.py").write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    edit(host / "config.json", auto_map={"AutoModel": "modeling_custom.Custom", "AutoConfig": "modeling_custom.Config"})
    refused_host("config.json: this host asks for its own code to be run (auto_map)", "never", "use a host whose")


def test_remote_tokenizer_code_is_never_run(refused_host: Refused, host: Path, marker: Path, edit: Function) -> None:
    (host / "tokenization_custom.py").write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    names = {"AutoTokenizer": ["tokenization_custom.Custom", None]}
    edit(host / "tokenizer_config.json", auto_map=names, tokenizer_class="Custom")
    refused_host("tokenizer_config.json: this host asks for its own code to be run (auto_map)", "never")


@pytest.mark.parametrize("left", [("tokenizer_config.json",), ()])
def test_no_tokenizer(
    left: tuple[str, ...], refused: Refused, host: Path, reviews: Path, modules: Folders, tmp_path: Path,
    training: Function, peftport: Run,
) -> None:  # fmt: skip
    """What reads texts is refused; `copy` does without."""
    for name in {"tokenizer.json", "tokenizer_config.json"} - set(left):
        (host / name).unlink()
    says = ("host: expected a tokenizer in its folder", "add tokenizer.json")
    refused("hosts", "show", host, says=says)
    refused(*training(host, reviews, tmp_path / "out"), says=says)
    assert peftport("port", modules["lora"], "--to", host, "--out", tmp_path / "out").code == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("tokenizer.json", content) for content in (b"{", b"{}", b"[]", b"\xff", b"")),
        *(("tokenizer_config.json", content) for content in (b"{", b"[]", b"\xff", b"")),  # an empty one is fair
    ],
)
def test_broken_tokenizer(name: str, content: bytes, refused_host: Refused, host: Path) -> None:
    (host / name).write_bytes(content)
    refused_host("host: expected a tokenizer in its folder", "add tokenizer.json")


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_host(size: int, refused_host: Refused, host: Path, cut: Function) -> None:
    cut(host / "model.safetensors", size)
    refused_host("model.safetensors: expected a whole safetensors file, got one that is truncated or corrupt", "fetch")


def test_corrupt_host(refused_host: Refused, host: Path) -> None:
    path = host / "model.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    refused_host("model.safetensors: expected a whole safetensors file, got one that is truncated or corrupt", "fetch")


def test_host_without_a_tensor(refused_host: Refused, host: Path) -> None:
    tensors = load_file(host / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, host / "model.safetensors", metadata={"format": "pt"})
    refused_host("host: expected all weights", "1 tensors are missing", "encoder.layer.1.output.dense.weight", "fetch")


def test_host_with_a_tensor_of_another_shape(refused_host: Refused, host: Path) -> None:
    tensors = load_file(host / "model.safetensors")
    tensors["encoder.layer.1.output.dense.weight"] = torch.zeros(16, 31)
    save_file(tensors, host / "model.safetensors", metadata={"format": "pt"})
    refused_host("host: encoder.layer.1.output.dense.weight: expected shape (16, 32)", "got (16, 31)", "fetch")


@pytest.mark.parametrize(
    "content", ["{", "{}", "[]", '{"weight_map": {"a": "missing.safetensors"}}', '{"weight_map": {"a": 3}}']
)
def test_broken_index_of_shards(content: str, refused_host: Refused, host: Path) -> None:
    (host / "model.safetensors").unlink()
    (host / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    refused_host("expected", "fetch the host again")


def test_index_that_leaves_the_folder(refused_host: Refused, host: Path) -> None:
    (host / "model.safetensors").rename(host.parent / "outside.safetensors")
    (host / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "../outside.safetensors"}}', encoding="utf-8"
    )
    refused_host("model.safetensors.index.json: expected file names inside the folder", "refused for safety")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_host_is_never_loaded(name: str, refused_host: Refused, host: Path, bomb: Function) -> None:
    (host / "model.safetensors").unlink()
    bomb(host / name)
    refused_host("expected model.safetensors, got only pickled weights", name, "never loaded", "save the model as")


def test_a_module_is_no_host(refused: Refused, modules: Folders) -> None:
    refused("hosts", "show", modules["lora"], says=("expected a base model's folder", "got a module's"))


def test_a_file_is_no_host(refused: Refused, hosts: Folders) -> None:
    path = hosts["bert"] / "config.json"
    refused("hosts", "show", path, says=(str(path), "expected"))
