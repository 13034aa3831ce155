"""The command on a comparison's page repeats it, options of every kind included; distil compares like a porter."""

from __future__ import annotations

import csv
import html
import re
import shlex
from pathlib import Path

import pytest

from pico_folders import Run

Folders = dict[str, Path]


@pytest.fixture
def odd_columns(reviews: Path, tmp_path: Path) -> Path:
    """The reviews in columns whose names nobody would guess, in a file with a space in its name."""
    with reviews.open(encoding="utf-8", newline="") as file:
        rows = [(row["label"], row["text"]) for row in csv.DictReader(file)]
    path = tmp_path / "my reviews.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("what it is", "said"), *rows])
    return path


def test_the_command_of_a_page_repeats_it(
    peftport: Run, hosts: Folders, modules: Folders, odd_columns: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    own = ("--text", "said", "--label", "what it is", "--description", "bad", "--description", "good, very")
    plan = ("--budgets", "0,3", "--seeds", 2, "--arms", "ported,scratch", "--batch-size", 4, "--max-tokens", 7)
    more = ("--learning-rate", 0.01, "--metric", "macro_f1", "--test-items", 9, "--method", "distill", "--steps", 3)
    ends = ("--from", hosts["bert"], "--to", hosts["bert-wide"], "--task", odd_columns, "--load", "dtype=bfloat16")
    done = peftport("compare", modules["lora"], *ends, *own, *plan, *more, "--out", page, "--json")
    assert done.code == 0, done.err
    first = done.json
    [shown] = re.findall(r'<pre id="command"[^>]*>(.*?)</pre>', page.read_text(encoding="utf-8"), re.DOTALL)
    program, *words = shlex.split(html.unescape(shown))
    assert program == "peftport"
    again = peftport(*words, "--json").json
    for each in (first, again):
        for row in each["rows"]:
            del row["seconds"]
    assert again == first
    assert first["plan"]["method"] == "distill" and len(first["rows"]) == 2 * 2 * 2


def test_distill_says_that_it_has_trained(peftport: Run, hosts: Folders, modules: Folders, reviews: Path) -> None:
    """Its steps are no budget, so a reader must be told of them; the comparison starts from what `port` writes."""
    ends = ("--from", hosts["bert"], "--to", hosts["bert-wide"], "--task", reviews)
    done = peftport(
        "compare", modules["lora"], *ends, "--method", "distill", "--steps", 2, "--budgets", 0, "--seeds", 1
    )
    assert done.code == 0
    assert "distill: 2 training steps on the receiver, which the budgets do not count" in done.out + done.err


def test_distill_compares_the_module_that_port_writes(
    peftport: Run, hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path
) -> None:
    ends = ("--from", hosts["bert"], "--to", hosts["bert-wide"], "--task", reviews)
    how = ("--method", "distill", "--steps", 2)
    assert peftport("port", modules["lora"], *ends, *how, "--out", tmp_path / "made").code == 0
    alone = peftport("evaluate", hosts["bert-wide"], reviews, "--module", tmp_path / "made", "--json").json
    compared = peftport(
        "compare", modules["lora"], *ends, *how, "--budgets", 0, "--seeds", 1, "--arms", "ported", "--json"
    ).json
    assert compared["rows"][0]["log_loss"] == pytest.approx(alone["log_loss"], rel=1e-5)
