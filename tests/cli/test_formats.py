"""Formats in and out, and origins, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Run = Callable[..., Any]
Refused = Callable[..., str]
Folders = dict[str, Path]
TENSORS = {"adapters": "adapter.safetensors", "peft": "adapter_model.safetensors"}
HELD = [("peft", "lora"), ("adapters", "adapter"), ("adapters", "compacter"), ("adapters", "prefix")]


@pytest.mark.parametrize(("file_format", "technique"), HELD)
def test_what_comes_in_goes_out_with_its_history(
    file_format: str, technique: str, peftport: Run, hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path
) -> None:
    """native -> another library's format -> an update, in that format, and it is tested there like the native one."""
    to = ("--to", hosts["bert"], "--format", file_format, "--out", tmp_path / "there")
    assert peftport("port", modules[technique], *to).code == 0
    ends = ("--from", hosts["bert"], "--to", hosts["bert-updated"], "--out", tmp_path / "out", "--json")
    ported = peftport("port", tmp_path / "there", *ends)
    assert (ported.code, ported.json["format"], ported.json["technique"]) == (0, file_format, technique)
    before, after = (load_file(tmp_path / name / TENSORS[file_format]) for name in ("there", "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    history = json.loads((tmp_path / "out" / "peftport.json").read_text(encoding="utf-8"))
    assert [port["receiver"]["name"] for port in history["ports"]] == ["bert", "bert-updated"]
    assert all(port["method"] == "copy" and set(port["slots"].values()) == {"copied"} for port in history["ports"])
    assert history["training"]["steps"] == 2 and history["task"]["labels"] == ["negative", "positive"]
    native = ("--to", hosts["bert-updated"], "--out", tmp_path / "native")
    assert peftport("port", modules[technique], *native).code == 0
    accuracy = {
        peftport("evaluate", hosts["bert-updated"], reviews, "--module", tmp_path / name, "--json").json["accuracy"]
        for name in ("out", "native")
    }
    assert len(accuracy) == 1


@pytest.mark.parametrize(("technique", "says"), [("lora", "use peft"), ("linear", "got lora; use peft")])
def test_what_adapters_cannot_hold(
    technique: str, says: str, refused: Refused, hosts: Folders, modules: Folders, tmp_path: Path
) -> None:
    to = ("--to", hosts["bert-updated"], "--format", "adapters", "--out", tmp_path / "out")
    refused("port", modules[technique], *to, says=("--format adapters", says))


def test_training_into_a_format_that_cannot_hold_it(
    refused: Refused, hosts: Folders, reviews: Path, tmp_path: Path, training: Callable[..., tuple[object, ...]]
) -> None:
    arguments = training(hosts["t5"], reviews, tmp_path / "out", "--format", "adapters", technique="prefix")
    refused(*arguments, says=("a prefix on t5 is not the same there", "use the native format"))


@pytest.mark.parametrize("name", ["lora", "peft"])
def test_another_origin_only_by_name(
    name: str, peftport: Run, refused: Refused, hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path
) -> None:
    """The fingerprint on record is against it; --trust-origin overrides that, and says so in the history."""
    update, out = hosts["bert-updated"], tmp_path / "out"
    to = ("--to", update, "--out", out)
    says = ("another fingerprint", "--trust-origin bert-updated")
    refused("port", modules[name], "--from", update, *to, says=says)
    refused("compare", modules[name], "--from", update, "--to", update, "--task", reviews, says=says)
    both = ("--from", update, "--trust-origin", update)
    refused("port", modules[name], *both, *to, says=("expected one origin, got two",))
    assert peftport("port", modules[name], "--trust-origin", update, *to).code == 0
    card = json.loads((out / ("module.json" if name == "lora" else "peftport.json")).read_text(encoding="utf-8"))
    assert [port["method"] for port in card["ports"]] == ["trusted origin", "copy"]
    assert card["ports"][0]["origin"]["name"] == "bert"
    plan = ("--budgets", "0", "--seeds", 1, "--arms", "ported", "--json")
    trusted = ("--trust-origin", update, "--to", update, "--task", reviews)
    assert peftport("compare", modules[name], *trusted, *plan).code == 0


def test_trust_does_not_make_a_module_fit(refused: Refused, hosts: Folders, modules: Folders, tmp_path: Path) -> None:
    ends = ("--trust-origin", hosts["llama"], "--to", hosts["llama"], "--out", tmp_path / "out")
    refused("port", modules["lora"], *ends, says=("family",))
