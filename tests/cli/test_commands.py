"""Every command, as text and as JSON: one document on stdout, nothing else there, and silence on stderr."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from peftport.analysis.verdict.choice import WORDS
from peftport.cli import console
from peftport.hosts.load import load_host
from peftport.modules.folders import read_module
from peftport.modules.module import stack
from peftport.techniques.attach import attached

# peft 0.21 asks transformers 5.23 for this under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

Run = Callable[..., Any]
Folders = dict[str, Path]
SETTINGS = {"lora": "rank=2", "adapter": "reduction_factor=4", "compacter": "reduction_factor=4", "prefix": "length=3"}
PAIRS = {"bert": "bert-updated", "t5": "t5-updated", "llama": "llama-updated"}


def document(result: Any) -> Any:
    """The JSON of a command that went well and kept quiet."""
    assert (result.code, result.err) == (0, "")
    return result.json


def text(result: Any) -> str:
    assert (result.code, result.err) == (0, "")
    assert not result.out.lstrip().startswith("{")
    return str(result.out)


@pytest.mark.parametrize("technique", SETTINGS)
@pytest.mark.parametrize("origin", PAIRS)
def test_train_port_evaluate_compare(
    origin: str, technique: str, peftport: Run, hosts: Folders, reviews: Path, tmp_path: Path
) -> None:
    """The main job, folder to folder, with every document consistent with the one before."""
    receiver, own, ported = hosts[PAIRS[origin]], tmp_path / "own", tmp_path / "ported"
    options = ["--technique", technique, "--set", SETTINGS[technique], "--steps", 3, "--batch-size", 4, "--json"]
    trained = document(peftport("train", hosts[origin], reviews, "--out", own, *options))
    assert (trained["technique"]["kind"], trained["steps"], trained["out"]) == (technique, 3, str(own))
    assert trained["with_module"]["n_items"] == trained["bare"]["n_items"] > 5
    assert trained["parameters"] == sum(t.numel() for t in load_file(own / "module.safetensors").values())

    moved = document(peftport("port", own, "--to", receiver, "--out", ported, "--json"))
    assert (moved["format"], moved["method"], set(moved["slots"].values())) == ("native", "copy", {"copied"})
    assert (own / "module.safetensors").read_bytes() == (ported / "module.safetensors").read_bytes()
    assert json.loads((ported / "module.json").read_text())["host"]["name"] == receiver.name

    home = document(peftport("evaluate", hosts[origin], reviews, "--module", own, "--json"))
    assert home["accuracy"] == trained["with_module"]["accuracy"]
    away = document(peftport("evaluate", receiver, reviews, "--module", ported, "--json"))

    plan = ["--budgets", "0,2", "--seeds", 2, "--batch-size", 4, "--json"]
    found = document(peftport("compare", own, "--to", receiver, "--task", reviews, *plan))
    rows = {(row["arm"], row["budget"], row["seed"]): row for row in found["rows"]}
    assert set(rows) == {(a, b, s) for a in ("ported", "sampled", "scratch") for b in (0, 2) for s in (0, 1)}
    assert rows["ported", 0, 0]["accuracy"] == away["accuracy"]
    assert found["summary"].endswith(".")
    assert found["verdict"]["verdict"] in WORDS and found["verdict"]["sentence"].endswith(".")


def test_train_as_text(peftport: Run, hosts: Folders, reviews: Path, tmp_path: Path) -> None:
    arguments = ["train", hosts["bert"], reviews, "-t", "lora", "--steps", 2, "--out", tmp_path / "new" / "lora"]
    said = text(peftport(*arguments))
    assert said.count("\n") == 1
    assert "lora on bert" in said and "accuracy on reviews" in said and "host alone" in said
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["lora"]


def test_the_same_seed_writes_the_same_bytes(peftport: Run, hosts: Folders, reviews: Path, tmp_path: Path) -> None:
    def train(name: str, seed: int) -> bytes:
        options = [
            "-t",
            "adapter",
            "--set",
            "reduction_factor=4",
            "--steps",
            2,
            "--seed",
            seed,
            "--out",
            tmp_path / name,
        ]
        text(peftport("train", hosts["bert"], reviews, *options))
        return (tmp_path / name / "module.safetensors").read_bytes()

    assert train("one", 3) == train("two", 3) != train("three", 4)


def test_an_empty_output_folder_is_used(peftport: Run, hosts: Folders, modules: Folders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    text(peftport("port", modules["lora"], "--to", hosts["bert-updated"], "--out", out))
    assert sorted(path.name for path in out.iterdir()) == ["module.json", "module.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("module", [None, "lora", "prefix", "linear"])
def test_evaluate_as_text(module: str | None, peftport: Run, hosts: Folders, modules: Folders, reviews: Path) -> None:
    options = ["--module", modules[module]] if module else []
    said = text(peftport("evaluate", hosts["bert"], reviews, *options))
    assert said.count("\n") == 1
    assert "accuracy" in said and "test items" in said


@pytest.mark.parametrize("readout", ["prototype", "linear", "label_tokens"])
def test_evaluate_by_any_readout(readout: str, peftport: Run, hosts: Folders, reviews: Path) -> None:
    host = hosts["bert-masked" if readout == "label_tokens" else "bert"]
    found = document(peftport("evaluate", host, reviews, "--readout", readout, "--test-items", 7, "--json"))
    assert (found["n_items"], found["module"], found["task"]) == (7, None, "reviews")
    assert 0 <= found["accuracy"] <= 1


def test_port_as_text(peftport: Run, hosts: Folders, modules: Folders, tmp_path: Path) -> None:
    origin, receiver = hosts["bert"], hosts["bert-updated"]
    said = text(peftport("port", modules["lora"], "--from", origin, "--to", receiver, "--out", tmp_path / "out"))
    assert said.count("\n") == 1
    assert "lora from bert on bert-updated by copy (native): 4 slots copied" in said


def test_compare_as_text(peftport: Run, hosts: Folders, modules: Folders, reviews: Path) -> None:
    plan = ["--budgets", "0,1", "--seeds", 1, "--arms", "ported,scratch", "--sampler", "spectrum"]
    said = text(peftport("compare", modules["lora"], "--to", hosts["bert-updated"], "--task", reviews, *plan))
    for part in ("bare host", "ported", "scratch", "0 steps", "1 steps", "bert -> bert-updated"):
        assert part in said
    assert "sampled" not in said
    assert "one seed, so they say nothing of other seeds" in said.splitlines()[-1]


@pytest.mark.parametrize("sampler", ["gaussian", "permutation", "spectrum", "norm_matched"])
def test_compare_with_every_sampler(
    sampler: str, peftport: Run, hosts: Folders, modules: Folders, reviews: Path
) -> None:
    plan = ["--budgets", "0", "--seeds", 1, "--arms", "sampled", "--sampler", sampler, "--json"]
    found = document(peftport("compare", modules["linear"], "--to", hosts["bert-updated"], "--task", reviews, *plan))
    assert (found["plan"]["sampler"], len(found["rows"])) == (sampler, 1)


def test_hosts_show(peftport: Run, hosts: Folders) -> None:
    found = document(peftport("hosts", "show", hosts["t5"], "--json"))
    assert (found["kind"], found["fingerprint"]["layers"], found["fingerprint"]["width"]) == ("encoder_decoder", 2, 16)
    assert {"encoder.layers.0.attn_q", "decoder.layers.1.cross"} <= {slot["name"] for slot in found["slots"]}
    said = text(peftport("hosts", "show", hosts["t5"]))
    assert said.startswith("t5: encoder_decoder of family t5")
    assert f"{len(found['slots'])} slots" in said


def test_hosts_list(peftport: Run) -> None:
    found = document(peftport("hosts", "list", "--json"))
    assert {"sre", "all-MiniLM-L6-v2"} <= {host["name"] for host in found["hosts"]}
    assert not any(host["installed"] for host in found["hosts"])
    assert {"bert", "t5", "llama", "gpt2", "distilbert"} <= {family["family"] for family in found["families"]}
    said = text(peftport("hosts", "list"))
    assert "sre" in said and "distilbert" in said


def test_hosts_update(peftport: Run, hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path) -> None:
    """An update is a host at a distance, to which the origin's module can be ported."""
    lines, out = tmp_path / "lines.txt", tmp_path / "out"
    lines.write_text("\n".join(line.split(",")[0] for line in reviews.read_text().splitlines()[1:]), encoding="utf-8")
    arguments = ["hosts", "update", hosts["bert-masked"], "--text", lines, "--batch-size", 4, "--learning-rate", "1e-3"]
    found = document(peftport(*arguments, "--steps", 3, "--save-at", "1", "--out", out, "--json"))
    assert [one["steps"] for one in found["checkpoints"]] == [1, 3]
    assert 0 < found["checkpoints"][0]["distance"]["weights"] < found["checkpoints"][1]["distance"]["weights"]
    assert [one["folder"] for one in found["checkpoints"]] == [str(out / "step-1"), str(out / "step-3")]
    said = text(peftport("port", modules["lora"], "--to", out / "step-3", "--out", tmp_path / "ported"))
    assert "lora from bert on step-3" in said
    said = text(peftport(*arguments, "--steps", 1, "--out", tmp_path / "again"))
    assert said.count("\n") == 1
    assert "step-1" in said and "%" in said and "from" in said


def test_tasks_list(peftport: Run) -> None:
    found = document(peftport("tasks", "list", "--json"))
    assert {"rotten_tomatoes", "imdb"} <= {task["name"] for task in found["tasks"]}
    assert "rotten_tomatoes" in text(peftport("tasks", "list"))


def test_tasks_show(peftport: Run, reviews: Path) -> None:
    found = document(peftport("tasks", "show", reviews, "--json"))
    assert found["spec"]["labels"] == ["negative", "positive"]
    assert sum(part["items"] for part in found["splits"].values()) + sum(found["dropped"].values()) == 80
    turned = document(
        peftport("tasks", "show", reviews, "--labels", "positive,negative", "--words", "good,bad", "--json")
    )
    assert (turned["spec"]["labels"], turned["spec"]["words"]) == (["positive", "negative"], ["good", "bad"])
    said = text(peftport("tasks", "show", reviews))
    assert "train" in said and "negative" in said and "digest" in said


def test_tasks_show_says_what_was_guessed(peftport: Run, reviews: Path, tmp_path: Path) -> None:
    """Another delimiter and other names than usual; nothing where nothing was guessed."""
    header, *lines = reviews.read_text(encoding="utf-8").splitlines()
    assert header == "text,label"
    other = tmp_path / "other.csv"
    rows = [";".join(line.rsplit(",", 1)) for line in lines]
    other.write_text("\n".join(["Review;sentiment", *rows]), encoding="utf-8")
    notes = [
        "cells separated by a semicolon",
        "texts from column Review (--text)",
        "labels from column sentiment (--label)",
    ]
    found, plain = (peftport("tasks", "show", each, "--json").json for each in (other, reviews))
    assert (found["remarks"], plain["remarks"]) == ([f"other: guessed {note}" for note in notes], [])
    assert found["digest"] == plain["digest"]
    assert all(f"other: guessed {note}" in peftport("tasks", "show", other).err for note in notes)
    assert "guessed" not in peftport("tasks", "show", reviews).err


def test_techniques(peftport: Run) -> None:
    found = document(peftport("techniques", "--json"))["techniques"]
    assert [row["name"] for row in found] == ["lora", "adapter", "compacter", "prefix"]
    assert "rank" in found[0]["settings"]
    said = text(peftport("techniques"))
    assert all(row["name"] in said for row in found)


def test_methods(peftport: Run) -> None:
    found = document(peftport("methods", "--json"))["methods"]
    assert {"copy", "gaussian", "permutation", "spectrum", "norm_matched"} <= {row["name"] for row in found}
    said = text(peftport("methods"))
    assert "copy" in said and "spectrum" in said


# PEFT


@pytest.mark.parametrize("origin", PAIRS)
def test_what_train_writes_peft_loads(
    origin: str, peftport: Run, hosts: Folders, reviews: Path, tmp_path: Path
) -> None:
    """PEFT reads the folder and gives the logits (hidden states of an encoder) that we give."""
    out = tmp_path / "lora"
    options = ["-t", "lora", "--set", "rank=2", "--steps", 3, "--learning-rate", "0.05", "--format", "peft", "--json"]
    document(peftport("train", hosts[origin], reviews, *options, "--out", out))
    names = ["adapter_config.json", "adapter_model.safetensors", "peftport.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert outputs(peft_model(hosts[origin], out)) == pytest.approx(ours(hosts[origin], out), abs=1e-5)


@pytest.mark.parametrize("target", ["bert-updated", "bert"])
def test_peft_in_peft_out(target: str, peftport: Run, hosts: Folders, modules: Folders, tmp_path: Path) -> None:
    """What PEFT itself saved is ported to a PEFT folder with the same matrices."""
    source, out = tmp_path / "source", tmp_path / "out"
    peft_model(hosts["bert"], modules["peft"]).save_pretrained(source)
    result = peftport("port", source, "--from", hosts["bert"], "--to", hosts[target], "--out", out, "--json")
    assert (result.code, result.json["format"]) == (0, "peft")
    assert ("nothing to port" in result.err) == (target == "bert")
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (source, out))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert outputs(peft_model(hosts[target], out)) == pytest.approx(ours(hosts[target], out), abs=1e-5)


def test_formats_are_interchangeable(peftport: Run, hosts: Folders, modules: Folders, tmp_path: Path) -> None:
    to_bert = ["--from", hosts["bert"], "--to", hosts["bert"]]
    text(peftport("port", modules["lora"], *to_bert, "--format", "peft", "--out", tmp_path / "peft"))
    text(peftport("port", tmp_path / "peft", *to_bert, "--format", "native", "--out", tmp_path / "native"))
    there, back = (load_file(f / "module.safetensors") for f in (modules["lora"], tmp_path / "native"))
    assert there.keys() == back.keys()
    assert all(torch.equal(there[name], back[name]) for name in there)


def test_a_peft_folder_is_a_module_everywhere(peftport: Run, hosts: Folders, modules: Folders, reviews: Path) -> None:
    native = document(peftport("evaluate", hosts["bert"], reviews, "--module", modules["lora"], "--json"))
    found = document(peftport("evaluate", hosts["bert"], reviews, "--module", modules["peft"], "--json"))
    assert found["accuracy"] == native["accuracy"]
    ends = ["--from", hosts["bert"], "--to", hosts["bert-updated"], "--task", reviews]
    compared = document(peftport("compare", modules["peft"], *ends, "--budgets", "0", "--seeds", 1, "--json"))
    assert (compared["technique"], compared["origin"], compared["receiver"]) == ("lora", "bert", "bert-updated")


def peft_model(host: Path, module: Path) -> torch.nn.Module:
    loader = {"bert": "AutoModel", "t5": "AutoModelForSeq2SeqLM", "llama": "AutoModelForCausalLM"}[
        host.name.split("-")[0]
    ]
    return peft.PeftModel.from_pretrained(getattr(transformers, loader).from_pretrained(host), module).eval()


@torch.no_grad()
def outputs(model: torch.nn.Module) -> Any:
    ids = torch.tensor([[4, 7, 9, 12, 1], [4, 8, 8, 20, 1]])
    more = {"decoder_input_ids": ids[:, :2]} if model.config.is_encoder_decoder else {}
    return model(input_ids=ids, **more)[0].numpy()


def ours(folder: Path, module: Path) -> Any:
    host = load_host(str(folder), "language_model" if folder.name.startswith("llama") else "body")
    read = read_module(module, host)
    assert any(bool(own["B"].any()) for own in read.matrices.values())
    with attached(host, read.spec, stack([read.matrices])):
        return outputs(host.model)


# Real processes


def test_a_process_says_one_document_and_nothing_else(
    process: Run, hosts: Folders, reviews: Path, tmp_path: Path
) -> None:
    """No warning of a library reaches either stream, and python -m peftport is peftport."""
    arguments = ["-t", "prefix", "--set", "length=3", "--steps", 2, "--out", tmp_path / "out", "--json"]
    assert document(process("train", hosts["bert"], reviews, *arguments))["steps"] == 2


def test_a_process_refuses_in_one_line(process: Run, tmp_path: Path) -> None:
    result = process("tasks", "show", tmp_path / "nowhere.csv")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "-h"], ["hosts", "update", "--help"]])
def test_help(arguments: list[str], peftport: Run) -> None:
    result = peftport(*arguments)
    assert (result.code, result.err) == (0, "")
    assert "Usage" in result.out


@pytest.mark.parametrize("arguments", [[], ["hosts"], ["tasks"]])
def test_no_command_shows_the_help_and_is_an_error(arguments: list[str], peftport: Run) -> None:
    result = peftport(*arguments)
    assert result.code == 2
    assert "Usage" in result.out + result.err


def test_help_does_not_import_torch(environment: dict[str, str]) -> None:
    """What keeps --help quick."""
    code = (
        "import sys, peftport.cli; print([m for m in ('torch', 'transformers', 'numpy', 'polars') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "[]\n"


def test_progress_is_drawn_on_a_terminal(environment: dict[str, str], hosts: Folders, reviews: Path) -> None:
    """On stderr, while stdout stays one document."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "peftport", "evaluate", str(hosts["bert"]), str(reviews), "--json"]
    drawn = b""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=slave, env={**environment, "TERM": "xterm"}
    ) as running:
        os.close(slave)
        try:
            while chunk := os.read(master, 1024):
                drawn += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
        assert running.stdout is not None
        assert json.loads(running.stdout.read())["task"] == "reviews"
    os.close(master)
    assert running.returncode == 0
    assert b"loading" in drawn


def test_progress_in_a_log_is_a_line_now_and_then(
    peftport: Run, hosts: Folders, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody draws bars, work of more than a minute says how far it is; shorter work says nothing."""
    short = ("train", hosts["bert"], reviews, "--technique", "lora", "--steps", "3")
    assert peftport(*short, "--out", tmp_path / "quiet").err == ""
    monkeypatch.setattr(console, "SECONDS_A_LINE", 0.0)
    said = peftport(*short, "--out", tmp_path / "told").err
    assert re.search(r"^training .*: 2 of 3, \d+ s left$", said, re.MULTILINE), said
