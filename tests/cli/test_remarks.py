"""What commands say beside their result about what was asked for, without refusing it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from peftport.core.errors import UnknownName
from peftport.core.guesses import ON_A_HUB
from peftport.hosts.offline.catalogue import offline_catalogue
from peftport.hosts.sources import find_host, told_by_hub
from peftport.techniques.lora import Lora, LoraSpec
from peftport.workflows import evaluate
from pico import pico_host

Run = Callable[..., Any]
Folders = dict[str, Path]


def test_a_port_to_the_modules_own_host_says_that_there_is_nothing_to_port(
    peftport: Run, hosts: Folders, modules: Folders, tmp_path: Path
) -> None:
    said = "was trained on this very host"
    for receiver, own in (("bert", True), ("bert-updated", False)):
        out = tmp_path / receiver
        result = peftport("port", modules["lora"], "--to", hosts[receiver], "--out", out, "--json")
        assert result.code == 0 and (out / "module.safetensors").is_file()
        assert [said in remark for remark in result.json["remarks"]] == [True] * own


@pytest.mark.parametrize("rank", [1, 15, 16, 17, 500])
def test_a_rank_above_a_matrix_smaller_side_is_said(rank: int) -> None:
    host = pico_host("bert")
    spec = LoraSpec(rank=rank)
    slots = Lora().slots(spec, host.slots)
    low = [s for s in slots.values() if min(s.in_width, s.out_width) < rank]
    doubts = Lora().doubts(spec, slots)
    assert bool(doubts) == bool(low)
    assert all(f"{len(low)} of {len(slots)} matrices" in doubt for doubt in doubts)


def test_training_says_what_is_out_of_sense(peftport: Run, hosts: Folders, reviews: Path, tmp_path: Path) -> None:
    asked = ("train", hosts["bert"], reviews, "--technique", "lora", "--steps", "1", "--json")
    for rank in (2, 40):
        result = peftport(*asked, "--set", f"rank={rank}", "--out", tmp_path / str(rank))
        assert any(f"lora.rank {rank} is above" in remark for remark in result.json["remarks"]) == (rank == 40)


@pytest.mark.parametrize(("rate", "said"), [(5.0, True), (1.0, True), (0.9, False)])
def test_a_learning_rate_that_likely_diverges_is_said(
    rate: float, said: bool, peftport: Run, hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path
) -> None:
    train = ("train", hosts["bert"], reviews, "-t", "lora", "--steps", "1", "--out", tmp_path / "new")
    compare = ("compare", modules["lora"], "--to", hosts["bert-updated"], "--task", reviews, "--budgets", "0")
    for words in (train, (*compare, "--seeds", "1", "--test-items", "6")):
        result = peftport(*words, "--learning-rate", rate, "--json")
        assert result.code == 0, result
        assert any(f"--learning-rate {rate:g}: training likely" in line for line in result.json["remarks"]) is said


def test_a_module_of_another_host_is_refused_before_the_host_is_loaded(
    refused: Callable[..., str], hosts: Folders, modules: Folders, reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(evaluate, "bind_task", load)
    refused(
        "evaluate", hosts["bert-updated"], reviews, "--module", modules["lora"],
        says=("this module is for host bert", "port it first: peftport port"),
    )  # fmt: skip


@pytest.mark.parametrize(("offline", "said"), [(True, "HF_HUB_OFFLINE=1 keeps the hub out"), (False, "not answer")])
def test_why_the_hub_gave_nothing(offline: bool, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    assert said in told_by_hub(LocalEntryNotFoundError("long words of a library"))
    assert told_by_hub(ValueError("first\nsecond")) == "first"


@pytest.mark.parametrize("name", sorted(set(ON_A_HUB) - set(offline_catalogue().hosts)))
def test_an_old_name_of_a_hub_is_told_in_full(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownName, match=f"hubs have it as '[\\w-]+/{name}'"):
        find_host(name)
