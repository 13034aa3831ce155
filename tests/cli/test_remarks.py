"""What commands say beside their result about what was asked for, without refusing it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftport.core.errors import UnknownName
from peftport.core.guesses import ON_A_HUB
from peftport.hosts.offline.catalogue import offline_catalogue
from peftport.hosts.sources import find_host
from peftport.techniques.lora import Lora, LoraSpec
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


@pytest.mark.parametrize("name", sorted(set(ON_A_HUB) - set(offline_catalogue().hosts)))
def test_an_old_name_of_a_hub_is_told_in_full(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownName, match=f"hubs have it as '[\\w-]+/{name}'"):
        find_host(name)
