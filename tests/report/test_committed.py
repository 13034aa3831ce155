"""The committed tables under results/: every run's numbers held to its items, the files to the sums beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from peftport.core.errors import PeftportError
from peftport.study.export import read_about, read_export
from peftport.study.plan import Plan

RESULTS = Path(__file__).parents[2] / "results"
STUDIES = sorted(folder.parent for folder in RESULTS.glob("*/runs.parquet"))


def test_all_studies_are_looked_at() -> None:
    assert {folder.name for folder in STUDIES} >= {"paper-offline", "drift", "porting-same", "porting-shape"}


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
    assert set(read_about(folder).tables) == {"runs.parquet", "correct.parquet"}
    shutil.copytree(folder, tmp_path / "out")
    data = bytearray((tmp_path / "out" / table).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "out" / table).write_bytes(data)
    with pytest.raises(PeftportError, match=table):
        read_export(tmp_path / "out")
