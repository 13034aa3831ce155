"""The table of items: what it holds is what the store holds, in every format, made part by part; and verified."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from peftport.metrics import METRICS
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import Ledger
from peftport.study import executors
from peftport.study.export import export, rows_of
from peftport.study.item_table import item_columns, item_frames, item_metrics, items_that_differ, write_items
from peftport.study.items import StoredItems
from pico_folders import Result, Run
from pico_study import Here, plan_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(peftport: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A study command on the tiny study, worked on in this process."""
    monkeypatch.setattr(executors, "make_executor", lambda *_: Here())

    def run(command: str, *arguments: object) -> Result:
        return peftport("study", command, tiny, *arguments)

    return run


@pytest.fixture
def exported(study: Run, undisturbed: Path, tmp_path: Path) -> Path:
    told = study("export", "--dir", undisturbed, "--out", tmp_path / "out", "--items", "--json")
    assert told.code == 0, told
    names = [Path(path).name for path in told.json["files"]]
    assert names == ["runs.parquet", "correct.parquet", "items.parquet", "study.json"]
    return tmp_path / "out"


def test_every_item_is_what_the_store_holds(exported: Path, tiny: Path, undisturbed: Path) -> None:
    """Scores and right classes of the artifacts; and the mean over a run's items is the column of its row."""
    items, runs = (pl.read_parquet(exported / f"{name}.parquet") for name in ("items", "runs"))
    assert dict(items.schema) == item_columns() and item_metrics() == ["accuracy", "log_loss"]
    assert items.height == runs["n_items"].sum()
    assert items["run"].unique(maintain_order=True).to_list() == runs["run"].to_list()
    plan, ledger = plan_of(tiny), Ledger(undisturbed)
    try:
        rows, stored = rows_of(plan, ledger), StoredItems(Artifacts(undisturbed / "artifacts"))
        for row in runs.iter_rows(named=True):
            own, test = items.filter(run=row["run"]), stored.predictions(rows[row["job"]], row["budget"])
            assert test is not None and own["item"].to_list() == list(range(row["n_items"]))
            assert np.array_equal(np.array(own["scores"].to_list(), np.float32), test.values)
            assert own["label"].to_list() == test.targets.tolist()
            for name in item_metrics():
                assert own[name].to_list() == pytest.approx(np.asarray(METRICS[name].per_item(test), float).tolist())
                assert own[name].mean() == pytest.approx(row[name], abs=1e-9)
    finally:
        ledger.close()


def test_the_pairing_in_the_documentation(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It runs, and its mean over pairs of items is the difference of the runs' means."""
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "study.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "quick").symlink_to(exported)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code, names)
    assert "log_loss" in capfd.readouterr().out
    pairs, runs = names["pairs"].collect(), pl.read_parquet(exported / "runs.parquet")  # type: ignore[attr-defined]
    means = dict(runs.group_by("arm").agg(pl.col("log_loss").mean()).iter_rows())
    assert pairs.height == runs.filter(arm="ported")["n_items"].sum()
    found = (pairs["log_loss_scratch"] - pairs["log_loss"]).mean()
    assert found == pytest.approx(means["scratch"] - means["ported"])


@pytest.mark.parametrize("rows_at_once", [1, 100, 10**6])
def test_parts_make_no_difference(rows_at_once: int, exported: Path, tiny: Path, undisturbed: Path) -> None:
    plan, ledger = plan_of(tiny), Ledger(undisturbed)
    try:
        artifacts = Artifacts(undisturbed / "artifacts")
        runs, rows = export(plan, ledger, artifacts).runs, rows_of(plan, ledger)
        frames = list(item_frames(runs, rows, StoredItems(artifacts), rows_at_once))
    finally:
        ledger.close()
    assert max(frame.height for frame in frames) <= rows_at_once + 8
    whole = pl.read_parquet(exported / "items.parquet")
    assert pl.concat(frames).equals(whole)
    write_items(iter(frames), exported / "again.parquet")
    assert pl.read_parquet(exported / "again.parquet").equals(whole)
    for name in ("items.csv", "items.jsonl"):
        write_items(iter(frames), exported / name)
    lines = pl.read_ndjson(exported / "items.jsonl", schema=item_columns())
    table = pl.read_csv(exported / "items.csv", schema=item_columns() | {"scores": pl.String()})
    table = table.with_columns(pl.col("scores").str.split(" ").cast(pl.List(pl.Float32)))
    assert lines.equals(whole) and table.equals(whole)
    assert not [path.name for path in exported.iterdir() if path.name.startswith(".")]


def test_a_study_without_a_done_run_has_an_empty_table(tmp_path: Path) -> None:
    write_items(iter(()), tmp_path / "items.parquet")
    assert pl.read_parquet(tmp_path / "items.parquet").schema == pl.Schema(item_columns())


def test_verify_reads_items_where_they_are(study: Run, exported: Path, undisturbed: Path) -> None:
    """With the table, without it, with one that was altered, and with one that was altered together with its sum."""
    options = ("--results", exported, "--sample", 3, "--json")
    right = study("verify", *options)
    assert right.code == 0 and not any(each["columns_that_differ"] for each in right.json["runs"])
    run = right.json["runs"][1]["run"]

    path = exported / "items.parquet"
    whole, told = pl.read_parquet(path), json.loads((exported / "study.json").read_text(encoding="utf-8"))
    here = (pl.col("run") == run) & (pl.col("item") == 2)
    changed = pl.when(here).then(pl.col("scores").list.eval(pl.element() + 0.5)).otherwise(pl.col("scores"))
    whole.with_columns(scores=changed).write_parquet(path)
    refused = study("verify", *options)
    assert (refused.code, refused.err.count("\n")) == (
        1,
        1,
    ) and "items.parquet: expected what study.json" in refused.err
    told["tables"]["items.parquet"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (exported / "study.json").write_text(json.dumps(told), encoding="utf-8")
    wrong = study("verify", *options)
    assert wrong.code == 1 and run in wrong.err and "items" in wrong.err
    assert [each["run"] for each in wrong.json["runs"] if "items" in each["columns_that_differ"]] == [run]

    path.unlink()
    assert study("verify", *options).code == 0
    whole.write_parquet(path)
    assert study("export", "--dir", undisturbed, "--out", exported).code == 0
    assert not path.is_file() and study("verify", *options).code == 0


def test_items_differ_by_more_than_rounding() -> None:
    def table(**changed: object) -> pl.DataFrame:
        own: dict[str, object] = {"run": ["a"] * 2, "item": [0, 1], "label": [0, 1], "scores": [[1.0, 0.0], [0.5, 0.7]]}
        own |= {"accuracy": [1.0, 1.0], "log_loss": [0.3, 0.6]}
        return pl.DataFrame(own | changed, schema=item_columns())

    whole = table()
    assert not items_that_differ(whole, whole, 0)
    assert not items_that_differ(whole, table(scores=[[1.0 + 1e-7, 0.0], [0.5, 0.7]]), 0)
    moved = table(scores=[[1.1, 0.0], [0.5, 0.7]])
    assert items_that_differ(whole, moved, 0) and not items_that_differ(whole, moved, 1)
    wrong = table(accuracy=[0.0, 1.0])
    assert items_that_differ(whole, wrong, 0) and not items_that_differ(whole, wrong, 1)
    assert items_that_differ(whole, table(label=[1, 1]), 5) and items_that_differ(whole, whole.head(1), 5)
