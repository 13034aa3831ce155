"""Running: one go or many, the same ledger and the same bytes; and the same numbers as with nothing shared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from peftport.core.hashing import rng_for
from peftport.hosts import loading
from peftport.modules.module import Module
from peftport.porting import porter_named, sampler_named
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import Ledger
from peftport.study.grid import Run, StudySpec
from peftport.study.run import Limits
from peftport.tasks import load_task
from peftport.training.bound_task import BoundTask, Start, bind_task
from peftport.training.evaluation import Scores
from peftport.training.loop import TrainSettings
from pico_study import Here, contents, files, plan_of, records, run_in


def test_every_job_is_done_and_on_record(tiny: Path, undisturbed: Path) -> None:
    plan = plan_of(tiny)
    found = contents(undisturbed)
    assert found.keys() == plan.jobs.keys()
    assert {state for _, state, _, _ in found.values()} == {"done"}
    hashes = {artifact for _, _, artifact, _ in found.values() if artifact}
    assert files(undisturbed) == sorted(f"{sha}.safetensors" for sha in hashes)
    artifacts = Artifacts(undisturbed / "artifacts")
    assert all(artifacts.holds(sha) for sha in hashes)


def test_nothing_is_left_to_do_the_second_time(tiny: Path, undisturbed: Path) -> None:
    before, executor = records(undisturbed), Here()
    summary = run_in(undisturbed, plan_of(tiny), executor)
    assert not executor.done
    assert (summary.done, summary.failed, summary.left, summary.before) == (0, 0, 0, len(before))
    assert records(undisturbed) == before


@pytest.mark.parametrize("step", [1, 7, 20])
def test_halves_make_the_same_whole(tiny: Path, undisturbed: Path, tmp_path: Path, step: int) -> None:
    """Stopped after some jobs, again and again: the same rows and the same bytes as in one go."""
    plan, calls = plan_of(tiny), 0
    while True:
        before = records(tmp_path)
        left = run_in(tmp_path, plan, limits=Limits(max_jobs=step)).left
        calls += 1
        assert before.items() <= records(tmp_path).items()
        if not left:
            break
    assert calls > 1
    assert contents(tmp_path) == contents(undisturbed)
    assert files(tmp_path) == files(undisturbed)


def test_stop_after_begins_nothing_more(tiny: Path, tmp_path: Path) -> None:
    summary = run_in(tmp_path, plan_of(tiny), limits=Limits(stop_after_seconds=0.0))
    assert (summary.done, summary.left) == (0, len(plan_of(tiny).jobs))


def test_a_part_first_then_the_rest(tiny: Path, undisturbed: Path, tmp_path: Path) -> None:
    """``--only`` never changes a job's name; what it did is not done again."""
    some = plan_of(tiny, {"technique": frozenset({"adapter"}), "arm": frozenset({"ported"})})
    run_in(tmp_path, some)
    before = records(tmp_path)
    assert before.keys() == some.jobs.keys() < plan_of(tiny).jobs.keys()
    run_in(tmp_path, plan_of(tiny))
    assert before.items() <= records(tmp_path).items()
    ours, theirs = contents(tmp_path), contents(undisturbed)
    assert {job: (kind, state) for job, (kind, state, _, _) in ours.items()} == {
        job: (kind, state) for job, (kind, state, _, _) in theirs.items()
    }


def test_sharing_changes_no_number(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run of the study done alone, with its own origin, by the public functions: the same scores.

    Hosts in float64; scores are kept in float32, so equal means equal to its last digits.
    """
    monkeypatch.setitem(loading.DTYPES, "float32", "float64")
    plan = plan_of(tiny)
    run_in(tmp_path, plan)
    ledger, artifacts = Ledger(tmp_path), Artifacts(tmp_path / "artifacts")
    seen = 0
    for run in plan.runs():
        row = ledger.row(plan.job_of(run))
        assert row is not None and row.metrics is not None and row.artifact is not None
        shared = load_file(artifacts.path(row.artifact))[f"{row.id}/scores/{run.budget}"].numpy()
        lone = run_alone(run, plan.study)
        np.testing.assert_allclose(shared, lone.scores, rtol=1e-6, atol=1e-7, err_msg=run.name)
        assert row.metrics["tests"][str(run.budget)]["accuracy"] == lone.accuracy, run.name
        seen += 1
    ledger.close()
    assert seen == 32 + 26


def bound_task_of(host: str, study: StudySpec) -> BoundTask:
    settings = TrainSettings(batch_size=study.training.batch_size, max_tokens=study.training.max_tokens)
    return bind_task(host, load_task("reviews.csv"), settings=settings, test_items=study.testing.items)


def run_alone(run: Run, study: StudySpec) -> Scores:
    """One run as a person would do it: train the origin's module, port it, train it on, test it."""
    bound_task = bound_task_of(run.receiver, study)
    assert bound_task.host.dtype == torch.float64
    if run.arm == "bare":
        return bound_task.test(None, [])[0]
    technique = next(t for t in study.techniques if t.name == run.technique)
    assert run.seed is not None
    rate, steps = study.training.learning_rates[technique.name], study.training.origin_steps
    start = bound_task.fresh(technique.spec, run.seed)
    if run.origin is not None:
        home = bound_task_of(run.origin, study)
        [kept] = home.train(technique.spec, [Start(home.fresh(technique.spec, run.seed), run.seed)], [steps], rate)
        module: Module = home.module(technique.spec, kept[steps], run.seed, rate)
        module = porter_named("copy").port(module, bound_task.host, rng_for(run.seed, "porting"))
        if run.arm == "sampled":
            assert run.method is not None
            module = sampler_named(run.method).port(module, bound_task.host, rng_for(run.seed, "sampling"))
        start = bound_task.startable(module)
    [kept] = bound_task.train(technique.spec, [Start(start, run.seed)], [run.budget], rate)
    return bound_task.test(technique.spec, [kept[run.budget].matrices])[0]


def test_every_method_that_fits_can_be_an_arm(tiny: Path, tmp_path: Path) -> None:
    """Methods that need the origin's weights, texts or labels are given them by the worker."""
    methods = 'porters=["copy", "resize", "subspace", "theseus", "gradfix"]'
    plan = plan_of(tiny, {"origin": frozenset({"bert"})}, **dict([methods.split("=", 1)]))
    found = run_in(tmp_path, plan)
    assert (found.failed, found.blocked, found.left) == (0, 0, 0)
