"""A study of pairs of texts: run, exported with items, and reported; how columns are named is part of a job's name."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from peftport.porting.alignment import words
from peftport.store.ledger import Ledger
from peftport.study.about import cut_texts
from pico import WORDS
from pico_folders import Run
from pico_study import TINY, plan_of, run_in

PAIRS = 'source = "pairs.csv"\ntext = ["premise", "hypothesis"]'


@pytest.fixture
def pairs(tiny: Path) -> Path:
    """The tiny study on pairs of random words, beside its hosts."""
    rng = np.random.default_rng(0)
    rows = [
        (*(" ".join(rng.choice(WORDS, size=8)) for _ in range(2)), ("negative", "positive")[i % 2]) for i in range(120)
    ]
    with Path("pairs.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("premise", "hypothesis", "label"), *rows])
    path = Path("pairs.toml")
    text = TINY.replace('source = "reviews.csv"', PAIRS).replace('"tiny"', '"pairs"')
    path.write_text(text.replace("max_tokens = 32", "max_tokens = 12"), encoding="utf-8")
    return path


def test_a_study_of_pairs_is_run_and_reported(pairs: Path, peftport: Run, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    ran = peftport("study", "run", pairs, "--dir", folder, "--workers", 1)
    assert ran.code == 0, ran
    cuts = [
        line for line in ran.err.splitlines() if " were cut at [training] max_tokens 12: 25% of all tokens are" in line
    ]
    assert len(cuts) == len({line.partition(":")[0] for line in cuts}) >= 2 and cuts[0].endswith(
        "max_tokens 16 keeps all"
    )
    again = peftport("study", "run", pairs, "--dir", folder, "--workers", 1, "--json")
    assert [line for line in again.err.splitlines() if line in cuts] == cuts == again.json["remarks"]
    found = peftport("study", "report", pairs, "--dir", folder, "--json").json
    assert len(found["verdicts"]) == 4 and found["headlines"] and found["remarks"] == []
    page = tmp_path / "page.html"
    assert peftport("study", "report", pairs, "--dir", folder, "--out", page).code == 0
    assert all(f"{line}." in page.read_text(encoding="utf-8") for line in cuts)
    assert peftport("study", "export", pairs, "--dir", folder, "--out", tmp_path / "out").code == 0
    assert peftport("study", "verify", pairs, "--results", tmp_path / "out", "--sample", 2).code == 0


def test_jobs_are_named_by_the_columns(pairs: Path) -> None:
    """Another second column is another task: none of the jobs on it are the same, but how far hosts are apart is."""
    changed = Path("changed.toml")
    changed.write_text(pairs.read_text(encoding="utf-8").replace('"hypothesis"]', '"label"]'), encoding="utf-8")
    one, other = (
        {job.id for job in plan_of(path).jobs.values() if job.kind != "distance"} for path in (pairs, changed)
    )
    assert one and one.isdisjoint(other)


def test_what_methods_of_porting_do_not_read_is_said(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows of six tokens, two of them special where the tokenizer puts any; here every text has ten words."""
    monkeypatch.setattr(words, "ROW_TOKENS", 6)
    only = {"technique": frozenset({"lora-2"}), "receiver": frozenset({"bert-updated"}), "seed": frozenset({"0"})}
    plan = plan_of(tiny, only, porters='["theseus"]', arms='["ported"]', budgets="[0]", training__max_tokens="12")
    assert run_in(tmp_path, plan).failed == 0
    ledger = Ledger(tmp_path)
    cuts = cut_texts(plan, ledger)
    ledger.close()
    assert [line.partition(", where activations are compared: ")[0] for line in cuts] == [
        "bert on reviews", "bert-updated on reviews",
    ]  # fmt: skip
    assert all(
        re.search(r": (\d+) of \1 texts were cut at rows of \d+ tokens: 40% of all tokens", line) for line in cuts
    )
