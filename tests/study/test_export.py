"""Tables of a study: one row a run, every factor a column, the same in every format; and rows checked again."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftport.analysis.columns import run_columns
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import Ledger
from peftport.study import executors
from peftport.study.export import Exported, _bytes, export, read_export, write_export
from peftport.study.run import Limits
from peftport.study.verify import Verified, run_differences
from peftport.training.bound_task import bind_task
from pico_folders import Result, Run
from pico_study import Here, plan_of, run_in


def export_of(tiny: Path, folder: Path) -> Exported:
    ledger = Ledger(folder)
    try:
        return export(plan_of(tiny), ledger, Artifacts(folder / "artifacts"))
    finally:
        ledger.close()


@pytest.fixture(scope="module")
def exported(home: Path, undisturbed: Path) -> Exported:
    return export_of(home / "tiny.toml", undisturbed)


@pytest.fixture
def study(peftport: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A study command on the tiny study, worked on in this process."""
    monkeypatch.setattr(executors, "make_executor", lambda *_: Here())

    def run(command: str, *arguments: object) -> Result:
        return peftport("study", command, tiny, *arguments)

    return run


def test_one_row_a_run(tiny: Path, exported: Exported) -> None:
    runs = list(plan_of(tiny).runs())
    assert exported.runs["run"].to_list() == [run.name for run in runs]
    assert exported.runs["run"].is_unique().all()
    for factor in (
        "technique",
        "origin",
        "receiver",
        "origin_task",
        "receiver_task",
        "arm",
        "method",
        "budget",
        "seed",
    ):
        assert exported.runs[factor].to_list() == [getattr(run, factor) for run in runs]
    assert set(exported.runs["state"]) == {"done"}
    assert exported.runs["error"].null_count() == len(runs)
    assert exported.correct["run"].to_list() == exported.runs["run"].to_list()


def test_measures_agree_with_each_other(exported: Exported) -> None:
    by_run = dict(exported.correct.iter_rows())
    for row in exported.runs.iter_rows(named=True):
        assert row["n_items"] == len(by_run[row["run"]]) == 8
        assert row["accuracy"] == np.mean(by_run[row["run"]])
        assert (row["loss"] is None) == (row["budget"] == 0)
        assert row["steps"] == row["budget"]
        assert (row["train_seconds"] is None) == (row["arm"] == "bare")
        assert (row["host_distance"] is None) == (row["origin"] is None)
    pairs = exported.runs.filter(pl.col("origin").is_not_null())
    assert pairs.group_by("origin", "receiver").agg(pl.col("host_distance").n_unique())["host_distance"].to_list() == [
        1, 1,
    ]  # fmt: skip
    assert pairs["host_distance"].min() > 0  # type: ignore[operator]


def test_correct_is_in_the_order_of_the_test_split(tiny: Path, exported: Exported) -> None:
    plan = plan_of(tiny)
    from peftport.tasks import load_task
    from peftport.training.loop import TrainSettings

    settings = TrainSettings(batch_size=4, max_tokens=32)
    bound_task = bind_task("t5-updated", load_task("reviews.csv"), settings=settings, test_items=8)
    [scores] = bound_task.test(None, [])
    [bare] = [run.name for run in plan.runs() if run.arm == "bare" and run.receiver == "t5-updated"]
    assert dict(exported.correct.iter_rows())[bare] == scores.correct.tolist()
    assert bound_task.task.test.texts[:8] == bound_task.task.test.head(8).texts


@pytest.mark.parametrize("file_format", ["parquet", "csv", "jsonl"])
def test_every_format_holds_the_same(
    file_format: str, study: Run, undisturbed: Path, exported: Exported, tmp_path: Path
) -> None:
    told = study("export", "--dir", undisturbed, "--out", tmp_path / "out", "--format", file_format, "--json")
    assert told.code == 0
    assert told.json["runs"] == exported.runs.height
    assert told.json["states"] == {"done": exported.runs.height}
    paths = [Path(path) for path in told.json["files"]]
    assert [path.name for path in paths] == [f"runs.{file_format}", f"correct.{file_format}", "study.json"]
    if file_format == "parquet":
        again = read_export(tmp_path / "out")
        runs, correct = again.runs, again.correct
    elif file_format == "jsonl":
        runs, correct = pl.read_ndjson(paths[0], schema=run_columns()), pl.read_ndjson(paths[1])
    else:
        runs = pl.read_csv(paths[0], schema=run_columns())
        texts = pl.read_csv(paths[1], schema={"run": pl.String, "correct": pl.String})
        lists = [[digit == "1" for digit in text] for text in texts["correct"]]
        correct = pl.DataFrame({"run": texts["run"], "correct": lists})
    assert runs.schema == exported.runs.schema
    assert runs.equals(exported.runs)
    assert correct.equals(exported.correct)


def test_columns_are_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "study.md").read_text(encoding="utf-8")
    assert not [name for name in run_columns() if f"`{name}`" not in text]


def test_a_half_done_study_has_pending_rows(study: Run, tiny: Path, tmp_path: Path) -> None:
    run_in(tmp_path / "runs", plan_of(tiny), limits=Limits(max_jobs=10))
    half = export_of(tiny, tmp_path / "runs")
    assert set(half.runs["state"]) == {"done", "pending"}
    assert half.runs.filter(state="pending")["accuracy"].null_count() == half.runs.filter(state="pending").height
    assert half.correct.height == half.runs.filter(state="done").height > 0
    status = study("status", "--dir", tmp_path / "runs", "--json").json
    assert status["done"] + status["left"] == status["jobs"] == len(plan_of(tiny).jobs)
    assert status["done"] >= 10


def test_failed_rows_say_why(study: Run, tmp_path: Path) -> None:
    wild = ("--dir", tmp_path / "runs", "--set", "training.learning_rates.lora-2=1e38")
    assert study("run", *wild).code == 1
    assert study("export", *wild, "--out", tmp_path / "out").code == 0
    runs = read_export(tmp_path / "out").runs
    for state, says in (("failed", "TrainingFailed: "), ("blocked", "needs job ")):
        rows = runs.filter(state=state)
        assert rows.height
        assert set(rows["technique"]) == {"lora-2"}
        assert all(error.startswith(says) and "\n" not in error for error in rows["error"])
        assert rows["accuracy"].null_count() == rows.height


def test_a_wrong_format_or_place_is_refused(study: Run, undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for more, says in ((("--out", tmp_path, "--format", "xlsx"), "xlsx"), (("--out", tmp_path / "file"), "a file")):
        told = study("export", "--dir", undisturbed, *more)
        assert (told.code, told.err.count("\n"), says in told.err) == (2, 1, True)


def test_verify_passes_what_is_right_and_finds_what_is_not(study: Run, exported: Exported, tmp_path: Path) -> None:
    """Every run is recomputed; an item altered with all that hangs on it is found, and tolerated where it is asked for.

    Likewise a row in which a number that no item shows was altered, or a factor.
    """
    out = tmp_path / "out"
    write_export(exported, out, "parquet")
    count = exported.runs.height
    right = study("verify", "--results", out, "--sample", count, "--json")
    assert right.code == 0
    assert sorted(each["run"] for each in right.json["runs"]) == sorted(exported.runs["run"])
    assert {(each["accuracy_difference"], each["items_that_differ"]) for each in right.json["runs"]} == {(0.0, 0)}
    assert not any(each["columns_that_differ"] for each in right.json["runs"])

    rows = exported.correct.rows()
    name, items = rows[5]
    items = [not items[0], *items[1:]]
    rows[5] = (name, items)
    correct = pl.DataFrame(rows, exported.correct.schema, orient="row")
    runs = altered(exported.runs, name, accuracy=float(np.mean(items)))
    write_export(Exported(runs, correct), out, "parquet")
    wrong = study("verify", "--results", out, "--sample", count, "--json")
    assert wrong.code == 1
    assert name in wrong.err
    differ = {each["run"]: each["items_that_differ"] for each in wrong.json["runs"] if each["items_that_differ"]}
    assert differ == {name: 1}
    assert study("verify", "--results", out, "--sample", count, "--tolerance", 1).code == 0

    runs, differing = exported.runs, dict[str, list[str]]()
    wrong_values = {"auroc": 0.01, "loss": 0.5, "host_distance": 3.0, "technique": "lora-2", "job": "x"}
    for column, value in wrong_values.items():  # each in a run of its own
        others = ~pl.col(column).is_in([value]) & ~pl.col("run").is_in(list(differing))
        was = exported.runs.filter(pl.col(column).is_not_null() & others)["run"][-1]
        runs, differing[was] = altered(runs, was, **{column: value}), [column]
    write_export(Exported(runs, exported.correct), out, "parquet")
    wrong = study("verify", "--results", out, "--sample", count, "--json")
    assert wrong.code == 1 and any(name in wrong.err for name in differing)
    found = {each["run"]: each["columns_that_differ"] for each in wrong.json["runs"] if each["columns_that_differ"]}
    assert found == differing and len(differing) == len(wrong_values)


def altered(runs: pl.DataFrame, run: str, **values: object) -> pl.DataFrame:
    """The table with other values in one run's row."""
    here = pl.col("run") == run
    return runs.with_columns(
        pl.when(here).then(pl.lit(value, run_columns()[name])).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
    )


def test_verify_samples_by_its_seed(study: Run, exported: Exported, tmp_path: Path) -> None:
    write_export(exported, tmp_path, "parquet")
    picks = [
        [
            each["run"]
            for each in study("verify", "--results", tmp_path, "--sample", 2, "--seed", seed, "--json").json["runs"]
        ]
        for seed in (0, 0, 1)
    ]
    assert picks[0] == picks[1] != picks[2]
    for sample, results in ((10**6, tmp_path), (1, tmp_path / "nowhere")):
        told = study("verify", "--results", results, "--sample", sample)
        assert (told.code, told.err.count("\n")) == (2, 1)


def test_differences_counts_items_and_names_columns() -> None:
    def table(values: list[bool], **changed: object) -> Exported:
        row = {**dict.fromkeys(run_columns()), "run": "a", "accuracy": np.mean(values), "auroc": 0.5, **changed}
        return Exported(pl.DataFrame([row], schema=run_columns()), pl.DataFrame({"run": ["a"], "correct": [values]}))

    one, other = table([True, True, False, False]), table([True, False, True, True], auroc=0.6, job="b")
    assert run_differences(one, one, ["a"]) == [Verified("a", 0.0, 0)]
    assert run_differences(one, other, ["a"]) == [Verified("a", 0.25, 3, ("job", "accuracy", "auroc"))]
    assert run_differences(one, other, ["a"], tolerance=1) == [Verified("a", 0.25, 3, ("job",))]
    assert run_differences(one, table([True, True]), ["a"])[0].columns_that_differ == ("correct",)


def test_an_estimate_grows_with_the_work(study: Run) -> None:
    """Seconds, bytes and what it cannot know: hosts that are not here."""
    small = study("plan", "--calibrate", "--json").json["estimate"]
    assert small["worker_seconds"] > 0
    assert small["unknown"] == []
    module_bytes = (
        4 * 2 * 2 * (16 * 2 + 16 * 2)
    )  # one of the two techniques at least: LoRA of rank 2 on query and value
    assert small["disk_bytes"] > module_bytes
    unknown = study("plan", "--calibrate", "--set", 'pairs=[["nobody", "bert"]]', "--json").json["estimate"]
    assert unknown["unknown"] == ["nobody"]
    none = study("plan", "--calibrate", "--set", 'pairs=[["nobody", "noone"]]', "--json").json["estimate"]
    assert (none["worker_seconds"], none["disk_bytes"]) == (0.0, 0)


def test_the_plan_as_text(study: Run) -> None:
    told = study("plan")
    assert told.code == 0
    assert "32 runs" in told.out
    assert not told.err
    assert json.loads(study("plan", "--json").out)["runs"] == 32


def test_an_unknown_executor_is_refused(tiny: Path, peftport: Run, tmp_path: Path) -> None:
    told = peftport("study", "run", tiny, "--dir", tmp_path / "runs", "--executor", "threads")
    assert (told.code, "expected one of processes, ray" in told.err) == (2, True)
    assert not (tmp_path / "runs").exists()


@given(st.lists(st.text(alphabet="=+-@\t\r\n' a1,\"", max_size=5), min_size=1, max_size=8))
def test_no_cell_of_a_csv_file_begins_a_formula(words: list[str]) -> None:
    """Whatever a study calls its parts; numbers stay numbers; the apostrophe comes off again as the docs say."""
    frame = pl.DataFrame({"run": words, "loss": [-1.5] * len(words), "correct": [[True, False]] * len(words)})
    [head, *rows] = csv.reader(io.StringIO(_bytes(frame, "csv").decode(), newline=""))
    assert head == ["run", "loss", "correct"]
    assert [row[1:] for row in rows] == [["-1.5", "10"]] * len(words)
    assert not [row[0] for row in rows if row[0][:1] in tuple("=+-@\t\r\n")]
    assert [re.sub(r"^'(?='*[=+\-@\t\r\n])", "", row[0]) for row in rows] == words
