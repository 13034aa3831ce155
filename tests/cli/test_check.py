"""check, port --method auto, port --method a,b,c: what they say is what then happens, and mistakes cost one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import peftport as pp
from peftport.analysis.verdict.choice import WORDS
from peftport.porting import PORTERS

Run = Callable[..., Any]
Refused = Callable[..., str]
Folders = dict[str, Path]
TECHNIQUES = ("lora", "adapter", "compacter", "prefix")


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("the film was good .\na dull plot\nit is a great movie\nthe review was bad\n" * 4, encoding="utf-8")
    return path


def document(result: Any) -> Any:
    assert (result.code, result.err) == (0, "")
    return result.json


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_check_as_json(technique: str, peftport: Run, hosts: Folders, modules: Folders) -> None:
    more = ["--to", hosts["bert-updated"], "--from", hosts["bert"], "--json"]
    found = document(peftport("check", modules[technique], *more))
    assert found["technique"] == technique and found["origin_at_hand"] and not found["same_host"]
    assert [name for name, same in found["same"].items() if not same] == ["weights"]
    assert found["weight_distance"] > 0 and found["tokens"]["share"] == 1
    assert {slot["state"] for slot in found["slots"]} == {"fits"} and found["unused"] == []
    assert [one["name"] for one in found["methods"]] == [*PORTERS, "distill"]
    assert found["layers"] == [] and "--texts" in found["layers_note"]
    assert found["choice"]["word"] in WORDS and found["choice"]["why"] in found["summary"]
    assert [*found][:2] == ["summary", "choice"] and found["summary"].startswith("What to do: ")
    in_python = pp.check(modules[technique], hosts["bert-updated"], from_=hosts["bert"])
    assert str(in_python) == found["summary"]
    assert in_python.slots()["slot"].to_list() == [slot["slot"] for slot in found["slots"]]
    assert in_python.to_polars()["able"].to_list() == [one["able"] for one in found["methods"]]


def test_check_as_text(peftport: Run, hosts: Folders, modules: Folders, lines: Path) -> None:
    result = peftport("check", modules["lora"], "--to", hosts["bert-deep"], "--from", hosts["bert"], "--texts", lines)
    assert (result.code, result.err) == (0, "")
    for part in ("hosts", "slots", "likeness of layers", "methods", "CKA", "shapes differ", "unknown"):
        assert part in result.out
    assert result.out.startswith("What to do: use regress (not enough evidence): ")


def test_check_of_a_peft_folder(peftport: Run, hosts: Folders, modules: Folders, refused: Refused) -> None:
    refused("check", modules["peft"], "--to", hosts["bert-updated"], says=("needs the host", "give --from HOST"))
    found = document(peftport("check", modules["peft"], "--to", hosts["bert"], "--from", hosts["bert"], "--json"))
    assert found["same_host"] and found["choice"]["method"] == "copy"


@pytest.mark.parametrize("to", ["bert-updated", "bert-deep", "bert"])
def test_auto_does_what_check_says(to: str, peftport: Run, hosts: Folders, modules: Folders, tmp_path: Path) -> None:
    more = ["--to", hosts[to], "--from", hosts["bert"]]
    said = document(peftport("check", modules["lora"], *more, "--json"))["choice"]
    result = peftport("port", modules["lora"], *more, "--method", "auto", "--out", tmp_path / "out", "--json")
    assert result.code == 0
    assert result.json["choice"] == said and result.json["method"] == said["method"]
    assert result.err == f"auto: {said['method']} ({said['word']}): {said['why']}\n"
    card = json.loads((tmp_path / "out" / "module.json").read_text(encoding="utf-8"))
    assert card["ports"][-1]["method"] == said["method"]


def test_compare_by_auto(peftport: Run, hosts: Folders, modules: Folders, reviews: Path) -> None:
    """The task's texts are at hand, so a method that needs some may be chosen."""
    plan = ["--budgets", "0", "--seeds", 1, "--arms", "ported", "--method", "auto", "--json"]
    more = ["--from", hosts["bert"], "--task", reviews]
    result = peftport("compare", modules["lora"], "--to", hosts["bert-wide"], *more, *plan)
    assert result.code == 0
    assert result.json["plan"]["method"] == result.json["choice"]["method"] == "regress"
    assert result.err.startswith("auto: regress (not enough evidence): ")


def test_several_methods_are_tried_and_one_is_kept(
    peftport: Run, hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path
) -> None:
    out, alone = tmp_path / "out", tmp_path / "alone"
    more = ["--to", hosts["bert-updated"], "--from", hosts["bert"], "--task", reviews]
    names = "subspace,copy,theseus,gradfix"
    found = document(peftport("port", modules["prefix"], *more, "--method", names, "--out", out, "--json"))
    selection = found["trial"]
    assert [one["method"] for one in selection["methods"]] == names.split(",")
    by_name = {one["method"]: one for one in selection["methods"]}
    assert "prefix" in by_name["gradfix"]["refusal"] and by_name["gradfix"]["accuracy"] is None
    known = {name: one["accuracy"] for name, one in by_name.items() if name != "gradfix"}
    assert known[selection["best"]] == max(known.values())
    close = [name for name in known if not by_name[name]["told_apart"]]
    assert selection["chosen"] == close[0] == found["method"]

    chosen = selection["chosen"]
    again = peftport("port", modules["prefix"], *more, "--method", chosen, "--out", alone, "--json")
    assert (again.code, again.err) == (0, f"--task is not used by {chosen}\n")
    assert (out / "module.safetensors").read_bytes() == (alone / "module.safetensors").read_bytes()
    tested = document(peftport("evaluate", hosts["bert-updated"], reviews, "--module", out, "--json"))
    assert tested["accuracy"] == selection["test_accuracy"] and tested["n_items"] == selection["test_items"]
    in_python = pp.port(
        modules["prefix"], hosts["bert-updated"], from_=hosts["bert"], task=reviews, method=names.split(",")
    )
    assert in_python.selection is not None and in_python.selection.as_json() == selection


def test_several_methods_as_text(
    peftport: Run, hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path
) -> None:
    more = ["--from", hosts["bert"], "--task", reviews, "--steps", 2, "--test-items", 6]
    arguments = ["--to", hosts["bert-wide"], "--method", "copy,resize,distill", "--out", tmp_path / "out"]
    result = peftport("port", modules["lora"], *arguments, *more)
    assert (result.code, result.err) == (0, "")
    for part in ("resize", "distill", "bare", "cannot: ", "6 validation items", "6 test items", "kept", str(tmp_path)):
        assert part in result.out


# Mistakes


def test_wrong_requests_of_check(
    refused: Refused, hosts: Folders, modules: Folders, tmp_path: Path, lines: Path
) -> None:
    to = ("--to", hosts["bert-updated"])
    refused("check", modules["lora"], "--to", "nothing", says=("unknown host 'nothing'",))
    refused("check", modules["lora"], *to, "--from", "nothing", says=("unknown host 'nothing'",))
    refused(
        "check", modules["lora"], *to, "--from", hosts["bert-deep"], says=("another fingerprint", "leave --from out")
    )
    refused("check", tmp_path / "none", *to, says=("expected a module folder, found nothing",))
    refused("check", modules["lora"], *to, "--texts", tmp_path / "none.txt", says=("--texts", "none.txt", "UTF-8 file"))
    refused("check", modules["lora"], *to, "--texts", "nothing", says=("nothing",))
    lines.write_text("xyzzy\n", encoding="utf-8")
    origin = ("--from", hosts["bert"])
    refused("check", modules["lora"], *to, *origin, "--texts", lines, says=("texts: expected some with words",))


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("teseus", ("unknown method 'teseus'", "did you mean 'theseus'")),
        ("copy,teseus", ("unknown method 'teseus'", "did you mean 'theseus'")),
        ("copy,", ("unknown method ''",)),
        ("copy,copy", ("expected each once, got copy,copy",)),
        ("copy,auto", ("--method auto: expected it alone",)),
        ("copy,resize", ("--method copy,resize: needs a task", "name it with --task TASK")),
    ],
)
def test_wrong_methods(
    method: str, says: tuple[str, ...], refused: Refused, hosts: Folders, modules: Folders, tmp_path: Path
) -> None:
    to = ("--to", hosts["bert-updated"], "--out", tmp_path / "out")
    refused("port", modules["lora"], *to, "--method", method, says=says)


def test_methods_that_cannot_do_this_module(
    refused: Refused, hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path
) -> None:
    to = ("--to", hosts["bert-wide"], "--out", tmp_path / "out", "--task", reviews)
    says = ("expected one that can carry this module, got none", "copy: layers.0", "transfusion: layers.0")
    refused("port", modules["lora"], *to, "--from", hosts["bert"], "--method", "copy,transfusion", says=says)


def test_auto_that_would_choose_none(
    refused: Refused, hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path
) -> None:
    """A prefix has no place in a decoder that its encoder knows nothing of."""
    to = ("--to", hosts["t5"], "--out", tmp_path / "out", "--method", "auto")
    refused("port", modules["prefix"], *to, says=("--method auto: retrain", "no method carries this module"))
    plan = ("--to", hosts["t5"], "--task", reviews, "--method", "auto")
    refused("compare", modules["prefix"], *plan, says=("--method auto: retrain",))
