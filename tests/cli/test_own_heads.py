"""Classifiers' folders on the command line: read with their trained head, or a line says why not; what is cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import peftport as api
from peftport.modules.folders import read_module
from pico import pico_model, word_tokenizer
from pico_folders import Run, save_reviews

NAMES = {0: "POSITIVE", 1: "NEGATIVE"}
REMARK = "readout head is the host's own trained head, for POSITIVE, NEGATIVE"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A classifier, an update of it, one whose labels have no names, a body alone, and reviews."""
    home = tmp_path_factory.mktemp("own")
    for name, view, changes in (
        ("named", "sequence_classification", {"id2label": NAMES}),
        ("updated", "sequence_classification", {"id2label": NAMES, "seed": 1}),
        ("unnamed", "sequence_classification", {}),
        ("body", "body", {"seed": 2}),
    ):
        pico_model("bert", view=view, **changes).save_pretrained(home / name)  # type: ignore[arg-type]
        word_tokenizer().save_pretrained(home / name)
    save_reviews(home / "reviews.csv")
    return {path.stem: path for path in home.iterdir()}


def test_a_head_is_the_default_where_its_labels_are_the_task_s(peftport: Run, own: dict[str, Path]) -> None:
    found = peftport("evaluate", own["named"], own["reviews"], "--json")
    asked = peftport("evaluate", own["named"], own["reviews"], "--readout", "head", "--json")
    other = peftport("evaluate", own["named"], own["reviews"], "--readout", "prototype", "--json")
    assert found.code == asked.code == other.code == 0
    assert found.json == asked.json != other.json
    assert REMARK in found.err
    assert "its own trained head, for POSITIVE, NEGATIVE, is not used: --readout head uses it" in other.err
    shown = peftport("hosts", "show", own["named"])
    assert "prototype, linear, cosine, head" in shown.out and "its own trained head: POSITIVE, NEGATIVE" in shown.out
    assert "head" not in peftport("hosts", "show", own["body"], "--json").json["readouts"]


def test_labels_without_names_are_taken_in_order_where_asked(peftport: Run, own: dict[str, Path]) -> None:
    pairs = "LABEL_0 for negative, LABEL_1 for positive"
    told = peftport("evaluate", own["unnamed"], own["reviews"])
    assert f"is not used: --readout head takes {pairs}" in told.err
    asked = peftport("evaluate", own["unnamed"], own["reviews"], "--readout", "head")
    assert asked.code == 0 and f"are taken in order, as their names do not tell: {pairs}" in asked.err


def test_a_module_meets_the_head_of_its_new_host(peftport: Run, own: dict[str, Path], tmp_path: Path) -> None:
    module, ported, peft = tmp_path / "module", tmp_path / "ported", tmp_path / "peft"
    reviews, small = own["reviews"], ("--steps", 2, "--set", "rank=2")
    assert peftport("train", own["named"], reviews, "-t", "lora", *small, "--out", module).code == 0
    record = read_module(module)
    assert record.task is not None and record.task.readout == "head" and record.head is None
    assert peftport("train", own["named"], reviews, "-t", "lora", *small, "--format", "peft", "--out", peft).code == 0
    assert peftport("evaluate", own["named"], reviews, "--module", peft).code == 0
    assert peftport("port", module, "--to", own["updated"], "--out", ported).code == 0
    told = peftport("evaluate", own["updated"], reviews, "--module", ported)
    assert told.code == 0 and REMARK in told.err
    compared = ("--task", reviews, "--budgets", "0,1", "--seeds", 1)
    assert peftport("compare", module, "--to", own["updated"], *compared).code == 0
    without = peftport("compare", module, "--to", own["body"], *compared)
    assert without.code == 2 and without.err.count("\n") == 1
    assert "expected a trained head for labels" in without.err and "use --readout prototype or linear" in without.err
    assert peftport("compare", module, "--to", own["body"], *compared, "--readout", "prototype").code == 0
    assert peftport("port", module, "--to", own["body"], "--out", tmp_path / "on_body").code == 0
    with api.attach(str(own["body"]), tmp_path / "on_body") as attached:
        assert attached.module.spec.kind == "lora"


def test_a_pooler_is_part_of_the_head(peftport: Run, own: dict[str, Path], tmp_path: Path) -> None:
    """A body without one is a host; a classifier would have a pooler drawn at random."""
    folder = tmp_path / "poolerless"
    folder.mkdir()
    for file in own["named"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
    assert len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    refused = peftport("evaluate", folder, own["reviews"])
    assert refused.code == 2 and "pooler" in refused.err and "use --readout prototype or linear" in refused.err
    assert peftport("evaluate", folder, own["reviews"], "--readout", "prototype").code == 0


def test_what_is_cut_is_said_by_every_command(peftport: Run, own: dict[str, Path], tmp_path: Path) -> None:
    short, reviews, module = ("--max-tokens", 4), own["reviews"], tmp_path / "module"
    said = (
        "texts were cut at --max-tokens 4: 60% of all tokens are not read, and the longest text has 10; --max-tokens 10"
    )
    task, compared = ("--task", reviews), ("--from", own["named"], "--to", own["updated"])
    for arguments in (
        ("evaluate", own["named"], reviews, *short),
        ("train", own["named"], reviews, "-t", "lora", "--steps", 1, "--set", "rank=2", *short, "--out", module),
        ("evaluate", own["named"], reviews, "--module", module, *short),
        ("compare", module, "--to", own["updated"], *task, "--budgets", "0,1", "--seeds", 1, *short),
        ("port", module, "--to", own["updated"], "--method", "gradfix", *task, *short, "--out", tmp_path / "gradfix"),
        ("port", module, "--to", own["updated"], "--from", own["named"], "--method", "distill", *task, "--steps", 1,
         *short, "--out", tmp_path / "distill"),
        ("port", module, "--to", own["updated"], "--method", "copy,skip", *task, *short, "--out", tmp_path / "best"),
        ("check", module, *compared, "--texts", reviews, *short),
        ("port", module, *compared, "--method", "theseus", *task, *short, "--out", tmp_path / "theseus"),
        ("port", module, *compared, "--method", "theseus,subspace", *task, *short, "--out", tmp_path / "aligned"),
        ("compare", module, *compared, "--method", "theseus", *task, "--budgets", 0, "--seeds", 1, *short),
    ):  # fmt: skip
        told = peftport(*arguments, "--json")
        assert told.code == 0, told
        assert said in told.err, arguments
        assert told.json["remarks"] == told.err.splitlines(), arguments
        hosts = ("\nnamed, where activations are compared: ", "\nupdated, where activations are compared: ")
        assert sum(("\n" + told.err).count(host) for host in hosts) == (2 if arguments[2:5] == compared[:3] else 0), (
            arguments
        )
    assert "cut" not in peftport("evaluate", own["named"], reviews, "--max-tokens", 10).err


def test_names_of_labels_that_are_none(peftport: Run, own: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for file in own["named"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "7": "b"}}))
    refused = peftport("evaluate", folder, own["reviews"])
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert "id2label: expected a name for each output" in refused.err
