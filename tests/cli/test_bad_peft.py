"""PEFT folders that are broken, unsafe or not supported: exit 2, one line, no file touched, nothing unpickled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Refused = Callable[..., str]
Function = Callable[..., Any]
Folders = dict[str, Path]
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def refused_peft(refused: Refused, hosts: Folders, reviews: Path, tmp_path: Path) -> Callable[..., None]:
    """The folder is refused by port, evaluate and compare, which are told its origin."""

    def check(module: Path, *says: str) -> None:
        there = ("--from", hosts["bert"], "--to", hosts["bert-updated"])
        refused("port", module, *there, "--out", tmp_path / "out", says=says)
        refused("evaluate", hosts["bert"], reviews, "--module", module, says=says)
        refused("compare", module, *there, "--task", reviews, says=says)

    return check


def test_peft_without_its_host(
    refused: Refused, hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path
) -> None:
    says = (f"{modules['peft']}: a PEFT checkpoint needs the host it was trained on", "--from HOST")
    refused("port", modules["peft"], "--to", hosts["bert"], "--out", tmp_path / "out", says=says)
    refused("compare", modules["peft"], "--to", hosts["bert"], "--task", reviews, says=says)


def test_peft_from_another_host(refused: Refused, hosts: Folders, modules: Folders, tmp_path: Path) -> None:
    for origin, says in (
        ("bert-wide", ("(2, 16)", "(2, 32)", "--from")),
        ("llama", ("llama has no slot at", "--from")),
    ):
        ends = ("--from", hosts[origin], "--to", hosts["bert"])
        refused("port", modules["peft"], *ends, "--out", tmp_path / "out", says=says)
    says = ("every layer", "layers.2")
    refused(
        "port",
        modules["peft"],
        "--from",
        hosts["bert-deep"],
        "--to",
        hosts["bert"],
        "--out",
        tmp_path / "out",
        says=says,
    )


PEFT_FIRST = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop(PEFT_FIRST), ("layers.0.attn_q", "expected lora_A and lora_B")),
        (lambda t: t.update({PEFT_FIRST: torch.zeros(2, 17)}), ("layers.0.attn_q", "(2, 17)", "(2, 16)")),
        (lambda t: t.update({PEFT_FIRST: torch.full((2, 16), torch.nan)}), (PEFT_FIRST, "expected finite numbers")),
        (lambda t: t.update({"base_model.model.bias": torch.zeros(2)}), ("base_model.model.bias", "would be lost")),
        (
            lambda t: t.update({PEFT_FIRST.replace("query", "nothing"): torch.zeros(2, 16)}),
            ("has no slot at", "nothing"),
        ),
        (lambda t: t.clear(), ("expected lora_A and lora_B matrices, found none",)),
    ],
)
def test_wrong_tensors_of_peft(
    change: Callable[[Tensors], object], says: tuple[str, ...], refused_peft: Refused, broken: Function
) -> None:
    refused_peft(broken("peft", change), *says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft_type": "IA3"}, ("expected settings that the installed PEFT has",)),
        ({"peft_type": None}, ("adapter_config.json: expected a PEFT configuration",)),
        ({"r": "two"}, ("adapter_config.json: expected a PEFT configuration",)),
        ({"r": 3}, ("layers.0.attn_q", "(2, 16)", "(3, 16)")),
        ({"r": 0}, ("adapter_config.json", "r")),
        ({"use_dora": True}, ("lora_magnitude_vector", "this one is missing")),
        ({"rank_pattern": {"query": 4}}, ("layers.0.attn_q", "(2, 16)", "(4, 16)")),
        ({"target_modules": ["key"]}, ("target_modules leaves out", "PEFT would drop it")),
        (
            {"target_modules": "(?:.|..|...)*[!?]"},
            ("expected regular expressions", "name the modules one by one"),
        ),
        ({"newest_trick": {"strength": 2}}, ("newest_trick", "is not supported")),
        ({"bias": "all"}, ("bias", "this one is missing")),
        ({"alora_invocation_tokens": [1]}, ("alora_invocation_tokens = [1] is not supported",)),
        ({"lora_alpha": -1}, ("adapter_config.json", "lora_alpha")),
        (
            {"auto_mapping": {"parent_library": "evil"}, "peft_type": "BONE"},
            ("got BONE, which is not an update of linear maps",),
        ),
    ],
)
def test_wrong_configuration_of_peft(
    changes: dict[str, Any], says: tuple[str, ...], refused_peft: Refused, broken: Function, edit: Function
) -> None:
    module = broken("peft")
    edit(module / "adapter_config.json", **changes)
    refused_peft(module, *says)


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"", b"\xff\xfe"])
def test_broken_configuration_of_peft(content: bytes, refused_peft: Refused, broken: Function) -> None:
    module = broken("peft")
    (module / "adapter_config.json").write_bytes(content)
    refused_peft(module, "adapter_config.json: expected a PEFT configuration")


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_peft(size: int, refused_peft: Refused, broken: Function, cut: Function) -> None:
    module = broken("peft")
    cut(module / "adapter_model.safetensors", size)
    refused_peft(module, "adapter_model.safetensors: expected a whole safetensors file, got one truncated or corrupt")


def test_pickled_peft_is_never_loaded(refused_peft: Refused, broken: Function, bomb: Function) -> None:
    module = broken("peft")
    (module / "adapter_model.safetensors").unlink()
    bomb(module / "adapter_model.bin")
    refused_peft(
        module, "adapter_model.bin: expected adapter_model.safetensors, got pickled weights, which are never loaded"
    )


@pytest.mark.parametrize("name", ["prefix", "adapter", "compacter", "linear"])
def test_what_peft_cannot_hold(name: str, refused: Refused, hosts: Folders, modules: Folders, tmp_path: Path) -> None:
    arguments = ("port", modules[name], "--to", hosts["bert-updated"], "--format", "peft", "--out", tmp_path / "out")
    refused(*arguments, says=("--format peft", "native"))
