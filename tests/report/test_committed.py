"""The committed tables under results/: every run's numbers held to its items, the files to the sums beside them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from peftport.core.errors import BadRequest, PeftportError
from peftport.study.export import read_about, read_export
from peftport.study.opened import open_study
from peftport.study.plan import Plan
from recompute_gains import gains
from study_tables import short, signed, tables

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
GAIN = re.compile(r"([+-]\.\d{3})(?:\*\*)? \[(-?\.\d{3}), (-?\.\d{3})\]")
STUDIES = sorted(folder.parent for folder in RESULTS.glob("*/runs.parquet"))


def test_all_studies_are_looked_at() -> None:
    assert {folder.name for folder in STUDIES} >= {"paper", "paper-offline", "drift", "porting-same", "porting-shape"}


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_every_accuracy_is_what_its_items_give(folder: Path) -> None:
    """Read without peftport's own checks, item by item; and each run once, with the factors and jobs of its study."""
    runs, correct = (pl.read_parquet(folder / f"{name}.parquet") for name in ("runs", "correct"))
    items = dict(correct.iter_rows())
    assert len(items) == correct.height == runs.height
    for row in runs.iter_rows(named=True):
        assert row["state"] == "done"
        assert (row["n_items"], row["accuracy"]) == (len(items[row["run"]]), np.mean(items[row["run"]])), row["run"]
    plan = Plan(read_about(folder).study)
    assert [(run.name, plan.job_of(run)) for run in plan.runs()] == list(runs.select("run", "job").iter_rows())


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_runs_that_share_a_test_share_its_numbers(folder: Path) -> None:
    """Runs of one job and budget are one test: all that was measured is equal."""
    runs = read_export(folder).runs
    measures = ("accuracy", "auroc", "accuracy_at_median", "n_items", "loss")
    distinct = runs.group_by("job", "budget").agg(pl.col(measures).n_unique())
    assert all(distinct[name].max() == 1 for name in measures)


@pytest.mark.parametrize("table", ["runs.parquet", "correct.parquet"])
@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_a_flipped_byte_is_told(folder: Path, table: str, tmp_path: Path) -> None:
    assert set(read_about(folder).tables) == {file.name for file in folder.glob("*.parquet")}
    shutil.copytree(folder, tmp_path / "out")
    data = bytearray((tmp_path / "out" / table).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "out" / table).write_bytes(data)
    with pytest.raises(PeftportError, match=table):
        read_export(tmp_path / "out")


@pytest.fixture(scope="module")
def reported() -> Any:
    """What the command that README and docs name prints of the replica."""
    command = [sys.executable, "-m", "peftport", "study", "report", "studies/paper-updated.toml"]
    done = subprocess.run([*command, "--results", "results/paper", "--json"], cwd=ROOT, capture_output=True, check=True)
    return json.loads(done.stdout)


def test_pooled_gains_are_those_of_thirty_lines_that_share_no_code(reported: Any) -> None:
    for metric, column in (("accuracy", "gain"), ("auroc", "other_gain")):
        found = {
            (row["versus"], row["tasks"], row["budget"], row["technique"]): row["gain"]
            for row in gains(str(RESULTS / "paper"), metric).iter_rows(named=True)
        }
        rows = [
            row
            for row in reported["pooled"]
            if row["scope"] in ("all", "technique") and row["beside"] is None
            if row["versus"] in ("sampled", "scratch", "shuffled")
        ]
        assert len(rows) == len(found) == 90
        for row in rows:
            key = (row["versus"], row["tasks"], row["budget"], row["technique"])
            assert found[key] == pytest.approx(row[column], abs=1e-12 if metric == "accuracy" else 1e-7), key


def test_the_pages_have_the_numbers_that_the_command_prints(reported: Any) -> None:
    """Every gain with an interval in README, the results page and the study's own page; the tables line by line."""
    page = (RESULTS / "paper" / "README.md").read_text(encoding="utf-8")
    assert all(line in page for line in tables(reported))
    told = {(signed(row["gain"]), short(row["low"]), short(row["high"])) for row in reported["pooled"]}
    gates = pl.read_parquet(RESULTS / "paper" / "gates.parquet").drop_nulls("technique")
    told |= {
        tuple(f(x) for f, x in zip((signed, short, short), row, strict=True))
        for row in gates.select("difference", "low", "high").iter_rows()
    }
    docs = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    parts = (
        page,
        docs.partition("## The paper's grid on small hosts")[2].partition("\n## ")[0],
        readme.partition("## A result")[2].partition("\n## ")[0],
    )
    for part in parts:
        found = GAIN.findall(part)
        assert len(found) > 4 and set(found) <= told, set(found) - told
    singles = {value for row in reported["pooled"] for value in (signed(row["gain"]), signed(row["other_gain"] or 0))}
    for part in parts[1:]:
        assert set(re.findall(r"\+\.\d{3}", part)) <= singles
        assert "peftport study report studies/paper-updated.toml --results results/paper" in part
    verdicts = [v["verdict"] for v in reported["verdicts"] if v["origin_task"] == v["receiver_task"]]
    assert (verdicts.count("copy"), verdicts.count("not enough evidence"), len(verdicts)) == (30, 2, 32)
    assert "verdict is *copy* in 30 of 32 cells and *not enough evidence* in 2." in parts[2]


def test_the_page_beside_the_tables_is_of_these_tables(reported: Any) -> None:
    html = (RESULTS / "paper" / "report.html").read_text(encoding="utf-8")
    assert all(sentence.split("(")[0].strip()[:60] in html for sentence in reported["headlines"])


def test_tables_of_another_study_are_refused_and_parts_are_of_what_is_asked_for() -> None:
    """`--results` beside `--only`, and beside the file of another study."""
    from peftport.report.study_report import report_study
    from peftport.study.commands import ReportRequest, StudyRequest

    asked, studies = ReportRequest(results=RESULTS / "paper"), ROOT / "studies"
    with pytest.raises(BadRequest, match="expected the 29 runs of quick, got 13 of them"):
        report_study(open_study(StudyRequest(studies / "quick.toml")), asked)
    only = ("technique=lora", "receiver_task=vader_amazon", "origin=sre")
    runs = report_study(open_study(StudyRequest(studies / "paper-updated.toml", only=only)), asked).findings.pooled
    assert set(runs["technique"].drop_nulls()) <= {"lora"} and set(runs["origin"].drop_nulls()) <= {"sre"}
