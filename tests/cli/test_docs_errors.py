"""docs/errors.md: every command in it is run, and says what stands there."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from peftport.modules.formats import native

Run = Callable[..., Any]
Folders = dict[str, Path]
PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
BLOCK = re.compile(r"^```console\n\$ peftport (?P<command>.*)\n(?P<says>peftport: .*)\n```$", re.MULTILINE)
MISTAKES = [(found["command"], found["says"]) for found in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]
NO_SPACE = MISTAKES[9][0]
STUDY = """
name = "tiny"
techniques = ["lora"]
pairs = [["base-v1", "base-v2"]]
tasks = ["words"]
budgets = [0]
seeds = [0]
data.words.source = "reviews.csv"
"""


@pytest.fixture
def place(
    hosts: Folders,
    modules: Folders,
    reviews: Path,
    edit: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder as the page describes it, and the present one."""
    card = json.loads((modules["lora"] / "module.json").read_text(encoding="utf-8"))
    for name, host in {"base-v1": "bert", "base-v2": "bert-updated", "base-wide": "bert-wide"}.items():
        shutil.copytree(hosts[host], tmp_path / name)
    for name in ("lora", "peft"):
        shutil.copytree(modules[name], tmp_path / "modules" / name)
    edit(tmp_path / "modules/lora/module.json", host=card["host"] | {"name": "base-v1"})
    edit(tmp_path / "modules/peft/adapter_config.json", base_model_name_or_path="base-v1")
    shutil.copytree(modules["peft"], tmp_path / "modules" / "old")
    os.replace(tmp_path / "modules/old/adapter_model.safetensors", tmp_path / "modules/old/adapter_model.bin")
    torch.save({}, tmp_path / "modules/old/adapter_model.bin")
    shutil.copy(reviews, tmp_path / "reviews.csv")
    rows = [line.replace(" ", " ,", 1) for line in reviews.read_text(encoding="utf-8").splitlines()[1:]]
    (tmp_path / "pairs.csv").write_text("\n".join(["premise,hypothesis,label", *rows]), encoding="utf-8")
    (tmp_path / "tiny.toml").write_text(STUDY, encoding="utf-8")
    (tmp_path / "slip.toml").write_text(STUDY.replace("budgets", "budget"), encoding="utf-8")
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    (tmp_path / "alike.csv").write_text("text,label\n" + "good,positive\nfine,positive\n" * 20, encoding="utf-8")
    shutil.copytree(PAGE.parents[1] / "results" / "drift", tmp_path / "other")
    (tmp_path / "runs/damaged").mkdir(parents=True)
    (tmp_path / "runs/damaged/ledger.sqlite").write_bytes(b"x" * 5000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PEFTPORT_CACHE", "cache")
    monkeypatch.setitem(sys.modules, "ray", None)
    return tmp_path


# Of these something must be read that needs a large library: a task, a host's files, a module, a study's tables.
READS = (
    "evaluate base-v2", "port modules/lora --to base-wide", "port modules/peft", "port modules/old", "tasks show",
    "train base-v1 alike.csv", "study run", "study status", "study report", "study plan slip.toml",
)  # fmt: skip


def test_mistakes_in_names_and_paths_import_no_large_library(
    place: Path, tell: Callable[..., list[dict[str, object]]]
) -> None:
    """So they answer quickly, on any machine."""
    quick = [command for command, _ in MISTAKES if not command.startswith(READS) and command != NO_SPACE]
    for told in tell(*map(shlex.split, quick)):
        assert (told["code"], told["heavy"]) == (2, []), told
    assert len(quick) >= 18


def files(folder: Path) -> set[Path]:
    """But for runs, and for what is remembered of hosts that were read."""
    return {path for path in folder.rglob("*") if not {"runs", "cache"} & set(path.relative_to(folder).parts)}


def test_the_page_has_at_least_thirty() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(MISTAKES) == text.count("```console") == len({command for command, _ in MISTAKES}) >= 30


@pytest.mark.parametrize(("command", "says"), MISTAKES, ids=[str(i + 1) for i in range(len(MISTAKES))])
def test_the_line_is_the_page_s(
    command: str, says: str, place: Path, peftport: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if command == NO_SPACE:

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "ported/module.safetensors")

        monkeypatch.setattr(native, "write_native", full)
    before = files(place)
    result = peftport(*shlex.split(command))
    assert (result.err, result.out) == (f"{says}\n", "")
    assert result.code == (1 if command == NO_SPACE else 2)
    assert files(place) == before
