"""What commands say beside their result about what was asked for, without refusing it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from peftport import port
from peftport.core.errors import BadRequest, UnknownName
from peftport.core.guesses import ON_A_HUB
from peftport.core.numbers import tensor_of
from peftport.hosts.offline.catalogue import offline_catalogue
from peftport.hosts.sources import find_host, told_by_hub
from peftport.modules.module import Module
from peftport.porting import PORTERS
from peftport.techniques.lora import Lora, LoraSpec
from peftport.workflows import evaluate
from pico import WORDS, pico_host

Run = Callable[..., Any]
Folders = dict[str, Path]


def numbers_of(module: Module[Any]) -> list[torch.Tensor]:
    return [tensor_of(array) for own in module.matrices.values() for array in own.values()]


def test_a_port_to_the_modules_own_host_says_that_there_is_nothing_to_port(
    peftport: Run, hosts: Folders, modules: Folders, tmp_path: Path
) -> None:
    said = "was trained on this very host"
    for receiver, own in (("bert", True), ("bert-updated", False)):
        out = tmp_path / receiver
        result = peftport("port", modules["lora"], "--to", hosts[receiver], "--out", out, "--json")
        assert result.code == 0 and (out / "module.safetensors").is_file()
        assert [said in remark for remark in result.json["remarks"]] == [True] * own


@pytest.mark.parametrize("receiver", ["bert-updated", "bert-wide", "bert-deep"])
def test_texts_that_a_port_does_not_use_are_said(
    receiver: str, hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path
) -> None:
    """Where the remark is, other texts make the same module; where it is not, a port without texts is refused."""
    rng, unused = np.random.default_rng(0), {}
    files = [tmp_path / "one.txt", tmp_path / "other.txt"]
    for file in files:
        file.write_text("\n".join(" ".join(rng.choice(WORDS, size=9)) for _ in range(40)), encoding="utf-8")
    for method in (name for name in PORTERS if PORTERS[name].needs != "anchors"):
        task: Any = {"task": reviews} if PORTERS[method].needs == "labels" else {}
        asked: Any = dict(to=hosts[receiver], from_=hosts["bert"], method=method, **task)
        try:
            one, other = (port(modules["lora"], texts=file, **asked) for file in files)
        except BadRequest:
            continue  # the method cannot carry it to this host
        unused[method] = f"--texts is not used by {method}" in one.remarks()
        if unused[method]:
            pairs = zip(numbers_of(one.module), numbers_of(other.module), strict=True)
            assert all(torch.equal(ours, theirs) for ours, theirs in pairs), method
        else:
            with pytest.raises(BadRequest, match="needs unlabelled texts"):
                port(modules["lora"], **asked)
    assert len(unused) >= 7 and any(unused.values()) and not all(unused.values())
    assert unused["lorasuite"] == (receiver != "bert-deep") and unused["skip"] == (receiver != "bert-wide")


def test_inputs_that_no_method_uses_are_said(
    peftport: Run, hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path
) -> None:
    """Of several methods one that uses them is enough; `compare` says the same."""
    to = ("--to", hosts["bert-updated"], "--from", hosts["bert"])
    task = ("--task", reviews, "--test-items", 6)
    texts, anchors = ("--texts", reviews), ("--anchors", f"{modules['lora']}={modules['lora']}")
    asked = {
        ("--method", "copy"): [f"--{name} is not used by copy" for name in ("task", "texts", "anchors")],
        ("--method", "copy,skip"): ["--texts is not used by copy or skip", "--anchors is not used by copy or skip"],
        ("--method", "copy,theseus"): ["--anchors is not used by copy or theseus"],
        ("--method", "distill", "--steps", 1): ["--anchors is not used by distill"],
    }
    for place, (method, told) in enumerate(asked.items()):
        out = ("--out", tmp_path / str(place), "--json")
        done = peftport("port", modules["lora"], *to, *task, *texts, *anchors, *method, *out)
        assert done.code == 0 and [r for r in done.json["remarks"] if "is not used by" in r] == told, done
        none = peftport("port", modules["lora"], *to, *task, *method, "--out", tmp_path / f"{place}-none", "--json")
        assert none.code == 0 and [r for r in none.json["remarks"] if "is not used by" in r] == [
            each for each in told if each.startswith("--task")
        ]
    out = ("--out", tmp_path / "read", "--json")
    read = peftport("port", modules["lora"], *to, *task, *texts, "--method", "theseus", *out)
    assert read.code == 0 and "--task is not used by theseus beside --texts" in read.json["remarks"]
    short = ("--budgets", "0", "--seeds", 1, "--json")
    compared = peftport("compare", modules["lora"], *to, *task, *texts, *anchors, *short)
    assert {"--texts is not used by copy", "--anchors is not used by copy"} <= set(compared.json["remarks"])


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
