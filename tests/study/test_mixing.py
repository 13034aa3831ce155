"""A study never mixes inputs: what a job ran on is on its row, and a resume with anything changed is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peftport.core.environment import installed_versions
from peftport.hosts.fingerprint import Fingerprint
from peftport.store.ledger import Ledger
from peftport.study import executors, inputs
from peftport.study.inputs import difference, host_in
from peftport.study.messages import JobResult, Request
from pico import pico_model
from pico_folders import Result as Told
from pico_folders import Run, save_reviews
from pico_study import Here, contents, plan_of, records, run_in
from study.conftest import forget

MADE = """
[hosts.made]
base = "bert"
text = "words"
steps = 1
batch_size = 4
max_tokens = 16
head_warm_up_steps = 1

[data.words]
source = "words.csv"
"""


@pytest.fixture
def place(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with hosts, texts and a study that makes a host."""
    folder = tmp_path / "home"
    shutil.copytree(home, folder)
    text = (folder / "tiny.toml").read_text(encoding="utf-8").replace('["t5", "t5-updated"]', '["bert", "made"]')
    (folder / "made.toml").write_text(text + MADE, encoding="utf-8")
    save_reviews(folder / "words.csv", count=120)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(executors, "make_executor", lambda *_: Here())
    forget()
    return folder


@pytest.fixture
def study(peftport: Run, place: Path) -> Run:
    def run(*arguments: object) -> Told:
        forget()
        return peftport("study", "run", "made.toml", "--dir", "runs", *arguments)

    return run


def swap_words(place: Path) -> None:
    """Two words of a tokenizer trade their numbers."""
    path = place / "bert-updated" / "tokenizer.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    words = told["model"]["vocab"]
    one, other = list(words)[-2:]
    words[one], words[other] = words[other], words[one]
    path.write_text(json.dumps(told), encoding="utf-8")


def other_epsilon(place: Path) -> None:
    """A setting that changes numbers, and no byte of the weights."""
    path = place / "bert-updated" / "config.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**told, "layer_norm_eps": 0.03}), encoding="utf-8")


def other_weights(place: Path) -> None:
    pico_model("bert", view="body", seed=7).save_pretrained(place / "bert-updated")


def another_text(name: str) -> Callable[[Path], None]:
    """One word of a data set's first row changes."""

    def change(place: Path) -> None:
        lines = (place / name).read_text(encoding="utf-8").splitlines()
        lines[1] = " ".join(lines[1].split()[1:])
        (place / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    return change


@pytest.mark.parametrize(
    ("change", "jobs", "says"),
    [
        (swap_words, 12, "host bert-updated has changed since this study was begun: ids was "),
        (other_epsilon, 12, "host bert-updated has changed since this study was begun: config was "),
        (other_weights, 12, "host bert-updated has changed since this study was begun: weights was "),
        (another_text("reviews.csv"), 12, "task reviews has changed since this study was begun: its content was "),
        (another_text("words.csv"), 1, "task words has changed since this study was begun: its content was "),
    ],
)
def test_a_resume_with_anything_changed_is_refused(
    change: Callable[[Path], None], jobs: int, says: str, study: Run, place: Path, tmp_path: Path
) -> None:
    """Nothing is done, the line says which input, what it was and is; brought back, the study ends as undisturbed."""
    assert study("--max-jobs", jobs).code == 0
    before = records(place / "runs")
    shutil.copytree(place, tmp_path / "old", ignore=shutil.ignore_patterns("runs"))
    change(place)
    refused = study()
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert says in refused.err
    assert ", is " in refused.err and "give a new --dir" in refused.err
    assert records(place / "runs") == before
    assert study("--dir", "other", "--max-jobs", 1).code == 0, "another folder is a study of its own"
    shutil.copytree(tmp_path / "old", place, dirs_exist_ok=True)
    assert study().code == 0
    assert before.items() <= records(place / "runs").items()


def test_every_row_says_what_its_job_ran_on(place: Path) -> None:
    """Hosts as a whole, made ones too, tasks, versions; every set is kept once."""
    plan = plan_of(Path("made.toml"))
    run_in(place / "runs", plan)
    ledger = Ledger(place / "runs")
    sets, seen = ledger.inputs(), set()
    marks = {name: host_in(place / name, name) for name in ("bert", "bert-updated")}
    for row in ledger.rows():
        assert row.inputs is not None
        own, job = sets[row.inputs], plan.jobs[row.id]
        hosts = {key.removeprefix("host "): value for key, value in own.items() if key.startswith("host ")}
        tasks = {key for key in own if key.startswith("task ")}
        origin = getattr(getattr(job, "start", None), "host", None)
        expected = {
            "update": ({"bert"}, {"task words"}),
            "distance": ({getattr(job, "origin", ""), getattr(job, "receiver", "")}, set()),
        }.get(row.kind, ({getattr(job, "host", ""), *([origin] if origin else [])}, {"task reviews"}))
        assert (set(hosts), tasks) == expected
        assert {name: mark for name, mark in hosts.items() if name in marks}.items() <= marks.items()
        assert own["versions"]["torch"] == installed_versions()["torch"]
        seen.add(row.inputs)
    ledger.close()
    assert seen == sets.keys()
    assert len(sets) < len(plan.jobs) / 2


@pytest.mark.parametrize("field", sorted(Fingerprint.model_fields.keys() - {"name", "config", "settings", "tokenizer"}))
def test_whatever_differs_in_a_host_is_named(field: str, place: Path) -> None:
    """Every part that is compared, whatever it is; another name is no difference."""
    was = host_in(place / "bert", "bert")
    now = {**was, field: was[field] + 1 if isinstance(was[field], int) else f"other-{field}"}
    assert difference("host bert", was, {**was, "name": "elsewhere"}) is None
    assert f"{field} was {str(was[field])[:12]}, is {str(now[field])[:12]}" in (difference("host bert", was, now) or "")


def test_other_libraries_are_refused_or_accepted_and_on_record(
    study: Run, peftport: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study("--max-jobs", 12).code == 0
    first = contents(place / "runs").keys()
    old = installed_versions()
    monkeypatch.setattr(inputs, "installed_versions", lambda: {**old, "torch": "0.1", "python": "9.9"})
    refused = study()
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert f"torch was {old['torch']}, is 0.1" in refused.err
    assert "python" not in refused.err, "of no weight for numbers"
    assert "--accept-versions" in refused.err
    assert contents(place / "runs").keys() == first
    assert study("--accept-versions", "--max-jobs", 1).code == 0
    second = contents(place / "runs").keys() - first
    assert second
    assert study("--max-jobs", 1).code == 0, "accepted once, it is on record"
    monkeypatch.setattr(inputs, "installed_versions", lambda: old)
    assert study().code == 0
    assert peftport("study", "export", "made.toml", "--dir", "runs", "--out", "out").code == 0
    told = json.loads(Path("out/study.json").read_text(encoding="utf-8"))
    most, other = told["made_by"]
    assert (most["versions"], most["ids"]) == (old, [])
    assert other["versions"]["torch"] == "0.1"
    assert second <= set(other["ids"])
    assert not first & set(other["ids"])
    assert most["jobs"] + other["jobs"] == len(contents(place / "runs"))
    assert told["versions"]["torch"] == f"{old['torch']} and 0.1"


class OnOtherLibraries(Here):
    """A worker with another torch than the driver's."""

    def work(self, request: Request, blobs: Mapping[str, Path]) -> Any:
        found: JobResult = super().work(request, blobs)
        answers = [
            replace(a, inputs={**(a.inputs or {}), "versions": {**installed_versions(), "torch": "0.1"}})
            for a in found.answers
        ]
        return replace(found, answers=tuple(answers))


def test_a_worker_with_other_libraries_records_nothing(place: Path) -> None:
    found = run_in(place / "runs", plan_of(Path("made.toml")), OnOtherLibraries())
    assert found.done == 0
    ledger = Ledger(place / "runs")
    errors = {row.error.splitlines()[0] for row in ledger.rows() if row.state == "failed" and row.error}
    ledger.close()
    assert len(errors) == 1
    assert "a worker has other libraries than the driver: torch was " in errors.pop()
