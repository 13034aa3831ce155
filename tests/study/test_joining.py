"""Parts of a study joined again: the undivided study to the byte, and whatever is wrong with a part is told."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftport.api import Study
from peftport.core.errors import BadRequest
from peftport.core.hashing import digest
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import FILE, Ledger
from peftport.study import executors, inputs
from peftport.study.commands import JoinRequest
from peftport.study.export import read_export
from peftport.study.joining import join_studies
from peftport.study.shards import divide
from pico_folders import Run
from pico_study import Here, contents, files, plan_of, records
from study.altered import Change, sql
from study.conftest import forget
from study.exported import tables_of

COUNT = 3


@pytest.fixture(scope="session")
def parts(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shards ``1``, ``2``, ``3``, the ``whole``, and what each exports, ``NAME-tables``."""
    place = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(executors, "make_executor", lambda *_: Here())
        for name in (*map(str, range(1, COUNT + 1)), "whole"):
            forget()
            shard = None if name == "whole" else f"{name}/{COUNT}"
            study = Study.from_file("tiny.toml", dir=place / name, shard=shard)
            assert study.run().failure() is None
            study.export(place / f"{name}-tables", items=True)
    return place


@pytest.fixture
def study(peftport: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A study command, worked on in this process."""
    monkeypatch.setattr(executors, "make_executor", lambda *_: Here())
    return lambda *arguments: peftport("study", *arguments)


def shards(parts: Path, tables: bool = False) -> list[Path]:
    return [parts / f"{number}{'-tables' if tables else ''}" for number in range(1, COUNT + 1)]


def test_shards_run_apart_and_joined_equal_the_undivided_study(study: Run, parts: Path, tmp_path: Path) -> None:
    """Every row, every artifact and every table, byte for byte; and nothing is left for a run."""
    told = study("merge", tmp_path / "out", *shards(parts), "--json")
    assert told.code == 0, told
    assert contents(tmp_path / "out") == contents(parts / "whole")
    assert files(tmp_path / "out") == files(parts / "whole")
    jobs = len(contents(parts / "whole"))
    assert (told.json["done"], told.json["left"], told.json["missing"], told.json["remarks"]) == (jobs, 0, [], [])
    assert told.json["shared"] == sum(len(contents(part)) for part in shards(parts)) - jobs > 0
    at = ("tiny.toml", "--dir", tmp_path / "out")
    assert study("export", *at, "--out", tmp_path / "tables", "--items").code == 0
    assert tables_of(tmp_path / "tables") == tables_of(parts / "whole-tables")
    assert study("status", *at, "--json").json["left"] == 0
    assert "nothing was changed" in study("repair", *at).out
    assert study("report", *at).code == 0
    assert study("verify", "tiny.toml", "--results", tmp_path / "tables", "--sample", 1).code == 0
    before = records(tmp_path / "out")
    assert study("run", *at, "--json").json["done"] == 0
    assert records(tmp_path / "out") == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", "tables"}


def test_exported_shards_joined_give_the_tables_of_the_undivided_study(study: Run, parts: Path, tmp_path: Path) -> None:
    """Without a ledger or an artifact: what tables hold comes out of the new folder as it went in."""
    told = study("merge", tmp_path / "out", *shards(parts, tables=True), "--json")
    assert (told.code, told.json["missing"]) == (0, []), told
    assert study("export", "tiny.toml", "--dir", tmp_path / "out", "--out", tmp_path / "tables", "--items").code == 0
    assert tables_of(tmp_path / "tables") == tables_of(parts / "whole-tables")
    again = study("run", "tiny.toml", "--dir", tmp_path / "out", "--json").json
    assert (again["done"], again["left"]) == (0, 0)


@settings(max_examples=4, deadline=None)
@given(st.permutations([f"{number}{kind}" for number in "123" for kind in ("", "-tables")]), st.integers(1, 6))
def test_parts_in_any_order_and_number(
    parts: Path, tmp_path_factory: pytest.TempPathFactory, names: list[str], count: int
) -> None:
    """Folders and tables, mixed: what any has is in the new one, from a folder if one has it; the rest is missing."""
    out, names = tmp_path_factory.mktemp("drawn") / "out", names[:count]
    joined = join_studies(JoinRequest(out, [parts / name for name in names]))
    whole, found = contents(parts / "whole"), contents(out)
    numbers = {name[0] for name in names}
    in_folders = set().union(*(contents(parts / name) for name in names if "-" not in name))
    assert {job: found[job] for job in in_folders} == {job: whole[job] for job in in_folders}
    tests = {job: row[3]["tests"] for job, row in found.items() if "tests" in row[3]}
    assert tests == {job: whole[job][3]["tests"] for job in tests}
    assert joined.states == {"done": len(found), "failed": 0, "blocked": 0, "left": len(whole) - len(found)}
    assert {line.split()[1] for line in joined.shards} == {f"{number}/3" for number in set("123") - numbers}
    assert bool(joined.missing) == (len(numbers) < COUNT)


def test_a_missing_shard_is_named_and_the_rest_can_be_run(study: Run, parts: Path, tmp_path: Path) -> None:
    """Exit code 1; the new folder has the rest, and another run in it ends as the undivided study, to the byte."""
    told = study("merge", tmp_path / "out", parts / "1", parts / "3")
    assert told.code == 1
    plan = plan_of(Path("tiny.toml"))
    lacking = sum(plan.job_of(run) not in contents(tmp_path / "out") for run in plan.runs())
    assert f"{lacking} runs are missing, shard 2/3 is not there: {lacking} of its " in told.err
    assert "shard 2/3 is not there" in told.out and "missing: " in told.out and "peftport study run" in told.err
    assert study("run", "tiny.toml", "--dir", tmp_path / "out").code == 0
    assert contents(tmp_path / "out") == contents(parts / "whole")
    assert files(tmp_path / "out") == files(parts / "whole")


def test_a_shard_that_is_not_complete_is_named(study: Run, parts: Path, tmp_path: Path) -> None:
    assert study("run", "tiny.toml", "--dir", tmp_path / "2", "--shard", "2/3", "--max-jobs", 1).code == 0
    told = study("merge", tmp_path / "out", parts / "1", tmp_path / "2", parts / "3", "--json")
    assert told.code == 1
    [line] = told.json["shards"]
    assert line.startswith("shard 2/3 is not complete: ")


def test_a_doubled_shard_is_told_and_counts_once(study: Run, parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts / "2", tmp_path / "again")
    told = study("merge", tmp_path / "out", *shards(parts), tmp_path / "again", parts / "1-tables")
    assert told.code == 0
    jobs = len(contents(parts / "2"))
    assert f"{tmp_path / 'again'} adds nothing: other folders have all of its {jobs} jobs" in told.err
    assert f"{parts / '1-tables'} adds nothing" in told.err
    assert contents(tmp_path / "out") == contents(parts / "whole")
    twice = study("merge", tmp_path / "other", parts / "1", parts / "1")
    assert (twice.code, twice.err.count("\n"), "each folder once" in twice.err) == (2, 1, True)


def artifact(change: Callable[[Path], object]) -> Change:
    return lambda folder: (change(sorted((folder / "artifacts").glob("*/*"))[1]), None)[1]


def byte_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def other_numbers(folder: Path) -> None:
    """A shared row altered with its checksum and without its artifact: only the other shard tells it."""
    ledger = Ledger(folder)
    row = next(row for row in ledger.rows() if row.kind == "distance")
    ledger.record([type(row)(row.id, row.kind, row.state, 0, None, {"weights": 9.0}, None, 1.0, row.inputs)])
    ledger.close()


def recorded_otherwise(key: str) -> Change:
    """Inputs of jobs replaced with all that hangs on them."""

    def change(folder: Path) -> None:
        ledger = Ledger(folder)
        rows, sets = list(ledger.rows()), ledger.inputs()
        for row in rows:
            own = sets[row.inputs or ""]
            if row.kind != "distance" or key not in own:
                continue
            other = {**own, key: {**own[key], "weights": "0" * 64, "torch": "0.1"}}
            ledger.record(
                [type(row)(row.id, row.kind, row.state, 0, None, row.metrics, None, 1.0, digest(other))],
                (),
                {digest(other): other},
            )
        ledger.close()

    return change


TAMPERED: dict[str, tuple[Change, str]] = {
    "row": (sql("UPDATE jobs SET metrics = replace(metrics, '0.5', '0.6') WHERE kind = 'chain'"), "study repair"),
    "seconds": (sql("UPDATE jobs SET seconds = seconds + 1"), "study repair"),
    "artifact": (artifact(byte_flipped), "missing or corrupt"),
    "no artifact": (artifact(Path.unlink), "missing or corrupt"),
    "no ledger": (lambda folder: (folder / FILE).unlink(), "found neither ledger.sqlite"),
    "numbers": (other_numbers, "(distance) differs in weights: 9.0 there, "),
    "host": (recorded_otherwise("host bert"), "got another host bert: "),
    "libraries": (recorded_otherwise("versions"), "torch was "),
    "no study": (sql("DELETE FROM facts WHERE key = 'study'"), "found none; run it once more"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_tampered_with_is_told_and_nothing_is_written(
    name: str, study: Run, parts: Path, tmp_path: Path
) -> None:
    change, says = TAMPERED[name]
    shutil.copytree(parts / "1", tmp_path / "1")
    change(tmp_path / "1")
    told = study("merge", tmp_path / "out", tmp_path / "1", parts / "2", parts / "3")
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1), told
    assert says in told.err and str(tmp_path / "1") in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_tampered_tables_are_told(study: Run, parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts / "1-tables", tmp_path / "1")
    runs = pl.read_parquet(tmp_path / "1" / "runs.parquet")
    runs.with_columns(pl.col("loss") + 1).write_parquet(tmp_path / "1" / "runs.parquet")
    told = study("merge", tmp_path / "out", tmp_path / "1", parts / "2", parts / "3")
    assert (told.code, told.out, told.err.count("\n"), "runs.parquet" in told.err) == (2, "", 1, True)
    about = tmp_path / "1" / "study.json"
    told_of = json.loads(about.read_text(encoding="utf-8"))
    told_of["tables"]["runs.parquet"] = hashlib.sha256((tmp_path / "1" / "runs.parquet").read_bytes()).hexdigest()
    about.write_text(json.dumps(told_of), encoding="utf-8")
    told = study("merge", tmp_path / "out", tmp_path / "1", parts / "1")  # with its sum: only the ledger tells it
    assert (told.code, told.err.count("\n"), " differs in tests " in told.err) == (2, 1, True), told
    about.write_text(json.dumps({key: value for key, value in told_of.items() if key != "inputs"}), encoding="utf-8")
    told = study("merge", tmp_path / "out", tmp_path / "1", parts / "2")
    assert (told.code, "early version" in told.err) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "says"),
    [("seeds=[0,1,2]", "seeds differs: [0, 1] there, [0, 1, 2] here"), ("testing.items=7", "testing differs")],
)
def test_a_part_of_another_study_is_told(setting: str, says: str, study: Run, parts: Path, tmp_path: Path) -> None:
    other = ("tiny.toml", "--dir", tmp_path / "other", "--set", setting)
    assert study("run", *other, "--max-jobs", 1).code == 0
    told = study("merge", tmp_path / "out", parts / "1", tmp_path / "other")
    assert (told.code, told.err.count("\n"), says in told.err) == (2, 1, True), told
    assert not (tmp_path / "out").exists()


def test_settings_that_change_no_job_may_differ(study: Run, parts: Path, tmp_path: Path) -> None:
    """Other stacks: the same jobs, which are equal up to rounding; where they are to the bit, they are joined."""
    other = ("tiny.toml", "--dir", tmp_path / "other", "--set", "execution.retries=5", "--set", "testing.metric=auroc")
    assert study("run", *other, "--shard", "2/3").code == 0
    assert study("merge", tmp_path / "out", parts / "1", tmp_path / "other", parts / "3").code == 0
    assert contents(tmp_path / "out") == contents(parts / "whole")


def test_a_folder_in_use_is_refused(study: Run, parts: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("x")
    for out in (tmp_path / "out", tmp_path / "out" / "x", parts / "1"):
        told = study("merge", out, parts / "1", parts / "2")
        assert (told.code, told.err.count("\n"), "choose another" in told.err) == (2, 1, True)
    assert (tmp_path / "out" / "x").read_text() == "x"


def test_other_libraries_are_joined_if_that_is_accepted(
    study: Run, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = inputs.installed_versions()
    with monkeypatch.context() as patched:
        patched.setattr(inputs, "installed_versions", lambda: {**now, "scipy": "0.1", "python": "9"})
        forget()
        assert study("run", "tiny.toml", "--dir", tmp_path / "2", "--shard", "2/3").code == 0
    command = ("merge", tmp_path / "out", parts / "1", tmp_path / "2", parts / "3")
    told = study(*command)
    assert (told.code, f"scipy was {now['scipy']}, is 0.1" in told.err, "python was" in told.err) == (2, True, False)
    assert study(*command, "--accept-versions").code == 0
    ours, theirs = contents(tmp_path / "out"), contents(parts / "whole")
    assert {job: row[3] for job, row in ours.items()} == {job: row[3] for job, row in theirs.items()}
    assert study("export", "tiny.toml", "--dir", tmp_path / "out", "--out", tmp_path / "tables").code == 0
    assert len(json.loads((tmp_path / "tables" / "study.json").read_text())["made_by"]) == 2


@pytest.mark.parametrize("killed", [False, True])
def test_a_merge_that_is_stopped_leaves_no_folder(
    killed: bool, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-C, or killed in a process of its own; the same call afterwards is as if nothing had been."""
    put, calls = Artifacts.put, 0

    def stopped(self: Artifacts, data: bytes) -> str:
        nonlocal calls
        calls += 1
        if calls == 5 and killed:
            os.kill(os.getpid(), signal.SIGKILL)
        if calls == 5:
            raise KeyboardInterrupt
        return put(self, data)

    request = JoinRequest(tmp_path / "out", shards(parts))
    with monkeypatch.context() as patched:
        patched.setattr(Artifacts, "put", stopped)
        if killed:
            child = os.fork()
            if not child:
                try:
                    join_studies(request)
                finally:
                    os._exit(1)  # it was not killed
            assert os.waitpid(child, 0)[1] == signal.SIGKILL
            assert [path.name.startswith(".out.") for path in tmp_path.iterdir()] == [True]
        else:
            with pytest.raises(KeyboardInterrupt):
                join_studies(request)
            assert list(tmp_path.iterdir()) == []
    join_studies(request)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert contents(tmp_path / "out") == contents(parts / "whole")


def test_failed_jobs_are_joined_and_a_done_one_counts_more(study: Run, parts: Path, tmp_path: Path) -> None:
    """Where one folder has a job done and another failed it, it is done; the failed attempts stay on record."""
    wild = ("--set", "training.learning_rates.lora-2=1e38", "--set", "execution.retries=0")
    for number in (1, 2):
        study("run", "tiny.toml", "--dir", tmp_path / str(number), "--shard", f"{number}/2", *wild)
    told = study("merge", tmp_path / "out", tmp_path / "1", tmp_path / "2", "--json")
    assert told.code == 1 and "--retry-failed" in told.err
    assert told.json["failed"] > 0 and told.json["missing"] == []
    states = {state for _, state, _, _ in contents(tmp_path / "out").values()}
    assert states == {"done", "failed", "blocked"}


def test_merge_in_python(parts: Path, tmp_path: Path) -> None:
    joined = Study.merge(tmp_path / "out", shards(parts))
    assert joined.counts["done"] == len(contents(parts / "whole")) and not joined.failure()
    assert joined.to_polars()["new"].sum() == len(contents(parts / "whole"))
    with pytest.raises(BadRequest, match="choose another"):
        Study.merge(tmp_path / "out", shards(parts))


def test_an_empty_shard_is_a_shard(study: Run, parts: Path, tmp_path: Path) -> None:
    """Of more shards than there are stacks some have nothing to do, which is no error in a job array."""
    plan = plan_of(Path("tiny.toml"))
    count = len(plan.stacks) + 1
    empty = next(number for number, runs in enumerate(divide(plan, count).runs, 1) if not runs)
    at = ("tiny.toml", "--dir", tmp_path / "empty", "--shard", f"{empty}/{count}")
    ran = study("run", *at, "--json")
    assert (ran.code, ran.json["done"], ran.json["left"]) == (0, 0, 0)
    assert study("status", *at, "--json").json["jobs"] == 0
    assert study("export", *at, "--out", tmp_path / "tables").code == 0
    assert read_export(tmp_path / "tables").runs.height == 0
    assert study("merge", tmp_path / "out", parts / "whole", tmp_path / "empty").code == 0
