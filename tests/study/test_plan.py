"""Planning: every unique piece of work once, under names that pin what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftport.core.hashing import digest
from peftport.study.grid import read_study
from peftport.study.jobs import VERSIONS, BareJob, DistanceJob, FreshStart, PortedStart, TrainJob, UpdateJob
from pico_folders import Run
from pico_study import plan_of

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.mark.parametrize("name", ["paper", "paper-offline", "paper-updated"])
def test_the_papers_count(name: str, peftport: Run) -> None:
    """1,440 ported and sampled runs; controls and the baseline apart. Nothing is fetched or loaded."""
    found = peftport("study", "plan", STUDIES / f"{name}.toml", "--json").json
    study = read_study(STUDIES / f"{name}.toml")
    places = {(receiver, task.receiver) for _, receiver in study.pairs for task in study.tasks}
    homes = {(origin, task.origin) for origin, _ in study.pairs for task in study.tasks} if study.tells_homes else set()
    each = len(study.techniques) * len(study.seeds)
    assert found["runs"] == 1440
    assert found["control_runs"] == (720 + 180 if name == "paper-updated" else 0)  # shuffled; a sampler for LoRA
    assert found["baseline_runs"] == each * (len(places) * (len(study.budgets) + 1) + len(homes)) + len(places | homes)
    assert found["steps_needed"] < found["steps_asked"] / 3


GOLDEN = "ada18fffd3a6c19cc136e5230dcaeb7b4468bf1affd9151c1b729b049b8beb60"
GOLDEN_KINDS = {
    "chain FreshStart": "16fc1a51b76cb187",
    "chain PortedStart": "951fcac091159df9",
    "bare": "58680f4fe0274ae9",
    "distance": "eec9bd965c4a35ce",
    "update": "1ca1146f91b37f83",
}


def test_golden_ids(tiny: Path) -> None:
    """Names of jobs, pinned: a change here makes every study on disk start over; raise VERSIONS with it."""
    assert VERSIONS == {"update": 1, "bare": 1, "chain": 1, "distance": 1}
    assert digest(sorted(plan_of(tiny).jobs)) == GOLDEN


def test_golden_ids_of_each_kind(tiny: Path) -> None:
    change = '{ "flan-x" = { base = "t5", text = "reviews", steps = 2 } }'
    plan = plan_of(tiny, hosts=change, pairs='[["t5", "flan-x"]]', seeds="[0]")
    found: dict[str, str] = {}
    for job in plan.jobs.values():
        start = type(job.start).__name__ if isinstance(job, TrainJob) else ""
        found.setdefault(f"{job.kind} {start}".strip(), job.id[:16])
    assert found == GOLDEN_KINDS


def test_every_piece_of_work_is_there_once(tiny: Path) -> None:
    plan = plan_of(tiny)
    kinds = {kind: [j for j in plan.jobs.values() if isinstance(j, kind)] for kind in (TrainJob, BareJob, DistanceJob)}
    fresh = [job for job in kinds[TrainJob] if isinstance(job.start, FreshStart)]
    carried = [job for job in kinds[TrainJob] if isinstance(job.start, PortedStart)]
    techniques, hosts, pairs, seeds, methods = 2, 4, 2, 2, 2
    assert len({(job.technique.name, job.host, job.seed) for job in fresh}) == len(fresh) == techniques * hosts * seeds
    assert len(carried) == techniques * pairs * seeds * methods
    assert len(kinds[BareJob]) == len(kinds[DistanceJob]) == pairs
    assert sum(len(each) for each in kinds.values()) == len(plan.jobs)


def test_a_run_is_answered_by_one_job_that_tests_its_budget(tiny: Path) -> None:
    plan = plan_of(tiny, tasks='["reviews", { origin = "reviews", receiver = "others" }]')
    for run in plan.runs():
        job = plan.jobs[plan.job_of(run)]
        assert isinstance(job, BareJob | TrainJob)
        assert (job.host, job.task) == (run.receiver, run.receiver_task)
        if isinstance(job, TrainJob):
            assert (job.technique.name, job.seed) == (run.technique, run.seed)
            assert run.budget in job.budgets
            assert isinstance(job.start, PortedStart) == (run.arm in ("ported", "sampled"))
            if isinstance(job.start, PortedStart):
                origin = plan.jobs[job.start.chain]
                assert isinstance(origin, TrainJob)
                assert (origin.host, origin.task, origin.seed) == (run.origin, run.origin_task, run.seed)
                assert origin.keep == (job.start.step,)


def test_scratch_is_the_job_of_an_origin_trained_there(tiny: Path) -> None:
    """There and back: the scratch of one direction is the origin of the other."""
    plan = plan_of(tiny, pairs='[["bert", "bert-updated"], ["bert-updated", "bert"]]')
    scratch = {plan.job_of(run) for run in plan.runs() if run.arm in ("scratch", "ceiling")}
    origins = {
        j.start.chain for j in plan.jobs.values() if isinstance(j, TrainJob) and isinstance(j.start, PortedStart)
    }
    assert scratch == origins


def test_needs_are_planned_before(tiny: Path) -> None:
    plan = plan_of(tiny, hosts='{ "made" = { base = "t5", text = "reviews", steps = 2 } }', pairs='[["t5", "made"]]')
    assert sum(isinstance(job, UpdateJob) for job in plan.jobs.values()) == 1
    seen: set[str] = set()
    for stack in plan.stacks:
        assert set(stack.needs) <= seen
        seen.update(job.id for job in stack.jobs)
    assert seen == plan.jobs.keys()


def test_stacks_hold_what_can_train_together(tiny: Path) -> None:
    for stack in plan_of(tiny).stacks:
        assert 1 <= len(stack.jobs) <= 3
        if isinstance(stack.jobs[0], TrainJob):
            together = {(j.technique.name, j.host, j.task, j.budgets) for j in stack.jobs if isinstance(j, TrainJob)}
            assert len(together) == 1


@pytest.mark.parametrize(
    "only", [{"arm": "ported"}, {"seed": "1", "technique": "adapter"}, {"receiver": "t5-updated", "budget": "0"}]
)
def test_a_choice_never_changes_a_name(only: dict[str, str], tiny: Path) -> None:
    chosen = {factor: frozenset({value}) for factor, value in only.items()}
    whole, part = plan_of(tiny), plan_of(tiny, chosen)
    assert part.jobs.items() < whole.jobs.items()
    wanted = [run for run in part.runs() if run.origin is not None]
    assert wanted
    for factor, value in only.items():
        assert {str(getattr(run, factor)) for run in wanted} == {value}
    assert {run.name: part.job_of(run) for run in part.runs()}.items() <= {
        run.name: whole.job_of(run) for run in whole.runs()
    }.items()


def test_what_changes_a_result_changes_its_name_and_nothing_else_does(tiny: Path) -> None:
    names = set(plan_of(tiny).jobs)
    for key, value in (("name", "other"), ("about", "x"), ("execution__stack", "1"), ("execution__retries", "5")):
        assert set(plan_of(tiny, **{key: value}).jobs) == names, key
    changed = plan_of(tiny, testing__items="7")
    assert {job.kind for job in changed.jobs.values() if job.id in names} == {"distance"}
    changed = plan_of(tiny, **{"training__learning_rates__lora-2": "0.5"})
    assert {j.technique.name for j in changed.jobs.values() if isinstance(j, TrainJob) and j.id in names} == {"adapter"}
    changed = plan_of(tiny, seeds="[0, 1, 2]")
    assert names < set(changed.jobs)


def test_a_part_keeps_its_company(tiny: Path) -> None:
    plan = plan_of(tiny)
    run = next(run for run in plan.runs() if run.arm == "sampled")
    part = plan.part([run])
    assert list(part.runs()) == [run]
    whole = {stack.jobs for stack in plan.stacks}
    assert all(stack.jobs in whole for stack in part.stacks)
    assert [stack.index for stack in part.stacks] == list(range(len(part.stacks)))
    needed = {need for job in part.jobs.values() for need in job.needs}
    assert needed <= part.jobs.keys()


def test_sharing_counts_what_is_saved(tiny: Path) -> None:
    shared = plan_of(tiny).sharing
    assert (shared.runs, shared.baseline_runs) == (32, 26)
    # a run alone trains its origin (3 steps) and then itself (0 or 2); scratch 0 or 2; the ceiling 3
    assert shared.steps_asked == 16 * 3 + 16 * (3 + 2) + 8 * 2 + 8 * 3
    assert shared.steps_needed == 16 * 3 + 16 * 2
    assert shared.tests_asked == 58
    assert shared.tests_needed == 2 + sum(
        len(job.budgets) for job in plan_of(tiny).jobs.values() if isinstance(job, TrainJob)
    )
