"""Exported tables taken as done: nothing of them is done again but what later jobs need and no table holds."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from peftport.store.ledger import Ledger
from peftport.study import executors
from peftport.study.export import read_export
from peftport.study.messages import TrainJobsRequest
from peftport.study.table_rows import TABLE
from pico import pico_model
from pico_folders import Result, Run
from pico_study import TINY, Here, contents, plan_of, records, run_in
from study.conftest import forget
from study.exported import tables_of

MADE = """
[hosts.made]
base = "bert"
text = "reviews"
steps = 1
batch_size = 4
max_tokens = 16
head_warm_up_steps = 1
"""
SMALL = (
    TINY.replace('["bert", "bert-updated"], ["t5", "t5-updated"]', '["bert", "bert-updated"]')
    .replace('    { kind = "adapter", reduction_factor = 4 },\n', "")
    .replace(", adapter = 1e-2", "")
)
Study = Callable[..., Result]


class Worked:
    """What was worked on in this process, by id of job."""

    def __init__(self) -> None:
        self.executors: list[Here] = []

    def make(self, *_: object) -> Here:
        self.executors.append(Here())
        return self.executors[-1]

    def jobs(self) -> set[str]:
        """The jobs of the last call."""
        asked = self.executors[-1].done
        trained = {entry.job for each in asked if isinstance(each, TrainJobsRequest) for entry in each.entries}
        return trained | {each.job for each in asked if not isinstance(each, TrainJobsRequest)}


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> Worked:
    worked = Worked()
    monkeypatch.setattr(executors, "make_executor", worked.make)
    return worked


@pytest.fixture(scope="session")
def whole(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a part of the tiny study, with one technique and one pair of hosts, run in one go."""
    (home / "small.toml").write_text(SMALL, encoding="utf-8")
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        forget()
        run_in(folder, plan_of(Path("small.toml")))
    return folder


@pytest.fixture
def study(peftport: Run, tiny: Path, whole: Path, worked: Worked) -> Study:
    """A study command on the small study, worked on in this process."""

    def run(command: str, *arguments: object, file: str = "small.toml") -> Result:
        forget()
        return peftport("study", command, file, *arguments)

    return run


@pytest.fixture
def tables(study: Study, whole: Path, tmp_path: Path) -> Path:
    """What the study exports, items too."""
    assert study("export", "--dir", whole, "--out", tmp_path / "tables", "--items").code == 0
    return tmp_path / "tables"


@pytest.mark.parametrize("items", [True, False])
def test_all_that_is_exported_is_done(items: bool, study: Study, tables: Path, worked: Worked, tmp_path: Path) -> None:
    """Nothing is trained or tested; what is exported again is what was given, to the byte."""
    runs = len(list(plan_of(Path("small.toml")).runs()))
    if not items:
        (tables / "items.parquet").unlink()
    at = ("--dir", tmp_path / "runs")
    ran = study("run", *at, "--results", tables, "--json")
    assert (ran.code, ran.json["done"], ran.json["left"]) == (0, 0, 0), ran
    assert worked.jobs() == set()
    [said] = ran.json["remarks"]
    assert said == f"{tables}: {len(plan_of(Path('small.toml')).jobs)} jobs taken as done"
    assert study("export", *at, "--out", tmp_path / "again", *(["--items"] if items else [])).code == 0
    ours, theirs = tables_of(tmp_path / "again"), tables_of(tables)
    assert {name: ours[name] for name in ours if items or name != "study.json"} == {
        name: theirs[name] for name in theirs if name in ours and (items or name != "study.json")
    }
    told, was = (json.loads((each / "study.json").read_text()) for each in (tmp_path / "again", tables))
    assert {key: told[key] for key in ("majorities", "inputs", "made_by", "hosts")} == {
        key: was[key] for key in ("majorities", "inputs", "made_by", "hosts")
    }
    for command in ("status", "report"):
        assert study(command, *at).code == 0
    assert "nothing was changed" in study("repair", *at).out
    assert study("export", *at, "--out", tmp_path / "again", "--items").code == 0
    assert pl.read_parquet(tmp_path / "again" / "items.parquet")["scores"].null_count() == (0 if items else 8 * runs)
    assert study("verify", "--results", tmp_path / "again", "--sample", 2).code == 0
    before = records(tmp_path / "runs")
    assert study("run", *at, "--results", tables, "--json").json["done"] == 0
    assert records(tmp_path / "runs") == before


def test_a_study_that_grew_does_what_is_new(study: Study, worked: Worked, whole: Path, tmp_path: Path) -> None:
    """Seed 0 from its tables, seed 1 done here: the rows of seed 0 are the tables', all others those of one go."""
    first = ("--dir", tmp_path / "first", "--set", "seeds=[0]")
    assert study("run", *first).code == 0
    assert study("export", *first, "--out", tmp_path / "tables").code == 0
    at = ("--dir", tmp_path / "runs", "--results", tmp_path / "tables")
    begun = study("run", *at, "--max-jobs", 1, "--json")
    assert begun.code == 0 and worked.jobs()
    assert study("run", *at, "--json").code == 0
    plan, given = plan_of(Path("small.toml")), read_export(tmp_path / "tables").runs
    told = study("run", *at, "--json").json
    assert (told["done"], told["left"]) == (0, 0)
    assert study("export", "--dir", tmp_path / "runs", "--out", tmp_path / "out").code == 0
    ours, names = read_export(tmp_path / "out").runs, given["run"].to_list()
    assert ours["run"].to_list() == [run.name for run in plan.runs()] and set(ours["state"]) == {"done"}
    kept = ours.filter(pl.col("run").is_in(names)).sort("run")
    assert kept.drop("train_seconds").equals(given.sort("run").drop("train_seconds"))
    theirs_of, found = contents(whole), contents(tmp_path / "runs")
    for run in plan.runs():
        if run.seed == 1:
            tests, theirs = (each[plan.job_of(run)][3]["tests"][str(run.budget)] for each in (found, theirs_of))
            assert tests["log_loss"] == pytest.approx(theirs["log_loss"], rel=1e-4)


def test_what_later_jobs_need_of_a_table_is_made_again(
    study: Study, worked: Worked, whole: Path, tables: Path, tmp_path: Path
) -> None:
    """Another sampler needs the origins' matrices, which no table holds: the origins are trained again, and said."""
    more = ("--dir", tmp_path / "runs", "--set", 'samplers=["gaussian","permutation"]', "--results", tables)
    small = Path("small.toml")
    plan = plan_of(small, samplers='["gaussian","permutation"]')
    new = plan.jobs.keys() - plan_of(small).jobs.keys()
    origins = {need for job in new for need in plan.jobs[job].needs}
    ran = study("run", *more, "--json")
    assert ran.code == 0, ran
    assert new and origins and worked.jobs() == new | origins
    assert set(ran.json["recomputed"]) == origins
    known, found = contents(whole), contents(tmp_path / "runs")
    assert {state for _, state, _, _ in found.values()} == {"done"} and found.keys() == plan.jobs.keys()
    assert {job: found[job][3] for job in origins} == {job: known[job][3] for job in origins}
    assert study("run", *more, "--json").json["done"] == 0
    lone = study("run", "--dir", tmp_path / "lone", "--set", 'samplers=["gaussian","permutation"]')
    assert lone.code == 0
    for job in new:
        ours, theirs = found[job][3]["tests"], contents(tmp_path / "lone")[job][3]["tests"]
        assert ours["2"]["log_loss"] == pytest.approx(theirs["2"]["log_loss"], rel=1e-4)


def test_only_whole_jobs_of_an_unfinished_study_are_taken(study: Study, worked: Worked, tmp_path: Path) -> None:
    """What was pending in the tables, and jobs of which they have only some budgets, are done here."""
    half = ("--dir", tmp_path / "half")
    assert study("run", *half, "--max-jobs", 8).code == 0
    done = {job for job, row in contents(tmp_path / "half").items() if row[1] == "done"}
    assert study("export", *half, "--only", "budget=0", "--out", tmp_path / "zero").code == 0
    assert study("export", *half, "--out", tmp_path / "tables").code == 0
    plan = plan_of(Path("small.toml"))
    zero = study("run", "--dir", tmp_path / "a", "--results", tmp_path / "zero", "--max-jobs", 1, "--json")
    assert zero.code == 0
    taken = on_record(tmp_path / "a")
    assert taken and all(getattr(plan.jobs[job], "budgets", (0,)) != (0, 2) for job in taken)
    ran = study("run", "--dir", tmp_path / "b", "--results", tmp_path / "tables", "--json")
    assert (ran.code, ran.json["left"]) == (0, 0)
    answering = {plan.job_of(run) for run in plan.runs()}
    assert not worked.jobs() & done & answering
    assert {job for job in done & answering if job in on_record(tmp_path / "b")} == done & answering
    assert contents(tmp_path / "b").keys() == plan.jobs.keys()


def on_record(folder: Path) -> set[str]:
    """The jobs that were taken from tables."""
    ledger = Ledger(folder)
    try:
        return set(ledger.jobs_with(TABLE)) | {row.id for row in ledger.rows() if row.kind == "distance"}
    finally:
        ledger.close()


def test_a_host_that_the_study_makes(study: Study, worked: Worked, home: Path, tmp_path: Path) -> None:
    """Its tests are taken without it; where a new job needs it, it is made again."""
    text = (home / "small.toml").read_text(encoding="utf-8").replace('["bert", "bert-updated"]', '["bert", "made"]')
    (home / "made-taken.toml").write_text(text + MADE, encoding="utf-8")
    file = "made-taken.toml"
    assert study("run", "--dir", tmp_path / "whole", file=file).code == 0
    assert study("export", "--dir", tmp_path / "whole", "--out", tmp_path / "tables", "--items", file=file).code == 0
    at = ("--dir", tmp_path / "runs", "--results", tmp_path / "tables")
    ran = study("run", *at, "--json", file=file)
    assert (ran.code, ran.json["done"], worked.jobs()) == (0, 0, set())
    assert study("export", "--dir", tmp_path / "runs", "--out", tmp_path / "again", "--items", file=file).code == 0
    assert tables_of(tmp_path / "again") == tables_of(tmp_path / "tables")
    assert json.loads((tmp_path / "again" / "study.json").read_text())["updates"]
    more = study("run", *at, "--set", 'samplers=["gaussian","norm_matched"]', "--json", file=file)
    assert (more.code, more.json["left"]) == (0, 0)
    assert {row[0] for job, row in contents(tmp_path / "runs").items() if job in worked.jobs()} == {"update", "chain"}


def other_weights(home: Path) -> None:
    pico_model("bert", view="body", seed=7).save_pretrained(home / "bert-updated")


def other_text(home: Path) -> None:
    lines = (home / "reviews.csv").read_text(encoding="utf-8").splitlines()
    lines[1] = " ".join(lines[1].split()[1:])
    (home / "reviews.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(("change", "says"), [(other_weights, "host bert-updated"), (other_text, "task reviews")])
def test_tables_of_other_inputs_are_refused(
    change: Callable[[Path], None], says: str, study: Study, home: Path, tables: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    change(tmp_path / "home")
    told = study("run", "--dir", tmp_path / "runs", "--results", tables)
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1), told
    assert f"{says} has changed" in told.err and str(tables) in told.err
    assert contents(tmp_path / "runs") == {}


def test_tables_that_are_none_or_disagree_are_refused(study: Study, tables: Path, tmp_path: Path) -> None:
    """Nothing is recorded, not even of the folder that is right."""
    at = ("--dir", tmp_path / "runs", "--results", tables)
    other = shutil.copytree(tables, tmp_path / "other")
    runs = pl.read_parquet(other / "runs.parquet")
    altered = runs.with_columns(loss=pl.when(pl.col("arm") == "ceiling").then(9.0).otherwise(pl.col("loss")))
    altered.write_parquet(other / "runs.parquet")
    told = study("run", *at, "--results", other)
    assert (told.code, told.err.count("\n"), "runs.parquet" in told.err) == (2, 1, True)
    about = json.loads((other / "study.json").read_text())
    about["tables"]["runs.parquet"] = hashlib.sha256((other / "runs.parquet").read_bytes()).hexdigest()
    (other / "study.json").write_text(json.dumps(about))
    told = study("run", *at, "--results", other)
    assert (told.code, told.err.count("\n"), " loss: " in told.err) == (2, 1, True), told
    assert contents(tmp_path / "runs") == {}
    for folder, says in ((tmp_path / "nowhere", "runs.parquet"), (tmp_path, "runs.parquet")):
        told = study("run", "--dir", tmp_path / "runs", "--results", folder)
        assert (told.code, says in told.err) == (2, True)
    told = study("run", *at, "--set", "testing.items=7", "--set", "pairs=[['t5','t5-updated']]")
    assert (told.code, told.err.count("\n"), "none of its jobs" in told.err) == (2, 1, True), told
    assert study("run", *at, "--max-jobs", 1).code == 0
    told = study("run", "--dir", tmp_path / "runs", "--results", other, "--json")
    [said] = told.json["remarks"]
    assert "0 jobs taken as done; " in said and "jobs on record, first " in said and "have other numbers" in said


def test_a_run_that_tables_lack_is_pending_and_done_later(study: Study, tables: Path, tmp_path: Path) -> None:
    """An origin that was only needed has a row without tests; a grid in which it answers a run asks for its test."""
    arms = ("--set", 'arms=["ported","sampled"]')
    small = ("--dir", tmp_path / "small", *arms, "--set", 'pairs=[["bert","bert-updated"]]')
    assert study("run", *small).code == 0
    assert study("export", *small, "--out", tmp_path / "tables-small").code == 0
    both = ("--dir", tmp_path / "runs", *arms, "--set", 'pairs=[["bert","bert-updated"],["bert-updated","bert"]]')
    one = ("--dir", tmp_path / "runs", *arms, "--set", 'pairs=[["bert","bert-updated"]]')
    assert study("run", *one, "--results", tmp_path / "tables-small", "--json").json["done"] == 0
    assert study("export", *both, "--out", tmp_path / "out").code == 0
    ceilings = read_export(tmp_path / "out").runs.filter(arm="ceiling", receiver="bert")
    assert set(ceilings["state"]) == {"pending"} and ceilings["accuracy"].null_count() == ceilings.height > 0
    assert study("run", *both).code == 0
    assert study("export", *both, "--out", tmp_path / "out").code == 0
    assert set(read_export(tmp_path / "out").runs["state"]) == {"done"}
