"""A study in shards: every run in one of them, as even as its stacks allow, the same on every machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftport.study.estimate import passes
from peftport.study.grid import Run as GridRun
from peftport.study.grid import StudySpec, read_study
from peftport.study.plan import Plan
from peftport.study.shards import divide
from pico_folders import Run
from pico_study import plan_of

STUDIES = Path(__file__).parents[2] / "studies"
HOSTS = ("a", "b", "c", "made")


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans of studies of any shape: shared origins, there and back, a host that the study makes, small stacks."""
    pairs = draw(
        st.lists(st.tuples(st.sampled_from(HOSTS), st.sampled_from(HOSTS)), min_size=1, max_size=4, unique=True)
    )
    some = {
        "name": "drawn",
        "techniques": draw(
            st.lists(st.sampled_from(["lora", "adapter", "prefix"]), min_size=1, max_size=3, unique=True)
        ),
        "pairs": pairs,
        "tasks": draw(st.sampled_from([["x"], ["x", "y"], ["x", {"origin": "x", "receiver": "y"}]])),
        "arms": draw(
            st.sampled_from([["ported"], ["ported", "scratch"], ["ported", "sampled", "scratch"], ["scratch"]])
        ),
        "budgets": draw(st.sampled_from([[0], [0, 5], [3, 40]])),
        "seeds": list(range(draw(st.integers(1, 5)))),
        "hosts": {"made": {"base": "a", "text": "x", "steps": draw(st.integers(1, 300))}},
        "training": {"origin_steps": draw(st.integers(1, 200))},
        "execution": {"stack": draw(st.integers(1, 4))},
    }
    return Plan(StudySpec.model_validate(some))


def cost_of(plan: Plan) -> int:
    return sum(passes(job, plan.study) for job in plan.jobs.values())


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(1, 9))
def test_every_run_is_in_one_shard_with_all_that_it_needs(plan: Plan, count: int) -> None:
    """Disjoint, complete, whole stacks, costs as they say; and again the same."""
    division = divide(plan, count)
    assert len(division.runs) == len(division.costs) == count
    names = [run.name for runs in division.runs for run in runs]
    assert sorted(names) == sorted(run.name for run in plan.runs()) and len(set(names)) == len(names)
    assert division.undivided == cost_of(plan)
    whole = {stack.jobs for stack in plan.stacks}
    parts = [plan.part(list(runs)) for runs in division.runs]
    for part, runs, cost in zip(parts, division.runs, division.costs, strict=True):
        assert list(part.runs()) == list(runs)
        assert {stack.jobs for stack in part.stacks} <= whole
        assert {need for job in part.jobs.values() for need in job.needs} <= part.jobs.keys()
        assert {part.job_of(run) for run in runs} <= part.jobs.keys()
        assert cost_of(part) == cost
        assert part.sharing.runs + part.sharing.baseline_runs == len(runs)
    assert set().union(*(part.jobs for part in parts)) == plan.jobs.keys()
    assert divide(Plan(plan.study), count) == division


@settings(max_examples=40, deadline=None)
@given(plans(), st.integers(1, 6))
def test_no_cut_of_the_same_order_is_more_even(plan: Plan, count: int) -> None:
    """The costliest shard is as cheap as it can be: held to a table of the best cuts of every beginning."""
    stack_of = {job.id: stack.index for stack in plan.stacks for job in stack.jobs}
    answered: dict[int, list[GridRun]] = {}
    for run in plan.runs():
        answered.setdefault(stack_of[plan.job_of(run)], []).append(run)
    needed = [sorted({stack_of[job] for job in plan.part(runs).jobs}) for runs in answered.values()]
    costs = [sum(passes(job, plan.study) for job in stack.jobs) for stack in plan.stacks]
    order = sorted(needed)

    def cost(begin: int, end: int) -> int:
        return sum(costs[stack] for stack in set().union(*order[begin:end]))

    ends = range(len(order) + 1)
    best = [cost(0, end) for end in ends]
    for _ in range(count - 1):
        best = [min(max(best[cut], cost(cut, end)) for cut in range(end + 1)) for end in ends]
    assert max(divide(plan, count).costs) == best[-1]


def test_shards_of_the_studies_that_come_along() -> None:
    """What a user gets of it: the longest shard, and how much is done twice."""
    found = {
        (name, count): divide(Plan(read_study(STUDIES / f"{name}.toml")), count)
        for name, count in (("paper", 16), ("paper-offline", 8), ("quick", 4))
    }
    assert {key: (round(each.longest, 3), round(each.repeated, 3)) for key, each in found.items()} == {
        ("paper", 16): (0.063, 0.0),
        ("paper-offline", 8): (0.149, 0.149),
        ("quick", 4): (0.301, 0.0),
    }
    for each in found.values():
        assert all(each.runs) and max(each.costs) < 1.6 * min(each.costs)


def test_a_shard_is_planned_and_how_even_it_is_is_said(peftport: Run, tiny: Path) -> None:
    whole = peftport("study", "plan", tiny, "--json").json
    parts = [peftport("study", "plan", tiny, "--shard", f"{i}/3", "--json").json for i in (1, 2, 3)]
    assert "shards" not in whole
    assert sum(part["runs"] for part in parts) == whole["runs"]
    assert sum(part["baseline_runs"] for part in parts) == whole["baseline_runs"]
    assert sum(part["steps_asked"] for part in parts) == whole["steps_asked"]
    assert sum(part["steps_needed"] for part in parts) >= whole["steps_needed"]
    [shards] = {tuple(part["shards"].items()) for part in parts}
    assert dict(shards)["count"] == dict(shards)["with_runs"] == 3
    assert 1 / 3 <= dict(shards)["longest"] < 0.5
    told = peftport("study", "plan", tiny, "--shard", "2/50")
    assert told.code == 0 and "50 shards (only " in told.out and "of the study's work (1/50: 2%)" in told.out


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", "1/3/4", "1.0/3", "01/3", ""])
def test_what_is_no_shard_is_refused(text: str, peftport: Run, tiny: Path) -> None:
    told = peftport("study", "plan", tiny, f"--shard={text}")
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1)
    assert told.err.startswith(f"error: --shard {text}: expected") or "--shard" in told.err


def test_numbers_that_a_machine_chooses_are_refused(peftport: Run, tiny: Path) -> None:
    """Each machine of a division could choose another number format, so that no two shards were of one study."""
    told = peftport("study", "plan", tiny, "--shard", "1/2", "--set", "loading.dtype=auto")
    assert (told.code, told.err.count("\n"), "--set loading.dtype=float32" in told.err) == (2, 1, True)


def test_a_chosen_seed_has_its_own_baseline_alone(tiny: Path) -> None:
    """The same jobs, of that seed; choices of both seeds are the whole; no id is another."""
    whole = plan_of(tiny)
    halves = [plan_of(tiny, {"seed": frozenset({seed})}) for seed in "01"]
    for seed, half in enumerate(halves):
        assert {run.seed for run in half.runs()} == {seed, None}
        assert half.jobs.items() < whole.jobs.items()
    assert sum(half.sharing.runs for half in halves) == whole.sharing.runs
    of_seeds = [[run for run in half.runs() if run.arm in ("scratch", "ceiling")] for half in halves]
    assert sum(of_seeds, []) and {run.name for runs in of_seeds for run in runs} == {
        run.name for run in whole.runs() if run.arm in ("scratch", "ceiling")
    }
    assert halves[0].jobs.keys() | halves[1].jobs.keys() == whole.jobs.keys()
    lora = plan_of(tiny, {"technique": frozenset({"lora-2"}), "seed": frozenset({"1"})})
    assert {(run.technique, run.seed) for run in lora.runs()} == {("lora-2", 1), (None, None)}
    assert {run.arm for run in lora.runs()} == {"ported", "sampled", "scratch", "ceiling", "bare"}
