"""A ledger that was altered or damaged anywhere: told in one line, and repaired from what is left."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from safetensors.torch import save

from peftport.api.study import Study
from peftport.core.errors import BadRequest
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import FILE, Ledger
from peftport.store.salvage import salvage
from peftport.study import executors, work
from peftport.study.export import read_export
from peftport.study.packing import described
from pico_folders import Result, Run
from pico_study import Here, contents, plan_of, records, run_in
from study.altered import Change, sql

PAGE = 4096
READING = (("status",), ("export", "--out", "out"), ("report",))
EVERY = (*READING, ("run",))


@pytest.fixture
def study(peftport: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, undisturbed: Path) -> Run:
    """A study command on a copy of the tiny study at its end, worked on in this process."""
    monkeypatch.setattr(executors, "make_executor", lambda *_: Here())
    shutil.copytree(undisturbed, tmp_path / "runs")

    def run(command: str, *arguments: object) -> Result:
        given = [tmp_path / "out" if argument == "out" else argument for argument in arguments]
        return peftport("study", command, tiny, "--dir", tmp_path / "runs", *given)

    return run


def refused(told: Result) -> bool:
    """One line that names the ledger and the way out, and nothing else."""
    return (told.code, told.out, told.err.count("\n")) == (2, "", 1) and FILE in told.err and "study repair" in told.err


ALTERED = {
    "accuracy": "UPDATE jobs SET metrics = replace(metrics, '\"accuracy\": 0.5', '\"accuracy\": 0.975')",
    "loss": "UPDATE jobs SET metrics = replace(metrics, '\"loss\": 0', '\"loss\": 1')",
    "distance": "UPDATE jobs SET metrics = '{\"weights\": 2.5}' WHERE kind = 'distance'",
    "state": "UPDATE jobs SET state = 'failed' WHERE kind = 'bare'",
    "no state": "UPDATE jobs SET state = 'finished' WHERE kind = 'bare'",
    "artifact": "UPDATE jobs SET artifact = (SELECT artifact FROM jobs WHERE kind = 'bare') WHERE kind = 'chain'",
    "seconds": "UPDATE jobs SET seconds = seconds + 1",
    "no JSON": "UPDATE jobs SET metrics = substr(metrics, 3) WHERE kind = 'bare'",
    "no checksum": "UPDATE jobs SET checksum = NULL, metrics = replace(metrics, '0.5', '0.6')",
    "other inputs": "UPDATE jobs SET inputs = (SELECT max(id) FROM inputs) + 1 - inputs WHERE kind = 'bare'",
    "inputs": "UPDATE inputs SET content = replace(content, 'torch', 'touch')",
}


@pytest.mark.parametrize("name", ALTERED)
def test_what_was_altered_is_named_and_repaired(name: str, study: Run, tmp_path: Path, undisturbed: Path) -> None:
    """By every command that reads it; after a repair and another run all is as it was."""
    runs = tmp_path / "runs"
    sql(ALTERED[name])(runs)
    bad = (runs / FILE).read_bytes()
    for command in EVERY:
        told = study(*command)
        assert refused(told), (command, told)
    repaired = study("repair", "--json")
    assert repaired.code == 0, repaired
    assert Path(repaired.json["damaged"]).read_bytes() == bad
    assert study("run").code == 0
    assert contents(runs) == contents(undisturbed)
    assert study("repair", "--json").json["damaged"] is None


def test_facts_and_failures_are_held_too(study: Run, tmp_path: Path, tiny: Path) -> None:
    ledger = Ledger(tmp_path / "runs")
    ledger.set_fact("ran", {"machine": {"cores": "2"}})
    ledger.record([], [("a", 0, "ValueError: x")])
    ledger.close()
    assert study("status").code == 0
    shutil.copytree(tmp_path / "runs", tmp_path / "kept")
    for text in ("UPDATE facts SET value = replace(value, '2', '3')", "UPDATE failures SET error = 'none'"):
        sql(text)(tmp_path / "runs")
        assert refused(study("export", "--out", "out"))
        shutil.copyfile(tmp_path / "kept" / FILE, tmp_path / "runs" / FILE)


def test_numbers_of_an_older_ledger_are_held_to_their_items(
    study: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path
) -> None:
    """Version 0: no checksums, no inputs, artifacts that say nothing of themselves. It is read as ever, and held."""
    runs = tmp_path / "runs"
    shutil.rmtree(runs)
    with monkeypatch.context() as patch:
        patch.setattr(work, "pack", lambda tensors, kind, answers, more=None: save(dict(tensors), more))
        run_in(runs, plan_of(tiny))
    older(runs)
    measures = {job: row[3] for job, row in contents(undisturbed).items()}
    assert study("status").code == 0
    assert study("export", "--out", "out").code == 0
    assert study("run").code == 0
    assert {job: row[3] for job, row in contents(runs).items()} == measures
    sql("UPDATE jobs SET metrics = replace(metrics, '\"accuracy\": 0.5', '\"accuracy\": 0.975')")(runs)
    for command in READING[1:]:
        told = study(*command)
        assert refused(told) and "its items give accuracy 0.5 " in told.err
    assert study("repair", "--json").json["unsummed"] > 0
    assert study("run").code == 0
    assert {job: row[3] for job, row in contents(runs).items()} == measures
    assert study("export", "--out", "out").code == 0


def older(folder: Path) -> None:
    """Make a ledger one of version 0."""
    with closing(sqlite3.connect(folder / FILE)) as base:
        for table, column in (("jobs", "inputs"), *((name, "checksum") for name in ("jobs", "failures", "facts"))):
            base.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        base.execute("DROP TABLE inputs")
        base.execute("PRAGMA user_version = 0")
        base.commit()


def zeroed(page: int) -> Change:
    def change(folder: Path) -> None:
        data = bytearray((folder / FILE).read_bytes())
        begin = page % (len(data) // PAGE) * PAGE
        data[begin : begin + PAGE] = bytes(PAGE)
        (folder / FILE).write_bytes(data)

    return change


def cut(folder: Path) -> None:
    data = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(data[: len(data) * 2 // 3])


WRECKED: dict[str, Change] = {
    "first page": zeroed(0),
    "second page": zeroed(1),
    "a page": zeroed(random.Random(1).randrange(2, 10**6)),
    "another page": zeroed(random.Random(2).randrange(2, 10**6)),
    "last page": zeroed(-1),
    "cut off": cut,
    "emptied": lambda folder: (folder / FILE).write_bytes(b""),
    "another version": lambda folder: _version(folder, 7),
    "no ledger at all": lambda folder: (folder / FILE).write_bytes(b"x" * 5000),
}


def _version(folder: Path, version: int) -> None:
    with closing(sqlite3.connect(folder / FILE)) as base:
        base.execute(f"PRAGMA user_version = {version}")


@pytest.mark.parametrize("name", WRECKED)
def test_a_wrecked_ledger_is_told_and_repaired(
    name: str, study: Run, tiny: Path, tmp_path: Path, undisturbed: Path
) -> None:
    """What the artifacts hold is restored, not done again; the rest is; nothing is lost that could be read."""
    runs, jobs = tmp_path / "runs", plan_of(tiny).jobs
    before = records(runs)
    WRECKED[name](runs)
    for command in EVERY:
        told = study(*command)
        assert refused(told), (command, told)
    repaired = study("repair", "--json").json
    assert repaired["kept"] + repaired["restored"] + repaired["left"] == len(jobs)
    assert repaired["left"] <= sum(job.kind == "distance" for job in jobs.values())
    kept = records(runs)
    assert sum(before[job] == kept[job] for job in kept) >= repaired["kept"]
    ran = study("run", "--json")
    assert (ran.code, ran.json["done"]) == (0, repaired["left"])
    assert contents(runs) == contents(undisturbed)
    assert study("export", "--out", "out").code == 0


def test_a_flipped_byte_anywhere_changes_no_number(study: Run, tmp_path: Path) -> None:
    """Told in one line, or of no weight: never another table, never a traceback."""
    assert study("export", "--out", "out").code == 0
    right, rng = read_export(tmp_path / "out"), random.Random(3)
    whole = (tmp_path / "runs" / FILE).read_bytes()
    told = 0
    for _ in range(25):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (tmp_path / "runs" / FILE).write_bytes(data)
        found = study("export", "--out", "out")
        if found.code == 0:
            again = read_export(tmp_path / "out")
            assert again.runs.equals(right.runs) and again.correct.equals(right.correct)
        else:
            assert (found.code, found.out, found.err.count("\n")) == (2, "", 1), found
            told += 1
    assert told


def test_restored_rows_are_those_of_the_artifacts(study: Run, tmp_path: Path, undisturbed: Path) -> None:
    """With no ledger left: all but the times, which are said to be unknown."""
    (tmp_path / "runs" / FILE).unlink()
    repaired = study("repair", "--json").json
    assert (repaired["kept"], repaired["damaged"]) == (0, "")
    ours, theirs = contents(tmp_path / "runs"), contents(undisturbed)
    assert ours == {job: row for job, row in theirs.items() if row[2]}
    assert study("run").code == 0
    assert study("export", "--out", "out").code == 0
    runs = read_export(tmp_path / "out").runs
    assert runs["train_seconds"].null_count() == runs.height
    assert runs["accuracy"].null_count() == 0


def test_artifacts_say_whose_they_are(undisturbed: Path) -> None:
    for job, (kind, _, sha256, metrics) in contents(undisturbed).items():
        told = described(Artifacts(undisturbed / "artifacts").path(sha256)) if sha256 else None
        assert (told is None) == (kind == "distance")
        if told:
            assert (told.kind, told.metrics[job]) == (kind, metrics)


def test_a_whole_ledger_is_left_alone(study: Run, tmp_path: Path) -> None:
    before = (tmp_path / "runs" / FILE).read_bytes()
    told = study("repair")
    assert (told.code, "nothing was changed" in told.out) == (0, True)
    assert (tmp_path / "runs" / FILE).read_bytes() == before
    assert not [path for path in (tmp_path / "runs").iterdir() if "repair" in path.name or "damaged" in path.name]


def test_nothing_to_repair_is_refused(peftport: Run, tiny: Path, tmp_path: Path) -> None:
    told = peftport("study", "repair", tiny, "--dir", tmp_path / "nowhere")
    assert (told.code, told.err.count("\n"), "peftport study run" in told.err) == (2, 1, True)
    assert not (tmp_path / "nowhere").exists()


def test_salvage_steps_over_what_cannot_be_read(tmp_path: Path, undisturbed: Path) -> None:
    """A zeroed leaf costs the rows that are on it, and no others."""
    shutil.copyfile(undisturbed / FILE, tmp_path / FILE)
    with closing(sqlite3.connect(tmp_path / FILE)) as base:
        whole = base.execute("SELECT count(*) FROM jobs").fetchone()[0]
    assert len(salvage(tmp_path / FILE).rows) == whole
    lost = []
    for page in range(1, (tmp_path / FILE).stat().st_size // PAGE):
        shutil.copyfile(undisturbed / FILE, tmp_path / FILE)
        zeroed(page)(tmp_path)
        lost.append(whole - len(salvage(tmp_path / FILE).rows))
    assert 0 in lost
    assert sorted(lost)[len(lost) // 2] < whole / 4


def test_altered_tables_are_named(study: Run, peftport: Run, tiny: Path, tmp_path: Path) -> None:
    """By their sums, and without these by their items: report and verify say which run."""
    assert study("export", "--out", "out").code == 0
    out = tmp_path / "out"
    whole = read_export(out)
    name = whole.runs["run"][7]
    here = pl.col("run") == name
    flipped = pl.col("correct").list.eval(~pl.element())
    changes = {
        "runs": whole.runs.with_columns(accuracy=pl.when(here).then(0.975).otherwise(pl.col("accuracy"))),
        "correct": whole.correct.with_columns(correct=pl.when(here).then(flipped).otherwise(pl.col("correct"))),
        "no run": whole.runs.filter(~here),
        "no items": whole.correct.filter(~here),
        "twice": pl.concat([whole.runs, whole.runs.filter(here)]),
    }
    files = {"runs": "runs", "correct": "correct", "no run": "runs", "no items": "correct", "twice": "runs"}
    for kind, frame in changes.items():
        path = out / f"{files[kind]}.parquet"
        good, about = path.read_bytes(), (out / "study.json").read_text(encoding="utf-8")
        frame.write_parquet(path)
        for command in (("report", "--results", out), ("verify", "--results", out, "--sample", 1)):
            told = peftport("study", command[0], tiny, *command[1:])
            assert (told.code, told.out, told.err.count("\n")) == (1, "", 1), (kind, told)
            assert path.name in told.err and "study.json" in told.err
        (out / "study.json").unlink()
        told = peftport("study", "verify", tiny, "--results", out, "--sample", 1)
        assert (told.code, name in told.err) == (1, kind != "correct" or whole.runs.filter(here)["accuracy"][0] != 0.5)
        path.write_bytes(good)
        (out / "study.json").write_text(about, encoding="utf-8")
    assert peftport("study", "report", tiny, "--results", out).code == 0


def test_repair_from_python(study: Run, tiny: Path, tmp_path: Path, undisturbed: Path) -> None:
    zeroed(0)(tmp_path / "runs")
    mine = Study.from_file(tiny, dir=tmp_path / "runs")
    with pytest.raises(BadRequest, match="study repair"):
        mine.status()
    found = mine.repair()
    assert found.repairs.restored == len([row for row in contents(undisturbed).values() if row[2]])
    assert found.to_polars()["left"][0] == found.repairs.left
    assert str(found.repairs.damaged) in str(found)
    assert mine.status().counts["left"] == found.repairs.left
