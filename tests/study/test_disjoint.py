"""Receivers learn from other items than origins, the shuffled arm from other labels: what is drawn and what is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from peftport.core.errors import BadRequest
from peftport.core.hashing import rng_for
from peftport.hosts import loading
from peftport.porting import porter_named
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import Ledger
from peftport.study.grid import Run, StudySpec, read_study
from peftport.study.jobs import BareJob, DistanceJob, PortedStart, TrainedOn, TrainJob
from peftport.tasks import load_task
from peftport.tasks.split import halves, key_of
from peftport.tasks.task import Split
from peftport.training.bound_task import BoundTask, Start, bind_task
from peftport.training.evaluation import Scores
from pico import WORDS
from pico_folders import Run as Command
from pico_study import contents, plan_of, run_in

DISJOINT = {"data__receiver": "disjoint"}
SHUFFLED = {"arms": '["ported", "sampled", "scratch", "shuffled"]'}
ROOT = Path(__file__).parents[2]


def split_of(texts: list[str], labels: list[int]) -> Split:
    return Split(tuple(map(str, range(len(texts)))), tuple(texts), np.array(labels, dtype=np.int64))


@given(
    st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=80),
    st.lists(st.text(min_size=1), unique=True, max_size=40),
    st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_no_text_is_in_both_halves_not_even_of_two_tasks(ours: list[str], more: list[str], seed: int) -> None:
    """Of one task, and of another that shares texts with it, in whatever order they come."""
    one, other = split_of(ours, [0] * len(ours)), split_of([*more, *ours[::2]], [1] * (len(more) + len(ours[::2])))
    origin, receiver = halves(one, seed)
    assert sorted([*origin.ids, *receiver.ids]) == sorted(one.ids)
    for half in (receiver, halves(other, seed)[1]):
        assert not {key_of(text) for text in origin.examples} & {key_of(text) for text in half.examples}
    backwards = split_of(ours[::-1], [0] * len(ours))
    assert set(halves(backwards, seed)[0].examples) == set(origin.examples)


def test_halves_are_halves_and_another_seed_divides_otherwise() -> None:
    many = split_of([f"text {i}" for i in range(4000)], [i % 2 for i in range(4000)])
    firsts = [set(halves(many, seed)[0].ids) for seed in range(4)]
    assert all(1800 < len(first) < 2200 for first in firsts)
    assert all(800 < len(a & b) < 1200 for a in firsts for b in firsts if a is not b)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_shuffled_labels_are_as_many_of_each_but_not_the_true_ones(labels: list[int], seed: int) -> None:
    true = split_of([str(i) for i in range(len(labels))], labels)
    shuffled = true.shuffled(rng_for(seed, "shuffled labels"))
    assert (shuffled.ids, shuffled.examples) == (true.ids, true.examples)
    assert sorted(shuffled.targets) == sorted(labels)
    assert (shuffled.targets != true.targets).any() == (len(set(labels)) > 1)
    again = true.shuffled(rng_for(seed, "shuffled labels"))
    assert (again.targets == shuffled.targets).all()


@pytest.mark.parametrize("name", ["paper-offline", "porting-same", "porting-shape", "drift"])
def test_recorded_jobs_are_those_of_the_study_files(name: str) -> None:
    """What the committed results record is what the committed files plan: nothing on disk begins anew."""
    recorded = set(pl.read_parquet(ROOT / "results" / name / "runs.parquet")["job"])
    study = read_study(ROOT / "studies" / f"{name}.toml")
    assert study.data.receiver == "shared"
    assert recorded <= plan_of(ROOT / "studies" / f"{name}.toml").jobs.keys()


def test_every_carried_run_learns_from_items_its_origin_did_not(tiny: Path) -> None:
    plan = plan_of(tiny, **DISJOINT, **SHUFFLED, tasks='["reviews", { origin = "reviews", receiver = "others" }]')
    seen = set()
    for run in plan.runs():
        job = plan.jobs[plan.job_of(run)]
        if isinstance(job, TrainJob):
            assert job.items.part == ("origin" if run.arm == "home" else "receiver"), run.name
            if isinstance(job.start, PortedStart):
                origin = plan.jobs[job.start.chain]
                assert isinstance(origin, TrainJob)
                assert origin.items == TrainedOn("origin", shuffled=run.arm == "shuffled")
                assert not job.items.shuffled
            seen.add(run.arm)
    assert seen == {"ported", "sampled", "shuffled", "scratch", "ceiling", "home"}


def test_only_what_learns_has_another_name(tiny: Path) -> None:
    """Bare hosts and distances are the same jobs in both ways; another seed of the division names other trainings."""
    shared, disjoint = plan_of(tiny), plan_of(tiny, **DISJOINT)
    kept = {job.id for job in disjoint.jobs.values() if isinstance(job, BareJob | DistanceJob)}
    assert shared.jobs.keys() & disjoint.jobs.keys() < kept  # further bare hosts: at home
    assert plan_of(tiny, data__receiver="shared", data__seed="3").jobs.keys() == shared.jobs.keys()
    assert plan_of(tiny, **DISJOINT, data__seed="3").jobs.keys() & disjoint.jobs.keys() == kept
    with_control = plan_of(tiny, **SHUFFLED)
    assert shared.jobs.keys() < with_control.jobs.keys()
    assert (with_control.sharing.runs, with_control.sharing.control_runs) == (32, 16)


def test_a_control_sampler_is_of_some_techniques_only(tiny: Path) -> None:
    plan = plan_of(tiny, control_samplers='{ adapter = ["norm_matched"] }')
    sampled = {(run.technique, run.method) for run in plan.runs() if run.arm == "sampled"}
    assert sampled == {("lora-2", "gaussian"), ("adapter", "gaussian"), ("adapter", "norm_matched")}
    assert (plan.sharing.runs, plan.sharing.control_runs) == (32, 8)


def test_origin_steps_and_rates_of_a_host_are_those_of_hosts_made_of_it(tiny: Path) -> None:
    hosts = '{ made = { base = "t5", text = "reviews", steps = 2 } }'
    apart = "{ t5 = { origin_steps = 5, learning_rates = { adapter = 0.5 } }, made = { origin_steps = 7 } }"
    plan = plan_of(tiny, hosts=hosts, training__hosts=apart, pairs='[["t5", "made"], ["made", "t5"], ["bert", "t5"]]')
    study = plan.study
    assert [study.origin_steps(host) for host in ("bert", "t5", "made")] == [3, 5, 7]
    assert [study.learning_rate("adapter", host) for host in ("bert", "t5", "made")] == [1e-2, 0.5, 0.5]
    assert [study.learning_rate("lora-2", host) for host in ("bert", "t5", "made")] == [1e-2, 1e-2, 1e-2]
    for run in plan.runs():
        job = plan.jobs[plan.job_of(run)]
        if isinstance(job, TrainJob) and isinstance(job.start, PortedStart):
            assert job.start.step == study.origin_steps(run.origin or "")
        if run.arm == "ceiling":
            assert run.budget == study.origin_steps(run.receiver)
    assert plan_of(tiny, training__hosts="{ bert = { origin_steps = 3 } }").jobs.keys() == plan_of(tiny).jobs.keys()
    asked = len(study.techniques) * 2 * 2 * 2  # techniques, arms, seeds, budgets
    ported, trained = asked * (5 + 7 + 3) + 3 * asked // 2 * 2, 2 * 2 * (2 + 5 + 2 + 7)  # origins and runs; baseline
    assert plan.sharing.steps_asked == ported + trained


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data__receiver": "disjunct"}, "data.receiver: "),
        ({"data__seed": "-1"}, "data.seed: "),
        ({"control_samplers": '{ lora = ["spectrum"] }'}, "control_samplers.lora: "),
        ({"control_samplers": '{ adapter = ["gaussian"] }'}, "expected each once, got 'gaussian' twice"),
        ({"control_samplers": '{ adapter = ["gauss"] }'}, "gauss"),
        ({"training__hosts": "{ nobody = { origin_steps = 3 } }"}, "training.hosts.nobody: expected a host of the"),
        ({"training__hosts": "{ bert = { learning_rates = { lora = 1.0 } } }"}, "training.hosts.bert.learning_rates"),
        ({"testing__split": "train"}, "testing.split: "),
        ({"gates__lift": "-1"}, "gates.lift: "),
        ({"gates__lifts": "1"}, "gates.lifts: "),
    ],
)
def test_mistakes_are_told_by_their_key(change: dict[str, str], says: str, tiny: Path) -> None:
    with pytest.raises(BadRequest) as refused:
        plan_of(tiny, **change)
    assert says in str(refused.value)


def test_a_disjoint_study_with_shuffled_labels_is_as_done_by_hand(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run with its own origin, on halves of the task, by the public functions: the same scores."""
    monkeypatch.setitem(loading.DTYPES, "float32", "float64")
    only = {"technique": frozenset({"adapter"}), "origin": frozenset({"bert"}), "seed": frozenset({"1"})}
    plan = plan_of(tiny, only, **DISJOINT, **SHUFFLED)
    assert run_in(tmp_path, plan).failed == 0
    ledger, artifacts = Ledger(tmp_path), Artifacts(tmp_path / "artifacts")
    arms = set()
    for run in plan.runs():
        if run.seed not in (1, None) or run.technique not in ("adapter", None) or run.arm == "sampled":
            continue
        row = ledger.row(plan.job_of(run))
        assert row is not None and row.artifact is not None
        stored = load_file(artifacts.path(row.artifact))[f"{row.id}/scores/{run.budget}"].numpy()
        np.testing.assert_allclose(stored, by_hand(run, plan.study).scores, rtol=1e-6, atol=1e-7, err_msg=run.name)
        arms.add(run.arm)
    ledger.close()
    assert arms == {"ported", "shuffled", "scratch", "ceiling", "home", "bare"}


def by_hand(run: Run, study: StudySpec) -> Scores:
    origin_half, receiver_half = halves(load_task("reviews.csv").train, study.data.seed)
    here = bound(run.receiver, study, origin_half if run.arm == "home" else receiver_half)
    if run.arm == "bare":
        return here.test(None, [])[0]
    technique = next(t for t in study.techniques if t.name == run.technique)
    rate, steps, seed = study.training.learning_rates[technique.name], study.training.origin_steps, run.seed or 0
    start = here.fresh(technique.spec, seed)
    if run.origin is not None:
        half = origin_half
        if run.arm == "shuffled":
            half = Split(half.ids, half.examples, half.shuffled(rng_for(seed, "shuffled labels")).targets)
        home = bound(run.origin, study, half)
        [kept] = home.train(technique.spec, [Start(home.fresh(technique.spec, seed), seed)], [steps], rate)
        module = home.module(technique.spec, kept[steps], seed, rate)
        start = here.startable(porter_named("copy").port(module, here.host, rng_for(seed, "porting")))
    [kept] = here.train(technique.spec, [Start(start, seed)], [run.budget], rate)
    return here.test(technique.spec, [kept[run.budget].matrices])[0]


def bound(host: str, study: StudySpec, learnt: Split) -> BoundTask:
    found = bind_task(host, load_task("reviews.csv"), settings=study.training.settings, test_items=study.testing.items)
    return replace(found, trained_on=learnt)


def test_a_half_that_cannot_be_learnt_is_refused_with_the_remedy(tiny: Path, tmp_path: Path) -> None:
    """A few texts of a label: with some seeds they are all in one half, so that the other lacks the label."""
    rng = np.random.default_rng(0)
    splits = ["train"] * 120 + ["valid"] * 10 + ["test"] * 40
    rows = [
        f"{' '.join(rng.choice(WORDS, size=12))},{'rare' if i % 40 == 0 else 'usual'},{split}"
        for i, split in enumerate(splits)
    ]
    (tmp_path / "few.csv").write_text("\n".join(["text,label,split", *rows]))
    train = load_task(str(tmp_path / "few.csv")).train
    seeds = [seed for seed in range(60) if _lacks(train, seed)]
    assert seeds, "no seed leaves a half without the rare label"
    plan = plan_of(
        tiny, {"technique": frozenset({"adapter"}), "origin": frozenset({"bert"})}, **DISJOINT,
        data__seed=str(seeds[0]), data__reviews__source=f'"{tmp_path / "few.csv"}"',
    )  # fmt: skip
    assert run_in(tmp_path / "runs", plan).failed
    ledger = Ledger(tmp_path / "runs")
    errors = [row.error or "" for row in ledger.rows() if row.state == "failed"]
    ledger.close()
    assert any("'rare' has no item in train" in error and '[data] receiver = "shared"' in error for error in errors)


def _lacks(train: Split, seed: int) -> bool:
    return any(len(set(half.targets.tolist())) < 2 for half in halves(train, seed))


def test_what_a_file_leaves_open_is_as_the_study_was_begun(tiny: Path, tmp_path: Path, peftport: Command) -> None:
    """A file that says nothing: disjoint where it is new; shared, with a line, where jobs of that are on record."""
    text = tiny.read_text(encoding="utf-8").replace('[data]\nreceiver = "shared"\n', "")
    path = tiny.with_name("open.toml")
    path.write_text(text, encoding="utf-8")
    arguments = (path, "--dir", tmp_path / "runs", "--only", "technique=adapter", "--only", "origin=bert")
    new = peftport("study", "plan", path, "--json")
    assert new.json["jobs"] == len(plan_of(tiny, **DISJOINT).jobs)
    only = {"technique": frozenset({"adapter"}), "origin": frozenset({"bert"})}
    run_in(tmp_path / "runs", plan_of(path, only))
    before = contents(tmp_path / "runs")
    again = peftport("study", "run", *arguments, "--workers", "1", "--json")
    assert (again.code, again.json["done"], again.json["before"]) == (0, 0, len(before))
    assert "data.receiver: shared" in again.err
    assert contents(tmp_path / "runs") == before


def test_the_grids_sampler_counts_and_a_control_sampler_is_named(tiny: Path, tmp_path: Path, peftport: Command) -> None:
    """Also where the control is the sampler that would be taken otherwise."""
    changes = {"samplers": '["permutation"]', "control_samplers": '{ adapter = ["gaussian"] }', "budgets": "[0]"}
    only = {"technique": frozenset({"adapter"}), "origin": frozenset({"bert"})}
    run_in(tmp_path / "runs", plan_of(tiny, only, **changes))
    setting = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    chosen = ("--dir", tmp_path / "runs", *setting, "--only", "technique=adapter", "--only", "origin=bert")
    assert peftport("study", "export", tiny, *chosen, "--out", tmp_path / "out").code == 0
    runs = pl.read_parquet(tmp_path / "out" / "runs.parquet")
    means = runs.group_by("arm", "method").agg(pl.col("accuracy").mean())
    of = {(arm, method): accuracy for arm, method, accuracy in means.iter_rows()}
    pooled = peftport("study", "report", tiny, *chosen, "--json").json["pooled"]
    gain = {row["versus"]: row["gain"] for row in pooled if row["scope"] == "all"}
    for versus, method in (("sampled", "permutation"), ("sampled by gaussian", "gaussian")):
        assert gain[versus] == pytest.approx(of["ported", "copy"] - of["sampled", method])
