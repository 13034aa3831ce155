"""Whatever may take longer than a moment says how far it is: counted to its end, and drawn on a terminal only."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import peftport as pp
from peftport.api import Study, calls
from peftport.cli.bars import SHOWN_AFTER_SECONDS, drawn_bars
from peftport.core.progress import Silent, current, step, watched

Folders = dict[str, Path]
RESULTS = Path(__file__).parents[2] / "results" / "drift"
STUDY = Path(__file__).parents[2] / "studies" / "drift.toml"


class Recorder:
    """What was begun, and how much of it was done."""

    def __init__(self) -> None:
        self.total: dict[str, int] = {}
        self.done: dict[str, int] = {}

    def stage(self, title: str, total: int) -> Callable[[int], None]:
        self.total[title] = self.total.get(title, 0) + total
        self.done.setdefault(title, 0)

        def advance(units: int) -> None:
            assert units >= 0
            self.done[title] += units

        return advance

    def tell(self, line: str) -> None:
        pass


def titles(run: Callable[[Recorder], Any]) -> str:
    """All that was begun, of which each was counted to its end."""
    recorder = Recorder()
    run(recorder)
    assert recorder.done == recorder.total
    return "; ".join(recorder.total)


def test_train_evaluate_and_compare(hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path) -> None:
    bert, other, lora = hosts["bert"], hosts["bert-updated"], modules["lora"]
    told = titles(lambda p: pp.train(bert, reviews, out=tmp_path / "new", steps=2, test_items=6, progress=p))
    for part in (f"reading {reviews}", "splitting", f"loading {bert}", "testing the bare host", "training lora"):
        assert part in told
    recorder = Recorder()
    pp.evaluate(bert, reviews, test_items=6, progress=recorder)
    assert recorder.total["testing the bare host"] == 6  # items, so that the time left is known before the end
    assert "testing" in titles(
        lambda p: pp.compare(lora, other, reviews, budgets=(0, 1), seeds=1, test_items=6, progress=p)
    )


def test_whatever_reads_weights(hosts: Folders, modules: Folders, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PEFTPORT_CACHE", str(tmp_path / "cache"))
    bert, other, lora = hosts["bert"], hosts["bert-updated"], modules["lora"]
    told = titles(lambda p: pp.check(lora, other, from_=bert, progress=p))
    for part in ("hashing the weights of bert", "hashing the weights of bert-updated", "how far apart", "comparing"):
        assert part in told
    assert "writing" in titles(lambda p: pp.merge(bert, lora, out=tmp_path / "merged", progress=p))


def test_hosts_update(hosts: Folders, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text(
        "the film was good .\na dull plot\nit is a great movie\n" * 20, encoding="utf-8"
    )
    told = titles(
        lambda p: calls.update_host(
            hosts["bert"], tmp_path / "texts.txt", steps=2, out=tmp_path / "new", head_warm_up_steps=1, progress=p
        )
    )
    assert "updating" in told and "loading" in told


def test_a_report(tmp_path: Path) -> None:
    study = Study.from_file(STUDY)
    told = titles(lambda p: study.report(tmp_path / "page.html", results=RESULTS, progress=p))
    assert "computing what came out" in told and "drawing the page" in told


def test_the_current_progress_is_that_of_the_command_that_runs() -> None:
    assert isinstance(current(), Silent)
    outer, inner = Recorder(), Recorder()
    with watched(outer):
        with watched(inner), step("inside"):
            pass
        with watched(None), step("outside"):
            pass
    assert isinstance(current(), Silent)
    assert (inner.done, outer.done) == ({"inside": 1}, {"outside": 1})


@pytest.mark.parametrize("slow", [True, False])
def test_only_slow_stages_are_drawn(slow: bool) -> None:
    screen = io.StringIO()
    with drawn_bars(Console(file=screen, force_terminal=True, width=100)) as bars:
        advance = bars.stage("counting [sheep]", 2)
        advance(1)
        if slow:
            time.sleep(SHOWN_AFTER_SECONDS + 0.3)
        advance(1)
    assert ("counting [sheep]" in screen.getvalue()) is slow
