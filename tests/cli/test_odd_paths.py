"""Paths that are none: a home that nobody has, a zero byte, a name beyond what file systems take. One line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pico_folders import Run

ODD = {"nobody's home": "~nosuch/x", "zero byte": "a\0b", "long name": "n" * 300, "long path": "n/" * 3000}
STUDY = """
name = "odd"
techniques = ["lora"]
pairs = [["HOST", "HOST"]]
tasks = ["own"]
budgets = [0]
seeds = [0]
[data.own]
source = "SOURCE"
"""
Places = dict[str, Path]
COMMANDS: dict[str, Callable[[str, Places], list[object]]] = {
    "train host": lambda odd, at: ["train", odd, at["reviews"], "-t", "lora", "--out", at["out"]],
    "train task": lambda odd, at: ["train", at["bert"], odd, "-t", "lora", "--out", at["out"]],
    "train csv": lambda odd, at: ["train", at["bert"], f"{odd}.csv", "-t", "lora", "--out", at["out"]],
    "train out": lambda odd, at: ["train", at["bert"], at["reviews"], "-t", "lora", "--steps", 1, "--out", odd],
    "evaluate module": lambda odd, at: ["evaluate", at["bert"], at["reviews"], "--module", odd],
    "port module": lambda odd, at: ["port", odd, "--to", at["bert-updated"], "--out", at["out"]],
    "port to": lambda odd, at: ["port", at["lora"], "--to", odd, "--out", at["out"]],
    "port out": lambda odd, at: ["port", at["lora"], "--to", at["bert-updated"], "--out", odd],
    "port texts": lambda odd, at: [
        "port", at["lora"], "--to", at["bert-updated"], "--method", "theseus", "--texts", f"{odd}.txt", "--out",
        at["out"],
    ],
    "check": lambda odd, at: ["check", odd, "--to", odd],
    "compare out": lambda odd, at: [
        "compare", at["lora"], "--to", at["bert-updated"], "--task", at["reviews"], "--budgets", "0", "--seeds", 1,
        "--out", odd,
    ],
    "study file": lambda odd, at: ["study", "plan", odd],
    "study dir": lambda odd, at: ["study", "status", at["study"], "--dir", odd],
    "study run dir": lambda odd, at: ["study", "run", at["study"], "--dir", odd],
    "study export out": lambda odd, at: ["study", "export", at["study"], "--out", odd],
    "study results": lambda odd, at: ["study", "report", at["study"], "--results", odd],
    "verify results": lambda odd, at: ["study", "verify", at["study"], "--results", odd],
    "hosts show": lambda odd, at: ["hosts", "show", odd],
    "tasks show": lambda odd, at: ["tasks", "show", odd],
    "demo out": lambda odd, at: ["demo", "--out", odd],
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_is_none(
    command: str,
    odd: str,
    peftport: Run,
    hosts: dict[str, Path],
    modules: dict[str, Path],
    reviews: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Refused in one line; a home that nobody has may be a folder of that name, where something is to be written."""
    monkeypatch.chdir(tmp_path)
    study = tmp_path / "study.toml"
    study.write_text(STUDY.replace("HOST", str(hosts["bert"])).replace("SOURCE", str(reviews)), encoding="utf-8")
    places = {**hosts, "lora": modules["lora"], "reviews": reviews, "out": tmp_path / "out", "study": study}
    done = peftport(*COMMANDS[command](odd, places))
    if command.endswith((" out", "run dir")) and odd.startswith("~") and done.code == 0:
        assert (tmp_path / odd).exists()
        return
    assert done.code in (1, 2), done
    assert done.err.count("\n") == 1 and done.err.startswith("peftport: "), done.err
    assert done.code == 2 or "demo" in command or odd not in (ODD["long name"], ODD["long path"]), done.err


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_a_study_that_names_a_path_that_is_none(
    odd: str, peftport: Run, hosts: dict[str, Path], tmp_path: Path
) -> None:
    study = tmp_path / "study.toml"
    text = STUDY.replace("HOST", str(hosts["bert"])).replace("SOURCE", odd.replace("\0", "\\u0000") + ".csv")
    study.write_text(text, encoding="utf-8")
    done = peftport("study", "run", study, "--dir", tmp_path / "runs", "--workers", 1)
    assert done.code in (1, 2)
    assert done.err.count("\n") == 1 and done.err.startswith("peftport: "), done.err
    text = STUDY.replace("HOST", odd.replace("\0", "\\u0000")).replace("SOURCE", "reviews.csv")
    study.write_text(text, encoding="utf-8")
    done = peftport("study", "run", study, "--dir", tmp_path / "runs")
    assert done.code == 2
    assert done.err.count("\n") == 1 and done.err.startswith("peftport: "), done.err


@pytest.mark.parametrize("cache", ["~nosuch/x", "n" * 300])
def test_a_cache_that_is_none(cache: str, peftport: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTPORT_CACHE", cache)
    done = peftport("evaluate", "all-MiniLM-L6-v2", "rotten_tomatoes")
    assert done.code == 2
    assert done.err.count("\n") == 1 and done.err.startswith("peftport: "), done.err
