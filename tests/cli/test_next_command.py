"""After a result a terminal shows the command that comes next. It can be pasted as it stands: each one is run here."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import peftport as pp
from peftport.api.following import beside, relative_of
from peftport.hosts.offline.catalogue import SOURCE_FILE
from peftport.workflows.upgrading.ledger import UpgradeRecord

Run = Callable[..., Any]
Folders = dict[str, Path]
NEXT = "Next: peftport "
SMALL = ("--budgets", "0,2", "--seeds", "2", "--test-items", "8")
STUDY = """
name = "tiny"
techniques = ["lora"]
pairs = [["{bert}", "{other}"]]
tasks = ["words"]
budgets = [0, 2]
seeds = [0]
training.origin_steps = 2
data.words.source = "{reviews}"
"""


@pytest.fixture
def at_terminal(peftport: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """Run a command as on a terminal, in a folder of its own, and return the words that it names next."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> list[str]:
        with monkeypatch.context() as patch:
            patch.setattr(sys.stdout, "isatty", lambda: True)
            result = peftport(*words)
        assert result.code in (0, 3, 4), result
        lines = result.out.splitlines()
        assert [line for line in lines if line.startswith("Next:")] == ([lines[-1]] if NEXT in result.out else [])
        return shlex.split(lines[-1].removeprefix(NEXT)) if lines[-1].startswith(NEXT) else []

    return run


def test_a_real_terminal_shows_it_and_nothing_else_does(
    hosts: Folders, modules: Folders, environment: dict[str, str], tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "peftport", "check", str(modules["lora"]), "--to", str(hosts["bert-updated"])]
    for more, shown in (([], True), (["--json"], False)):
        master, slave = pty.openpty()
        with subprocess.Popen(
            [*words, *more], stdout=slave, stderr=subprocess.PIPE, env=environment, cwd=tmp_path
        ) as process:
            os.close(slave)
            text = b""
            while chunk := _read(master):
                text += chunk
            os.close(master)
        assert process.returncode == 0
        assert (NEXT.encode() in text) is shown
    piped = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Next:" not in piped.stdout + piped.stderr


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # the other end is closed
        return b""


def test_from_training_to_the_verdict(
    at_terminal: Callable[..., list[str]], hosts: Folders, reviews: Path, tmp_path: Path
) -> None:
    """With a blank in every path, and the user's own columns."""
    data, out = tmp_path / "my reviews.csv", tmp_path / "my modules" / "lora"
    data.write_text(reviews.read_text(encoding="utf-8").replace("label", "how", 1), encoding="utf-8")
    task, to = (data, "--label", "how"), hosts["bert-updated"]
    train = at_terminal("evaluate", hosts["bert"], *task, "--test-items", 8)
    assert train[:1] == ["train"] and train[-2:] == ["--out", "modules/lora"]
    assert {"--label", "how", "--test-items", "--technique"} <= {*train}
    evaluate = at_terminal("train", hosts["bert"], *task, "-t", "lora", "--steps", 2, "--out", out)
    assert evaluate[0] == "evaluate" and {"--module", str(out), "--label", "how"} <= {*evaluate}
    assert at_terminal(*evaluate) == []
    port = at_terminal("check", out, "--to", to)
    assert port == ["port", str(out), "--to", str(to), "--out", f"{out}-on-{to.name}"]
    assert at_terminal(*port, "--task", *task)[:4] == ["compare", str(out), "--to", str(to)]
    compare = at_terminal("check", out, "--to", to)
    assert compare[-1] == f"{out}-on-{to.name}-2"  # the first is taken
    after = at_terminal("compare", out, "--to", to, "--task", *task, *SMALL)
    assert after[0] in ("port", "train", "compare") and at_terminal(*after) is not None


def test_after_methods_that_were_tried_or_cannot_be_compared(
    at_terminal: Callable[..., list[str]], hosts: Folders, modules: Folders, reviews: Path
) -> None:
    """Of several methods one is kept, which need not be the one that options were for; compare makes no prompts."""
    port = ("port", modules["lora"], "--to", hosts["bert-updated"], "--from", hosts["bert"], "--task", reviews)
    tried = (*port, "--method", "copy,distill", "--steps", 1, "--keep", 0.5, "--teach", "auto", "--test-items", 8)
    after = at_terminal(*tried, "--out", "best")
    assert after[:3] == ["compare", str(modules["lora"]), "--to"]
    distilled = "distill" in after
    assert ("--keep" in after) is ("--teach" in after) is distilled
    assert at_terminal(*after, *SMALL, "--seeds", "1", "--budgets", "0") != []
    into = (*port, "--method", "distill", "--steps", 1, "--into", "adapter", "--set", "reduction_factor=4")
    after = at_terminal(*into, "--out", "adapter")
    assert after[:2] == ["evaluate", str(hosts["bert-updated"])] and after[after.index("--module") + 1] == "adapter"
    assert at_terminal(*after) == []


def test_to_a_whole_model(
    at_terminal: Callable[..., list[str]], hosts: Folders, modules: Folders, tmp_path: Path
) -> None:
    """The pico task cannot be had by its name, so that no comparison can be named."""
    to = hosts["bert-updated"]
    merge = at_terminal("port", modules["lora"], "--to", to, "--out", "ported")
    assert merge == ["merge", str(to), "ported", "--out", "ported-merged"]
    show = at_terminal(*merge)
    assert show == ["hosts", "show", "ported-merged"]
    assert at_terminal(*show) == []
    assert at_terminal("port", modules["adapter"], "--to", to, "--out", "adapter") == []
    assert at_terminal("check", modules["lora"], "--to", hosts["bert"]) == []


def test_through_a_study(at_terminal: Callable[..., list[str]], hosts: Folders, reviews: Path, tmp_path: Path) -> None:
    study = tmp_path / "tiny study.toml"
    text = STUDY.format(bert=hosts["bert"], other=hosts["bert-updated"], reviews=reviews)
    study.write_text(text, encoding="utf-8")
    part = ("--set", "testing.items=8", "--only", "arm=ported")
    run = at_terminal("study", "plan", study, *part)
    assert run == ["study", "run", str(study), *part]
    again = at_terminal(*run, "--workers", "1", "--max-jobs", "1")
    assert again == run
    report = at_terminal(*run, "--workers", "1")
    assert report == ["study", "report", str(study), *part, "--out", "tiny study.html"]
    assert at_terminal("study", "status", study, *part) == report
    assert at_terminal(*report) == [] and (tmp_path / "tiny study.html").is_file()
    verify = at_terminal("study", "export", study, *part, "--out", "tables")
    assert verify == ["study", "verify", str(study), "--results", "tables"]


def test_through_an_upgrade(
    at_terminal: Callable[..., list[str]], hosts: Folders, modules: Folders, reviews: Path
) -> None:
    words = ("upgrade", hosts["bert"], hosts["bert-updated"], modules["lora"], "--test-items", 8, "--task", reviews)
    upgrade = at_terminal(*words, "--only-check")
    assert upgrade[0] == "upgrade" and upgrade[-2:] == ["--out", "upgraded"] and "--only-check" not in upgrade
    after = at_terminal(*upgrade)
    assert after[0] in ("upgrade", "train", "evaluate")
    at_terminal(*after)


@pytest.mark.parametrize(("outcome", "command"), [("retrain", "train"), ("copy", "evaluate"), ("refused", None)])
def test_what_comes_after_each_outcome_of_an_upgrade(
    outcome: Any, command: str | None, hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path
) -> None:
    done = pp.upgrade(hosts["bert"], hosts["bert-updated"], [modules["lora"]], only_check=True)
    record = UpgradeRecord(name="lora", module="lora", content="", outcome=outcome, why="", technique="lora")
    object.__setattr__(done.found, "records", (record,))
    object.__setattr__(done.request, "only_check", False)
    object.__setattr__(done.request, "out", tmp_path)
    object.__setattr__(done.request, "task", reviews)
    words = done.next_words()
    assert (words[0] if words else None) == command
    assert str(hosts["bert"]) not in words and (not words or str(hosts["bert-updated"]) in words)


def test_folders_beside_and_hosts_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTPORT_CACHE", str(tmp_path))
    assert beside("org/lora", "org/new@main") == Path("lora-on-new")
    assert relative_of("org/new") is None and relative_of("all-MiniLM-L6-v2") is None
    (tmp_path / "hosts" / "sre").mkdir(parents=True)
    (tmp_path / "hosts" / "sre" / SOURCE_FILE).write_text(json.dumps({}), encoding="utf-8")
    assert relative_of("all-MiniLM-L6-v2") == "sre"
