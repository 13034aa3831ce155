"""Failure is data: a row with its traceback, tried again as configured; what needs it is marked, the rest goes on."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from peftport.core.errors import PeftportError, TrainingFailed
from peftport.store import artifacts as store
from peftport.store.ledger import FILE, Ledger, only_driver
from peftport.study import executors
from peftport.study.inputs import open_task
from peftport.study.jobs import PortedStart, TrainJob
from peftport.study.messages import Request, TrainJobsRequest, told
from peftport.study.plan import Plan
from peftport.study.run import Limits
from peftport.study.work import _open_bound_task
from peftport.training.bound_task import BoundTask
from pico import pico_model
from pico_folders import Result, Run
from pico_study import Here, contents, files, plan_of, records, run_in

WILD = ("--set", "training.learning_rates.lora-2=1e38")


@pytest.fixture
def study(peftport: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A study command on the tiny study, worked on in this process."""
    monkeypatch.setattr(executors, "make_executor", lambda *_: Here())

    def run(command: str, *arguments: object) -> Result:
        return peftport("study", command, tiny, "--dir", tmp_path / "runs", *arguments)

    return run


def test_a_technique_that_diverges(study: Run, tiny: Path, tmp_path: Path, undisturbed: Path) -> None:
    """Its chains fail, what starts from them is blocked, everything else is as ever; exit code 1, each time."""
    ran = study("run", *WILD, "--json")
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    plan = plan_of(tiny, **{"training__learning_rates__lora-2": "1e38"})
    chains = [j for j in plan.jobs.values() if isinstance(j, TrainJob) and j.technique.name == "lora-2"]
    bad = {job.id for job in chains if not isinstance(job.start, PortedStart)}
    blocked = {job.id for job in chains} - bad
    assert (ran.json["failed"], ran.json["blocked"], ran.json["left"]) == (len(bad), len(blocked), 0)
    assert {job for job, (_, state, _, _) in contents(tmp_path / "runs").items() if state == "failed"} == bad
    assert {job for job, (_, state, _, _) in contents(tmp_path / "runs").items() if state == "blocked"} == blocked

    ledger = Ledger(tmp_path / "runs")
    for job in bad:
        row = ledger.row(job)
        assert row is not None and row.error is not None and row.attempt == 1
        assert row.error.startswith("TrainingFailed: entry 0")
        assert "Traceback (most recent call last)" in row.error
    assert sorted((job, attempt) for job, attempt, _, _ in ledger.failures()) == sorted(
        (job, attempt) for job in bad for attempt in (0, 1)
    )
    ledger.close()

    good = {job: row for job, row in contents(tmp_path / "runs").items() if row[1] == "done"}
    assert good.items() <= contents(undisturbed).items()
    status = study("status", *WILD, "--json")
    assert status.code == 0
    assert {key: status.json[key] for key in ("done", "failed", "blocked", "left")} == {
        "done": len(good), "failed": len(bad), "blocked": len(blocked), "left": 0,
    }  # fmt: skip
    assert {failure["job"] for failure in status.json["failures"]} == bad

    before = records(tmp_path / "runs")
    assert study("run", *WILD).code == 1, "what failed before is still not done"
    assert records(tmp_path / "runs") == before
    again = study("run", *WILD, "--retry-failed", "--json")
    assert (again.code, again.json["failed"], again.json["before"]) == (1, len(bad), len(good))


def test_one_entry_of_a_stack_fails_alone(
    tiny: Path, tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others come through; when the cause is gone, --retry-failed brings what is missing."""
    plan = plan_of(tiny)
    with monkeypatch.context() as patch:
        patch.setattr(BoundTask, "train", picky(BoundTask.train))
        summary = run_in(tmp_path, plan)
    bad = {job for job, (_, state, _, _) in contents(tmp_path).items() if state != "done"}
    assert bad == {job.id for job in plan.jobs.values() if isinstance(job, TrainJob) and job.seed == 1}
    assert (summary.failed, summary.blocked) == (8, 8)
    before = records(tmp_path)
    summary = run_in(tmp_path, plan, retry_failed=True)
    assert (summary.done, summary.failed) == (16, 0)
    assert {job: row for job, row in before.items() if job not in bad}.items() <= records(tmp_path).items()
    assert measures(tmp_path) == measures(undisturbed)


def test_a_host_that_cannot_be_had(peftport: Run, tiny: Path, tmp_path: Path) -> None:
    """It is said before anything begins: one line, exit code 2, nothing written."""
    for place in ("nowhere", "./nowhere"):
        text = tiny.read_text(encoding="utf-8").replace('"t5-updated"', f'"{place}"')
        assert place in text
        (tmp_path / "gone.toml").write_text(text, encoding="utf-8")
        ran = peftport("study", "run", tmp_path / "gone.toml", "--dir", tmp_path / "runs")
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert f"unknown host '{place}'" in ran.err
        assert not (tmp_path / "runs").exists()


def picky(train: Any) -> Any:
    """Training that fails whenever seed 1 is in the stack."""

    def run(bound_task: BoundTask, spec: Any, starts: Any, *more: Any) -> Any:
        if any(start.seed == 1 for start in starts):
            raise TrainingFailed("entry 0: not today")
        return train(bound_task, spec, starts, *more)

    return run


def measures(folder: Path) -> dict[str, Any]:
    """Accuracies by job and budget."""
    return {
        job: {budget: test["accuracy"] for budget, test in metrics.get("tests", {}).items()}
        for job, (_, _, _, metrics) in contents(folder).items()
    }


class Failing(Here):
    """Raises at chosen stacks of chains, the first ``times`` times."""

    def __init__(self, error: BaseException, times: int) -> None:
        super().__init__()
        self.error, self.times, self.asked = error, times, 0

    def work(self, request: Request, blobs: Mapping[str, Path]) -> Any:
        if isinstance(request, TrainJobsRequest) and self.asked < self.times:
            self.asked += 1
            raise self.error
        return super().work(request, blobs)


@pytest.mark.parametrize("error", [MemoryError("no room"), OSError(errno.EIO, "bad disk"), ValueError()])
def test_a_worker_that_raises_is_tried_again(error: Exception, tiny: Path, tmp_path: Path, undisturbed: Path) -> None:
    summary = run_in(tmp_path, plan_of(tiny), Failing(error, 1))
    assert (summary.failed, summary.blocked, summary.left) == (0, 0, 0)
    ledger = Ledger(tmp_path)
    failures = ledger.failures()
    ledger.close()
    assert len(failures) == 2
    assert all(said.startswith(f"{type(error).__name__}: ") and "Traceback" in said for _, _, said, _ in failures)
    assert measures(tmp_path) == measures(undisturbed)


def test_retries_are_as_configured(tiny: Path, tmp_path: Path) -> None:
    executor = Failing(ValueError("never"), 10**6)
    run_in(tmp_path, plan_of(tiny, execution__retries="3"), executor)
    by_job: dict[str, list[int]] = {}
    ledger = Ledger(tmp_path)
    for job, attempt, _, _ in ledger.failures():
        by_job.setdefault(job, []).append(attempt)
    ledger.close()
    assert by_job
    assert all(attempts == [0, 1, 2, 3] for attempts in by_job.values())


def test_a_worker_that_is_lost_does_its_stack_again(tiny: Path, tmp_path: Path, undisturbed: Path) -> None:
    """In the same company, so that the bytes are the same."""
    run_in(tmp_path, plan_of(tiny), Failing(executors.WorkerLost("gone"), 1))
    assert contents(tmp_path) == contents(undisturbed)
    assert files(tmp_path) == files(undisturbed)


def test_an_old_failure_beside_a_lost_artifact(
    tiny: Path, tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stack of which one job failed long ago and another's bytes are gone: the one is company, the other is done."""
    monkeypatch.setattr(BoundTask, "train", picky(BoundTask.train))
    plan = plan_of(tiny)
    run_in(tmp_path, plan)
    before = contents(tmp_path)
    stacks = [{job.id: before[job.id][1] for job in stack.jobs} for stack in plan.stacks]
    mixed = next(states for states in stacks if set(states.values()) == {"done", "failed"})
    lost = next(job for job, state in mixed.items() if state == "done")
    lose(tmp_path, lost)
    summary = run_in(tmp_path, plan)
    assert lost in summary.recomputed
    assert summary.failed_before == 16
    assert contents(tmp_path) == before
    assert measures(tmp_path).items() >= {lost: measures(undisturbed)[lost]}.items()


def lose(folder: Path, job: str) -> Path:
    ledger = Ledger(folder)
    row = ledger.row(job)
    ledger.close()
    assert row is not None and row.artifact is not None
    path = store.Artifacts(folder / "artifacts").path(row.artifact)
    path.unlink()
    return path


def artifacts_of_runs(folder: Path, plan: Plan) -> set[Path]:
    """The artifacts that hold what runs got right."""
    found = contents(folder)
    return {store.Artifacts(folder / "artifacts").path(found[plan.job_of(run)][2]) for run in plan.runs()}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [flip, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:100])])
@pytest.mark.parametrize("which", [0, -1])
def test_a_corrupt_or_missing_artifact_is_made_again(
    harm: Any, which: int, study: Run, tiny: Path, tmp_path: Path, undisturbed: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path / "runs")
    path = sorted(artifacts_of_runs(tmp_path / "runs", plan_of(tiny)))[which]
    harm(path)
    exported = study("export", "--out", tmp_path / "out")
    assert exported.code == 1
    assert path.name in exported.err
    before = records(tmp_path / "runs")
    ran = study("run", "--json")
    assert ran.code == 0
    broken = set(ran.json["recomputed"])
    assert broken
    assert contents(tmp_path / "runs") == contents(undisturbed)
    assert files(tmp_path / "runs") == files(undisturbed)
    assert path.stem == store.hashlib.sha256(path.read_bytes()).hexdigest()
    after = records(tmp_path / "runs")
    assert {job for job in after if after[job] != before[job]} <= broken
    assert study("export", "--out", tmp_path / "out").code == 0


def test_a_host_that_changed_is_told(
    tmp_path: Path, home: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on record stood on the old one: nothing is mixed; with the old one back, the study is as ever."""
    place = tmp_path / "home"
    shutil.copytree(home, place)
    monkeypatch.chdir(place)
    plan = plan_of(Path("tiny.toml"))
    _open_bound_task.cache_clear(), open_task.cache_clear()
    run_in(tmp_path / "runs", plan, limits=Limits(max_jobs=len(plan.jobs) * 2 // 3))
    before = records(tmp_path / "runs")
    shutil.move(place / "t5-updated", tmp_path / "old")
    shutil.copytree(place / "t5", place / "t5-updated")
    model = pico_model("t5", seed=7)
    model.save_pretrained(place / "t5-updated")
    _open_bound_task.cache_clear()
    summary = run_in(tmp_path / "runs", plan)
    assert summary.failed
    ledger = Ledger(tmp_path / "runs")
    errors = {row.error.splitlines()[0] for row in ledger.rows() if row.state == "failed" and row.error}
    ledger.close()
    assert len(errors) == 1
    assert "host t5-updated has changed since this study was begun" in errors.pop()
    assert before.items() <= records(tmp_path / "runs").items()

    shutil.rmtree(place / "t5-updated")
    shutil.move(tmp_path / "old", place / "t5-updated")
    _open_bound_task.cache_clear()
    assert run_in(tmp_path / "runs", plan, retry_failed=True).failed == 0
    ours, theirs = contents(tmp_path / "runs"), contents(undisturbed)
    assert {j: r for j, r in ours.items() if r[0] != "chain"} == {j: r for j, r in theirs.items() if r[0] != "chain"}
    assert measures(tmp_path / "runs") == measures(undisturbed)


@contextmanager
def full_writer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The fifth artifact finds no room."""
    left = [5]
    fsync = os.fsync

    def flush(handle: int) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", flush)
        yield


@contextmanager
def full_ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SQLite may not grow its file beyond a few pages: what it says of a full disk."""
    connect = sqlite3.connect

    def small(*arguments: Any, **named: Any) -> sqlite3.Connection:
        base = connect(*arguments, **named)
        base.execute("PRAGMA max_page_count = 14")
        return base

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", small)
        yield


@contextmanager
def small_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system refuses to let any file grow beyond some bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("full", [full_writer, full_ledger, small_files])
def test_a_full_disk(full: Any, study: Run, tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear line, exit code 1; what is recorded stays, nothing half-written; with room again it goes on."""
    with full(monkeypatch):
        ran = study("run")
    assert ran.code == 1, ran
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err
    assert str(tmp_path / "runs") in ran.err
    before = records(tmp_path / "runs")
    assert 0 < len(before) < len(contents(undisturbed))
    assert not [name for name in files(tmp_path / "runs") if name.startswith(".")]
    assert study("run").code == 0
    assert before.items() <= records(tmp_path / "runs").items()
    assert contents(tmp_path / "runs") == contents(undisturbed)
    assert files(tmp_path / "runs") == files(undisturbed)


def test_a_full_file_system(study: Run, tmp_path: Path, undisturbed: Path) -> None:
    """The same on a real file system that is too small, where one may be mounted."""
    place = tmp_path / "runs"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        ran = study("run")
        assert ran.code == 1, ran
        assert ran.err.count("\n") == 1
        assert str(place) in ran.err
        before = records(place)
        assert 0 < len(before) < len(contents(undisturbed))
        subprocess.run(["mount", "-o", "remount,size=16m", str(place)], check=True)
        assert study("run").code == 0
        assert before.items() <= records(place).items()
        assert contents(place) == contents(undisturbed)
        assert files(place) == files(undisturbed)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_second_driver_is_refused(study: Run, tmp_path: Path) -> None:
    with only_driver(tmp_path / "runs"):
        ran = study("run")
    assert ran.code == 2
    assert str(tmp_path / "runs") in ran.err
    assert "another process" in ran.err
    assert not (tmp_path / "runs" / FILE).exists()
    assert study("run", "--max-jobs", 1).code == 0


@pytest.mark.parametrize("make", [lambda path: path.write_bytes(b"x" * 5000), Path.mkdir])
@pytest.mark.parametrize("command", ["run", "status"])
def test_what_is_no_ledger_is_refused(make: Any, command: str, study: Run, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    make(tmp_path / "runs" / FILE)
    ran = study(command)
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert "ledger" in ran.err


def test_a_study_that_was_not_begun_has_no_status(study: Run, tmp_path: Path) -> None:
    for command in (("status",), ("export", "--out", tmp_path / "out")):
        ran = study(*command)
        assert ran.code == 2
        assert "peftport study run" in ran.err
    assert not (tmp_path / "runs").exists()


def test_a_file_where_the_folder_should_be(study: Run, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("x")
    ran = study("run")
    assert (ran.code, "expected a folder" in ran.err) == (2, True)


def test_the_error_of_an_error_is_one_line(tmp_path: Path) -> None:
    assert told(PeftportError("a\nb")).startswith("PeftportError: a\n")
    assert told(ValueError()).startswith("ValueError: ValueError\n")
    assert json.dumps(told(ValueError("\x00")))
