"""`--method distill` of port and compare: what is taught, from which texts, and into which technique."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import peftport as api
from peftport.core.errors import UnknownName
from peftport.hosts.load import load_host
from peftport.modules.folders import read_module, write_module
from peftport.modules.module import Module
from pico import SPECS, WORDS, random_matrices
from pico_folders import Run

SHORT = ("--max-tokens", 8, "--kind", "completion")
Hosts = dict[str, Path]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts of words; the answer is the last of them."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("questions") / "questions.jsonl"
    texts = [" ".join(rng.permutation(WORDS[:14])[: rng.integers(4, 8)]) for _ in range(90)]
    path.write_text("".join(json.dumps({"text": t, "label": t.split()[-1]}) + "\n" for t in texts), encoding="utf-8")
    return path


@pytest.fixture
def trained(peftport: Run, hosts: Hosts, questions: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A module of a technique that answers questions on the small Llama."""

    def train(technique: str) -> Path:
        out = tmp_path / technique
        options = ("-t", technique, "--steps", 40, "--learning-rate", 0.01, *SHORT, "--out", out)
        assert peftport("train", hosts["llama"], questions, *options).code == 0
        return out

    return train


def settings_of(folder: Path) -> dict[str, Any]:
    return dict(read_module(folder).ports[-1].settings)


def test_what_is_taught_and_kept_is_on_record(
    peftport: Run, hosts: Hosts, questions: Path, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    """Without a wish the record and the numbers are those of sequences; with tokens the numbers are others."""
    module = trained("lora")
    command = ["port", module, "--to", hosts["llama-updated"], "--from", hosts["llama"], "--method", "distill"]
    command += ["--task", questions, "--steps", 3, *SHORT]
    wishes: dict[str, tuple[object, ...]] = {
        "plain": (),
        "sequences": ("--teach", "sequences"),
        "tokens": ("--teach", "tokens"),
        "auto": ("--teach", "auto"),
        "half": ("--keep", 0.5),
    }
    for name, wish in wishes.items():
        told = peftport(*command, *wish, "--out", tmp_path / name)
        assert told.code == 0, told
        recorded = settings_of(tmp_path / name)
        says = f"{recorded['left_out']} of {recorded['texts']} answers of the module were left out: they are empty, or"
        assert says in told.err
    texts, left_out = (settings_of(tmp_path / "plain")[key] for key in ("texts", "left_out"))
    plain = {"steps": 3, "texts": texts, "seed": 0, "left_out": left_out}
    assert settings_of(tmp_path / "plain") == settings_of(tmp_path / "sequences") == plain
    assert settings_of(tmp_path / "tokens") == settings_of(tmp_path / "auto") == {**plain, "teach": "tokens"}
    half = settings_of(tmp_path / "half")
    assert half.pop("kept") == -(-(texts - left_out) // 2) and half == {**plain, "keep": 0.5}
    numbers = {name: read_module(tmp_path / name).matrices for name in wishes}

    def same(one: str, other: str) -> bool:
        return all(torch.equal(numbers[one][slot]["A"], own["A"]) for slot, own in numbers[other].items())

    assert same("plain", "sequences") and same("tokens", "auto")
    assert not same("plain", "tokens") and not same("plain", "half")
    from_python = api.port(
        module, hosts["llama-updated"], from_=hosts["llama"], method="distill",
        task=api.load_task(str(questions), kind="completion"), steps=3, max_tokens=8, teach="tokens",
        out=tmp_path / "python",
    )  # fmt: skip
    assert from_python is not None and settings_of(tmp_path / "python") == settings_of(tmp_path / "tokens")


@pytest.mark.parametrize("technique", ["lora", "adapter"])
def test_a_prefix_becomes_another_technique(
    technique: str, peftport: Run, hosts: Hosts, questions: Path, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    setting = {"lora": "rank=3", "adapter": "reduction_factor=4"}[technique]
    told = peftport(
        "port", trained("prefix"), "--to", hosts["llama-updated"], "--from", hosts["llama"], "--method", "distill",
        "--task", questions, "--steps", 2, *SHORT, "--teach", "tokens", "--into", technique, "--set", setting,
        "--out", tmp_path / "new",
    )  # fmt: skip
    assert told.code == 0, told
    made, (key, value) = read_module(tmp_path / "new"), setting.split("=")
    assert made.spec.kind == technique and getattr(made.spec, key) == int(value)
    assert peftport("evaluate", hosts["llama-updated"], questions, "--module", tmp_path / "new", *SHORT).code == 0


def test_compare_takes_them_too(
    peftport: Run, hosts: Hosts, questions: Path, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    told = peftport(
        "compare", trained("lora"), "--to", hosts["llama-updated"], "--from", hosts["llama"], "--task", questions,
        "--method", "distill", "--steps", 2, "--teach", "tokens", "--keep", 0.5, "--budgets", 0, "--seeds", 1,
        "--arms", "ported", "--shots", 0, "--generate", 1, *SHORT, "--out", tmp_path / "page.html", "--json",
    )  # fmt: skip
    assert told.code == 0, told
    assert "--teach tokens --keep 0.5" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_what_is_refused(
    refused: Callable[..., str], hosts: Hosts, reviews: Path, modules: dict[str, Path], tmp_path: Path
) -> None:
    where = ("port", modules["lora"], "--to", hosts["bert-updated"], "--out", tmp_path / "x", "--task", reviews)
    distil = (*where, "--from", hosts["bert"], "--method", "distill")
    refused(*where, "--teach", "tokens", says=("--teach tokens", "expected with --method distill, got copy"))
    refused(*where, "--keep", 0.5, says=("--keep 0.5", "expected with --method distill, got copy"))
    refused(*distil, "--keep", 0, says=("--keep", "expected a share above 0 and at most 1, got 0"))
    refused(*distil, "--keep", 1.5, says=("--keep", "expected a share above 0 and at most 1, got 1.5"))
    refused(*where, "--into", "lora", says=("--into lora", "expected with --method distill alone, got copy"))
    refused(
        *where, "--method", "copy,distill", "--into", "lora",
        says=("--into lora", "expected with --method distill alone, got copy,distill"),
    )  # fmt: skip
    refused(*distil, "--set", "rank=4", says=("--set", "expected with --into"))
    refused(*distil, "--into", "lora", "--set", "ranc=4", says=("lora.ranc", "did you mean 'rank'"))
    refused(*distil, "--into", "lara", says=("lara", "lora"))
    refused(*distil, "--teach", "tokens", says=("--teach tokens", "classification, whose answers are not texts"))
    refused(
        *distil, "--into", "prefix", "--format", "peft", says=("--format peft", "prefix")
    )  # before anything is trained
    refused(*where, "--prompts", "host:9", says=("--prompts host:9", "expected with --method distill alone"))
    refused(*distil, "--prompts", "host:0", says=("--prompts host:0", "such as host:200"))
    refused(*distil, "--prompts", "9", says=("--prompts 9", "such as host:200"))
    refused(
        *distil, "--prompts", "host:9", says=("--prompts host:9", "expected a decoder", "classification", "--texts")
    )
    refused(*distil, "--prompts", "host:9", "--texts", reviews, says=("--prompts host:9", "expected without --texts"))
    with pytest.raises(UnknownName, match="lara"):
        api.port(modules["lora"], hosts["bert-updated"], method="distill", into="lara", task=str(reviews))


def test_a_host_makes_its_own_prompts(
    peftport: Run, hosts: Hosts, questions: Path, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    """Neither texts nor a task are given; the record says where the prompts came from, and how many were different."""
    command = ("--to", hosts["llama-updated"], "--from", hosts["llama"], "--method", "distill", "--steps", 2)
    module, short = trained("lora"), ("--max-tokens", 8)
    told = peftport(
        "port", module, *command, "--prompts", "host:12", "--teach", "auto", *short, "--out", tmp_path / "a"
    )
    assert told.code == 0, told
    expected = {"steps": 2, "texts": 12, "seed": 0, "teach": "tokens", "prompts": "host:12"}
    found = settings_of(tmp_path / "a")
    assert 0 < found.pop("left_out") < 12 and found == expected
    assert read_module(tmp_path / "a").task == read_module(module).task
    told = peftport(
        "port", module, *command, "--prompts", "host:12", "--task", questions, *SHORT, "--out", tmp_path / "b"
    )
    assert told.code == 0 and settings_of(tmp_path / "b")["prompts"] == "host:12", told
    assert peftport("evaluate", hosts["llama-updated"], questions, "--module", tmp_path / "a", *SHORT).code == 0


def test_a_classifier_is_distilled_into_another_technique(
    peftport: Run, hosts: Hosts, reviews: Path, tmp_path: Path
) -> None:
    host = load_host(str(hosts["bert"]))
    module = Module(SPECS["compacter"], host.fingerprint, random_matrices(host, SPECS["compacter"]))
    write_module(module, host, tmp_path / "old")
    told = peftport(
        "port", tmp_path / "old", "--to", hosts["distilbert"], "--from", hosts["bert"], "--method", "distill", "--task",
        reviews, "--steps", 1, "--keep", 0.25, "--into", "lora", "--out", tmp_path / "new",
    )  # fmt: skip
    assert told.code == 0, told
    settings = settings_of(tmp_path / "new")
    assert read_module(tmp_path / "new").spec.kind == "lora"
    assert settings["kept"] == -(-settings["texts"] // 4) and settings["keep"] == 0.25
