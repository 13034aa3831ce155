"""Gates: what they hold a study to, that they stop it before its grid is run, and that they say what they found."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from peftport.study import executors
from peftport.study.jobs import BareJob, DistanceJob, PortedStart, TrainJob
from pico import WORDS
from pico_folders import Run
from pico_study import Here, contents, plan_of

# Labels that texts tell, two hosts that are one and the same, so that both gates can hold.
GATED = """
name = "gated"
techniques = [{ kind = "adapter", reduction_factor = 4 }]
pairs = [["bert", "bert"]]
tasks = ["told"]
arms = ["ported", "scratch", "shuffled"]
budgets = [0, 2]
seeds = [0, 1]

[data]
receiver = "disjoint"

[data.told]
source = "told.csv"

[training]
origin_steps = 20
batch_size = 8
max_tokens = 32
learning_rates = { adapter = 5e-2 }

[testing]
items = 60
readout = "linear"

[gates]
lift = 0.03
closeness = 0.03
"""


@pytest.fixture
def gated(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The gated study beside the small hosts; what is run is run in this process."""
    path, rng = tiny.with_name("gated.toml"), np.random.default_rng(0)
    path.write_text(GATED, encoding="utf-8")
    with tiny.with_name("told.csv").open("w", encoding="utf-8", newline="") as file:
        rows = []
        for label in ("first", "second") * 300:
            words = [*rng.choice(WORDS[2:], size=9), *[WORDS[label == "second"]] * 3]
            rows.append((" ".join(rng.permutation(words)), label))
        csv.writer(file).writerows([("text", "label"), *rows])
    monkeypatch.setattr(executors, "make_executor", lambda *asked: Here())
    return path


def test_gates_hold_and_the_study_is_run(gated: Path, tmp_path: Path, peftport: Run) -> None:
    where = (gated, "--dir", tmp_path / "runs")
    ran = peftport("study", "run", *where, "--json")
    assert (ran.code, ran.json["failed"], ran.json["left"]) == (0, 0, 0), ran
    assert ran.json["done"] == len(plan_of(gated).jobs)
    gates = peftport("study", "gates", *where, "--json").json["gates"]
    by = {(each["gate"], each["metric"]): each for each in gates}
    assert by.keys() == {(gate, metric) for gate in ("lift", "closeness") for metric in ("accuracy", "auroc")}
    lift = by["lift", "accuracy"]
    assert lift["passed"] and lift["low"] > 0.03 and lift["low"] < lift["difference"] < lift["high"]
    assert lift["difference"] == pytest.approx(lift["score"] - lift["beside"])
    assert (lift["seeds"], by["lift", "auroc"]["needed"]) == (2, None)
    for metric in ("accuracy", "auroc"):  # a host beside itself
        found = by["closeness", metric]
        assert (found["difference"], found["low"], found["high"], found["passed"]) == (0, 0, 0, True)
    again = peftport("study", "run", *where, "--json").json
    assert (again["done"], again["before"], again["left"]) == (0, ran.json["done"], 0)
    exported = peftport("study", "export", *where, "--out", tmp_path / "out")
    table = pl.read_parquet(tmp_path / "out" / "gates.parquet")
    assert exported.code == 0
    assert table.to_dicts() == gates


def test_a_gate_stops_the_study_before_its_grid(gated: Path, tmp_path: Path, peftport: Run) -> None:
    """Nothing but what gates go by is run, a line for each that fails; again on resuming; on with --gates report."""
    where = (gated, "--dir", tmp_path / "runs", "--set", "gates.lift=0.9")
    plan = plan_of(gated, gates__lift="0.9")
    for _ in range(2):
        stopped = peftport("study", "run", *where)
        assert stopped.code == 2
        first, *lines = stopped.err.strip().splitlines()
        assert "1 of 3 conditions do not" in first and "--gates report" in first
        assert len(lines) == 1
        assert lines[0].startswith("  lift: adapter on bert, told: accuracy +")
        assert "expected a lower bound above 0.9" in lines[0]
        done = contents(tmp_path / "runs")
        assert done.keys() == plan.before_gates().jobs.keys()
        jobs = [plan.jobs[job] for job in done]
        assert not any(isinstance(job, DistanceJob) for job in jobs)
        for job in jobs:
            if isinstance(job, TrainJob):
                assert job.items.part == "origin" and not job.items.shuffled
                assert isinstance(job.start, PortedStart) == (job.split == "validation")
            else:
                assert isinstance(job, BareJob) and job.split == "validation"
    went_on = peftport("study", "run", *where, "--gates", "report")
    assert went_on.code == 0
    assert lines[0].strip() in went_on.err
    assert contents(tmp_path / "runs").keys() == plan.jobs.keys()
    page = tmp_path / "page.html"
    assert peftport("study", "report", *where, "--out", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert "Of 3 conditions on validation items 2 hold" in text and "although a gate does not hold" in text
    assert 'class="shuffled"' in text and "Modules learn from other items on a receiver" in text


def test_a_gate_that_is_not_known_does_not_hold(gated: Path, tmp_path: Path, peftport: Run) -> None:
    """An origin that cannot be trained: its gate stops the study, and says what it lacks."""
    wild = (gated, "--dir", tmp_path / "runs", "--set", "training.learning_rates.adapter=1e38")
    stopped = peftport("study", "run", *wild)
    assert stopped.code == 2
    assert (
        "lift: adapter on bert, told: not known, as 2 of its 3 jobs are blocked, see peftport study status"
        in stopped.err
    )
    shown = peftport("study", "gates", *wild)
    assert shown.code == 0
    assert "not known" in shown.out


def test_stopped_early_nothing_of_the_grid_is_run_and_the_gates_come_first(
    gated: Path, tmp_path: Path, peftport: Run
) -> None:
    where, plan = (gated, "--dir", tmp_path / "runs"), plan_of(gated)
    first = peftport("study", "run", *where, "--max-jobs", "2", "--json").json
    assert contents(tmp_path / "runs").keys() < plan.before_gates().jobs.keys()
    assert first["left"] == len(plan.jobs) - first["done"]
    shown = peftport("study", "gates", *where)
    assert "not run yet" in shown.out
    some = len(plan.before_gates().jobs) - first["done"]
    peftport("study", "run", *where, "--max-jobs", str(some + 1))
    assert len(contents(tmp_path / "runs")) > len(plan.before_gates().jobs)


def test_gates_change_no_other_job(tiny: Path) -> None:
    """Held to gates or not, trainings and tests have the same ids; what is added is tests on validation items."""
    without, held = plan_of(tiny), plan_of(tiny, gates="{}")
    assert without.jobs.keys() < held.jobs.keys()
    added = [job for job in held.jobs.values() if job.id not in without.jobs]
    for job in added:
        assert isinstance(job, TrainJob | BareJob)
        at_home = isinstance(job, BareJob) and job.host in ("bert", "t5")
        assert job.split == "validation" or at_home
    lifts, pairs = 2 * 2, 2  # techniques and origins, pairs
    assert (len(held.gates.lifts), len(held.gates.closeness)) == (lifts, pairs)
    assert all(len(lift.home) == 2 for lift in held.gates.lifts.values())
    some = plan_of(tiny, {"technique": frozenset({"adapter"}), "origin": frozenset({"t5"})}, gates="{}")
    assert (list(some.gates.lifts), list(some.gates.closeness)) == (
        [("adapter", "t5", "reviews")], [("t5", "t5-updated", "reviews")],
    )  # fmt: skip


def test_a_part_has_the_gates_of_its_runs_if_asked(tiny: Path) -> None:
    plan = plan_of(tiny, gates="{}")
    run = next(run for run in plan.runs() if run.arm == "sampled" and run.origin == "t5")
    assert not len(plan.part([run]).gates)
    part = plan.part([run], gated=True)
    assert len(part.gates) == 2
    assert set(part.gates.jobs) <= part.jobs.keys() < plan.jobs.keys()


def test_a_study_without_gates_says_so(tiny: Path, undisturbed: Path, peftport: Run) -> None:
    shown = peftport("study", "gates", tiny, "--dir", undisturbed)
    assert (shown.code, "no [gates]" in shown.out) == (0, True)
