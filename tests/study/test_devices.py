"""A study's hosts on accelerators, in other numbers: who sees which device, what a job is called, what comes out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from peftport.hosts import calibration
from peftport.hosts.loading import Loading
from peftport.porting import PORTERS
from peftport.study.commands import StudyRequest
from peftport.study.devices import VISIBLE, devices_of_task, devices_of_workers
from peftport.study.executors import Processes, make_executor
from peftport.study.jobs import DistanceJob
from peftport.study.opened import open_study
from peftport.study.plan import Plan
from peftport.study.run import Limits
from peftport.techniques import TECHNIQUES
from pico_folders import Run
from pico_study import contents, plan_of, run_in


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv(VISIBLE, raising=False)


def test_a_worker_an_accelerator(three_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices_of_workers(Loading()) == ()
    assert devices_of_workers(Loading(device="auto")) == ("0", "1", "2")
    assert devices_of_workers(Loading(device="cuda", spread=True)) == ("0,1,2",)
    monkeypatch.setenv(VISIBLE, "2,GPU-7")  # what a scheduler left to this process
    assert devices_of_workers(Loading(device="cuda")) == ("2", "GPU-7")
    assert devices_of_workers(Loading(device="cuda", spread=True)) == ("2,GPU-7",)
    made = make_executor("processes", None, 1, Loading(device="auto"))
    assert isinstance(made, Processes)
    assert len(made._pools) == 2


def test_no_accelerator_no_device() -> None:
    assert devices_of_workers(Loading(device="auto")) == ()


def test_workers_see_their_own_device(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes; more workers than devices take them in turn."""
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    executor = Processes(3, 1, ("4", "5"))
    try:
        assert [executor._pool(worker).submit(os.getenv, VISIBLE).result() for worker in range(3)] == ["4", "5", "4"]
    finally:
        executor.close()


@pytest.mark.parametrize(
    ("loading", "gpus", "wanted"),
    [
        (Loading(), [8.0], 0),
        (Loading(device="auto"), [], 0),
        (Loading(device="auto"), [0.0, 4.0], 1),
        (Loading(device="cuda"), [0.0], 1),
        (Loading(device="cuda", spread=True), [2.0, 4.0], 4),
    ],
)
def test_what_a_stack_asks_of_ray(loading: Loading, gpus: list[float], wanted: int) -> None:
    assert devices_of_task(loading, [{"CPU": 8.0, "GPU": each} for each in gpus]) == wanted


def jobs(plan: Plan, distances: bool) -> set[str]:
    return {job.id for job in plan.jobs.values() if isinstance(job, DistanceJob) is distances}


def test_numbers_name_a_job_and_places_do_not(tiny: Path) -> None:
    plain = plan_of(tiny)
    for change in ({"device": "auto"}, {"checkpointing": "true"}, {"dtype": "float32"}):
        assert (
            plan_of(tiny, **{f"loading__{key}": value for key, value in change.items()}).jobs.keys()
            == plain.jobs.keys()
        )
    others = [
        plan_of(tiny, loading__dtype="bfloat16"),
        plan_of(tiny, loading__dtype="mixed"),
        plan_of(tiny, loading__bits="8"),
        plan_of(tiny, loading__bits="4"),
    ]
    for other in others:
        assert jobs(other, distances=True) == jobs(plain, distances=True) != set()
    named = [jobs(plan, distances=False) for plan in (plain, *others)]
    assert len(set.union(*named)) == sum(map(len, named))


@pytest.mark.parametrize("begun", ["float32", "mixed"])
def test_a_study_in_auto_goes_on_in_the_numbers_that_it_was_begun_in(
    begun: str, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is faster on the machine that goes on."""

    def opened(faster: str) -> Plan:
        monkeypatch.setattr(calibration, "chosen_format", lambda device: calibration.ChosenFormat(faster, 2.0))  # type: ignore[arg-type]
        study = open_study(StudyRequest(tiny, set={"loading.dtype": "auto"}, dir=tmp_path / "runs"))
        assert study.remarks == (f"loading.dtype auto: {study.plan.study.loading.dtype}",)
        return study.plan

    other = {"float32": "mixed", "mixed": "float32"}[begun]
    assert [opened(faster).study.loading.dtype for faster in (begun, other)] == [begun, other]
    run_in(tmp_path / "runs", opened(begun), limits=Limits(max_jobs=3))
    assert opened(other).study.loading.dtype == begun
    assert opened(other).jobs.keys() == plan_of(tiny, loading__dtype=begun).jobs.keys()


def losses(folder: Path) -> list[float]:
    rows: list[dict[str, Any]] = [row[3] for row in contents(folder).values()]
    found = [test["loss"] for metrics in rows for test in metrics.get("tests", {}).values() if "loss" in test]
    return sorted(loss for loss in found if loss is not None)


@pytest.mark.parametrize(
    "change", [{"dtype": "mixed"}, {"dtype": "bfloat16"}, {"bits": "8"}, {"bits": "4"}, {"checkpointing": "true"}]
)
def test_a_study_of_hosts_in_other_numbers(
    tmp_path: Path, tiny: Path, undisturbed: Path, change: dict[str, str]
) -> None:
    plan = plan_of(tiny, **{f"loading__{key}": value for key, value in change.items()})
    summary = run_in(tmp_path, plan)
    assert (summary.failed, summary.blocked, summary.left) == (0, 0, 0)
    near = 1e-5 if "checkpointing" in change else 0.1
    assert losses(tmp_path) == pytest.approx(losses(undisturbed), rel=near)
    assert near < 0.1 or losses(tmp_path) != losses(undisturbed)


@pytest.mark.parametrize("change", [{"dtype": "mixed"}, {"dtype": "bfloat16"}, {"bits": "8"}, {"bits": "4"}])
def test_every_porter_carries_to_hosts_in_other_numbers(tmp_path: Path, tiny: Path, change: dict[str, str]) -> None:
    """Those that read weights, texts and labels; all four techniques, on both kinds of host."""
    carrying = [name for name, porter in PORTERS.items() if porter.needs != "anchors"]
    asked = {
        "porters": json.dumps(carrying),
        "techniques": json.dumps(list(TECHNIQUES)),
        "training__learning_rates": "{}",
        "arms": '["ported"]',
        "budgets": "[0]",
        "seeds": "[0]",
        "execution__retries": "0",
    }
    plan = plan_of(tiny, **asked, **{f"loading__{key}": value for key, value in change.items()})
    summary = run_in(tmp_path, plan)
    assert (summary.failed, summary.blocked, summary.left) == (0, 0, 0)
    assert {run.method for run in plan.runs() if run.arm == "ported"} == set(carrying)


def test_what_this_machine_lacks_is_refused_before_anything_is_written(
    peftport: Run, tiny: Path, tmp_path: Path
) -> None:
    told = peftport("study", "run", tiny, "--dir", tmp_path / "runs", "--set", "loading.device=cuda")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "study tiny: loading: device: expected a CUDA device, torch sees none" in told.err
    told = peftport("study", "run", tiny, "--dir", tmp_path / "runs", "--set", "loading.gpu=1")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "loading.gpu" in told.err
    told = peftport("study", "plan", tiny, "--calibrate", "--set", "loading.device=cuda")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert not (tmp_path / "runs").exists()
