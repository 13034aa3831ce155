"""Numbers and sets of labels on the command line: shown, trained, evaluated, ported, compared and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import peftport as api
from peftport.metrics.resampling import resampled
from peftport.modules.folders import read_module
from peftport.workflows import compare_tables
from pico import WORDS
from pico_folders import Run

Folders = dict[str, Path]
PAIR = ("--text", "text,other")
SHORT = ("--max-tokens", 16)
CASES = {
    "numbers": ("num.csv", (), "regression", "linear", "rmse"),
    "pairs": ("num.csv", PAIR, "regression", "cosine", "rmse"),
    "labels": ("moods.jsonl", (), "multi_label", "linear", "micro_f1"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of random words with a number, in num.csv, and with the telling words in them, in moods.jsonl."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("kinds")
    texts = [" ".join(rng.choice(WORDS, size=8)) for _ in range(120)]
    both = enumerate(zip(texts, texts[::-1], strict=True))
    numbers = [f"{text},{other},{text.count('good') + i / 1000:.3f}" for i, (text, other) in both]
    (folder / "num.csv").write_text("\n".join(["text,other,label", *numbers]), encoding="utf-8")
    moods = [{"text": text, "label": [w for w in ("good", "bad") if w in text.split()]} for text in texts]
    (folder / "moods.jsonl").write_text("\n".join(map(json.dumps, moods)), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dozen draws of the items are enough to see that there are intervals."""
    monkeypatch.setattr(compare_tables, "resampled", partial(resampled, draws=12))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("host", ["bert", "t5", "llama"])
def test_trained_evaluated_ported_and_compared(
    case: str, host: str, peftport: Run, hosts: Folders, data: Path, tmp_path: Path
) -> None:
    name, options, kind, readout, metric = CASES[case]
    readout = "linear" if host != "bert" else readout
    own, updated, task = hosts[host], hosts[f"{host}-updated"], data / name
    told = peftport("train", own, task, *options, "-t", "lora", "--steps", 2, *SHORT, "--out", tmp_path / "m", "--json")
    assert told.code == 0 and f"read as {kind}" in told.err, told
    assert ("the host alone has no head" in told.err) is (readout == "linear")
    record = read_module(tmp_path / "m").task
    assert record is not None and (record.kind, record.readout) == (kind, readout)
    found = peftport("evaluate", own, task, *options, "--module", tmp_path / "m", *SHORT, "--json")
    for measure, value in told.json["with_module"].items():
        assert found.json[measure] == value, measure
    assert found.json["metric"] == metric and "no head" not in found.err
    ported = peftport(
        "port", tmp_path / "m", "--to", updated, "--from", own, "--method", "copy,distill", "--task", task, *options,
        "--steps", 1, *SHORT, "--out", tmp_path / "new", "--json",
    )  # fmt: skip
    by_items = {"regression": "mean_absolute_error", "multi_label": "samples_f1"}[kind]
    assert ported.code == 0 and ported.json["trial"][f"test_{by_items}"] is not None, ported
    assert peftport("evaluate", updated, task, *options, "--module", tmp_path / "new", *SHORT).code == 0
    compared = ("--to", updated, "--task", task, *options, "--budgets", "0,1", "--seeds", 2, *SHORT)
    page = tmp_path / "page.html"
    told = peftport("compare", tmp_path / "m", *compared, "--out", page, "--json")
    assert told.code == 0 and told.json["metric"]["name"] == metric, told
    assert all(row[metric] is not None for row in told.json["rows"]) and told.json["verdict"]["sentence"]
    assert f'"column": "{metric}"' in page.read_text(encoding="utf-8")


def test_a_correlation_with_a_constant_is_said_to_be_undefined(
    peftport: Run, hosts: Folders, data: Path, tmp_path: Path
) -> None:
    """The bare host and training from scratch have none without steps; the others are compared all the same."""
    options = ("-t", "lora", "--steps", 2, *SHORT, "--out", tmp_path / "m")
    assert peftport("train", hosts["bert"], data / "num.csv", *options).code == 0
    told = peftport("evaluate", hosts["bert"], data / "num.csv", "--metric", "pearson")
    assert ": Pearson correlation undefined, root mean squared error" in told.out
    compared = ("--to", hosts["bert-updated"], "--task", data / "num.csv", "--metric", "spearman", "--seeds", 2, *SHORT)
    told = peftport("compare", tmp_path / "m", *compared, "--budgets", "0,2", "--out", tmp_path / "page.html")
    assert told.code == 0, told
    lines = {tuple(line.split())[:2]: line for line in told.out.splitlines() if line.strip()}
    assert "undefined" in lines["bare", "host"] and lines["lora", "scratch"].count("undefined") == 1
    assert "undefined" not in lines["lora", "ported"] + lines["lora", "sampled"]
    assert "difference in Spearman correlation" in told.out
    alone = peftport("compare", tmp_path / "m", *compared, "--budgets", "0", "--arms", "scratch")
    assert alone.code == 0 and "the bare host scores undefined in Spearman" in alone.out, alone


def test_shown(peftport: Run, data: Path, reviews: Path) -> None:
    told = peftport("tasks", "show", data / "num.csv")
    assert "num: regression, a number for each text; domain num" in told.out and "deviation" in told.out
    assert "--kind classification reads each of them as a class" in told.err
    found = peftport("tasks", "show", data / "num.csv", "--kind", "regression", "--json")
    assert found.err == "" and found.json["splits"]["test"]["targets"].keys() >= {"mean", "lowest"}
    told = peftport("tasks", "show", data / "moods.jsonl")
    assert "multi_label, any number of labels for each text; labels bad, good" in told.out
    assert peftport("tasks", "show", reviews).err == ""
    task = api.load_task(str(data / "num.csv"))
    assert task.spec.kind == "regression" and len(task.remarks) == 1


def test_refused(refused: Callable[..., str], hosts: Folders, data: Path, modules: Folders, tmp_path: Path) -> None:
    bert, numbers, moods = hosts["bert"], data / "num.csv", data / "moods.jsonl"
    refused("tasks", "show", numbers, "--kind", "rating", says=("unknown kind of task 'rating'", "regression"))
    refused("tasks", "show", numbers, "--kind", "classification", says=("different labels", "--label", "--kind"))
    refused("tasks", "show", moods, "--kind", "regression", says=("row 1", "expected a number"))
    refused("evaluate", bert, moods, "--readout", "label_tokens", says=("moods is multi_label", "expected linear"))
    refused("evaluate", bert, numbers, "--readout", "cosine", says=("num is regression of texts", "expected linear"))
    refused("evaluate", bert, moods, "--metric", "accuracy", says=("kind multi_label", "micro_f1", "name another"))
    says = ("trained for a task of kind classification", "got regression")
    refused("evaluate", bert, numbers, "--module", modules["lora"], says=says)
    (tmp_path / "ner.jsonl").write_text('{"tokens": ["a"], "ner_tags": [0]}\n' * 40, encoding="utf-8")
    refused("evaluate", bert, tmp_path / "ner.jsonl", says=("token classification", "AutoModelForTokenClassification"))
    (tmp_path / "mixed.csv").write_text("text,label\ngood film,1.5\nbad film,high\n", encoding="utf-8")
    refused("evaluate", bert, tmp_path / "mixed.csv", "--kind", "regression", says=("row 2: target 'high'",))
