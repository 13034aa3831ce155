"""Pairs of texts on the command line: shown, trained, evaluated, compared, and refused in one line."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import peftport as api
from peftport.modules.folders import read_module
from pico import WORDS
from pico_folders import Run

Folders = dict[str, Path]
PAIR = ("--text", "premise,hypothesis")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 pairs of random words with two labels, in columns ``premise`` and ``hypothesis``."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("pairs") / "pairs.csv"
    rows = [
        (*(" ".join(rng.choice(WORDS, size=8)) for _ in range(2)), ("negative", "positive")[i % 2]) for i in range(120)
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("premise", "hypothesis", "label"), *rows])
    return path


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory, hosts: Folders, pairs: Path) -> Path:
    """A LoRA of ``bert`` trained on the pairs."""
    out = tmp_path_factory.mktemp("modules") / "pairs"
    task = api.load_task(str(pairs), text=("premise", "hypothesis"))
    api.train(hosts["bert"], task, "lora", set={"rank": 2}, steps=2, out=out)
    return out


def test_shown(peftport: Run, pairs: Path) -> None:
    told = peftport("tasks", "show", pairs, *PAIR)
    assert told.code == 0 and "pairs: pairs of premise and hypothesis; labels negative, positive" in told.out
    found = peftport("tasks", "show", pairs, *PAIR, "--json").json
    assert found["spec"]["fields"] == ["premise", "hypothesis"]
    assert "premise}" in found["spec"]["causal_prompt"]


def test_trained_evaluated_ported_and_compared(
    peftport: Run, hosts: Folders, pairs: Path, module: Path, tmp_path: Path
) -> None:
    record = read_module(module).task
    assert record is not None
    assert (record.readout, record.fields, record.kind) == ("linear", ("premise", "hypothesis"), "classification")
    own = peftport("evaluate", hosts["bert"], pairs, *PAIR, "--module", module, "--json")
    assert own.code == 0 and own.json["readout" if "readout" in own.json else "n_items"]
    assert peftport("port", module, "--to", hosts["bert-updated"], "--out", tmp_path / "new").code == 0
    assert peftport("evaluate", hosts["bert-updated"], pairs, *PAIR, "--module", tmp_path / "new").code == 0
    options = (*PAIR, "--budgets", "0,1", "--seeds", 1, "--json")
    assert peftport("compare", module, "--to", hosts["bert-updated"], "--task", pairs, *options).code == 0


@pytest.mark.parametrize("method", ["regress", "gradfix", "distill"])
def test_methods_that_read_the_task_read_pairs(
    method: str, peftport: Run, hosts: Folders, pairs: Path, module: Path, tmp_path: Path
) -> None:
    options = ("--from", hosts["bert"], "--task", pairs, *PAIR, "--steps", 2, "--out", tmp_path / "new")
    told = peftport("port", module, "--to", hosts["bert-updated"], "--method", method, *options)
    assert told.code == 0, told


@pytest.mark.parametrize("host", ["t5", "llama"])
def test_hosts_that_generate_take_a_prompt_with_both(host: str, peftport: Run, hosts: Folders, pairs: Path) -> None:
    told = peftport("evaluate", hosts[host], pairs, *PAIR, "--prompt", "{hypothesis} : {premise} it is", "--json")
    plain = peftport("evaluate", hosts[host], pairs, *PAIR, "--json")
    assert told.code == plain.code == 0 and told.out != plain.out


def test_refused(
    refused: Callable[..., str], hosts: Folders, pairs: Path, reviews: Path, module: Path, modules: Folders
) -> None:
    bert = hosts["bert"]
    refused("tasks", "show", pairs, "--text", "premise,answer", says=("no column 'answer'", "--text"))
    refused("tasks", "show", pairs, "--text", "a,b,c", says=("--text a,b,c", "3 columns", "two for pairs"))
    refused("evaluate", bert, pairs, *PAIR, "--prompt", "{premise}", says=("prompt", "expected {hypothesis} in it"))
    says = ("prompt", "got {text} too")
    refused("evaluate", bert, pairs, *PAIR, "--prompt", "{text} {premise} {hypothesis}", says=says)
    says = ("readout prototype", "pairs of texts (premise, hypothesis)", "linear or label_tokens")
    refused("evaluate", bert, pairs, *PAIR, "--readout", "prototype", says=says)
    says = ("trained on pairs of texts (premise, hypothesis)", "got single texts", "--text a,b")
    refused("evaluate", bert, reviews, "--module", module, says=says)
    refused("compare", module, "--to", bert, "--task", reviews, says=says)
    says = ("trained on single texts", "got pairs of texts (premise, hypothesis)", "one column")
    for name in ("linear", "lora"):
        refused("evaluate", bert, pairs, *PAIR, "--module", modules[name], says=says)
    refused("evaluate", bert, pairs, *PAIR, "--max-tokens", 1, says=("--max-tokens 1", "at least 2"))


def test_texts_that_are_no_pairs_cannot_be_distilled(
    refused: Callable[..., str], hosts: Folders, pairs: Path, module: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts.txt").write_text("a good film\n", encoding="utf-8")
    options = ("--from", hosts["bert"], "--task", pairs, *PAIR, "--texts", tmp_path / "texts.txt")
    says = ("distill", "pairs (premise, hypothesis)", "leave out --texts")
    refused(
        "port",
        module,
        "--to",
        hosts["bert-updated"],
        "--method",
        "distill",
        "--out",
        tmp_path / "x",
        *options,
        says=says,
    )
