"""What a study is judged by: where most test items are of one class not by accuracy, unless somebody says so."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import peftport as pp
from peftport.metrics.choice import choice_for_classes, choose_for_study, majority_share
from peftport.metrics.resampling import resampled
from peftport.study import judged
from pico_folders import Result, Run, save_reviews
from pico_study import plan_of, run_in

CHANGES = {
    "data.reviews.source": '"lopsided.csv"', "pairs": '[["bert", "bert-updated"]]', "testing.items": "20",
}  # fmt: skip
SETS = [part for key, value in CHANGES.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def lopsided(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny study, run on reviews of which nine in ten are positive."""
    with save_reviews(home / "lopsided.csv", 240).open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    with (home / "lopsided.csv").open("w", encoding="utf-8", newline="") as file:
        labels = (("negative", "positive")[i % 10 > 0] for i in range(len(rows)))
        csv.writer(file).writerows([head, *([text, label] for (text, _), label in zip(rows, labels, strict=True))])
    folder = tmp_path_factory.mktemp("lopsided")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        run_in(folder, plan_of(Path("tiny.toml"), **CHANGES))
    return folder


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few draws of the items are enough here."""
    monkeypatch.setattr(judged, "resampled", partial(resampled, draws=12))


@pytest.fixture
def study(peftport: Run, tiny: Path, lopsided: Path) -> Run:
    """A command on the lopsided study."""

    def run(command: str, *arguments: object) -> Result:
        return peftport("study", command, tiny, "--dir", lopsided, *SETS, *arguments)

    return run


def test_a_lopsided_study_is_judged_by_balanced_accuracy(study: Run, tmp_path: Path) -> None:
    told = study("report", "--out", tmp_path / "page.html", "--json")
    found = told.json
    assert all("difference in balanced accuracy" in row["sentence"] for row in found["verdicts"])
    assert told.err.count("\n") == 1 and "% of those of reviews are of one class" in told.err
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Balanced accuracy on held-out items" in page and told.err.strip() in page
    assert found["metric"]["name"] == "balanced_accuracy" and found["metric"]["note"] == told.err.strip()
    share = found["metric"]["majorities"]["reviews"]
    assert share > 0.8 and f"20 test items a run ({share:.3f} of those of reviews are of the most frequent" in page


@pytest.mark.parametrize(("asked", "metric"), [(None, "balanced_accuracy"), ("accuracy", "accuracy")])
def test_gains_are_those_of_the_metric(asked: str | None, metric: str, tiny: Path, lopsided: Path) -> None:
    """Of the seeds' means of the exported column, for the default and for a metric that somebody names."""
    study = pp.Study.from_file(tiny, dir=lopsided, set=CHANGES)
    runs, found = study.export().runs, study.report(metric=asked)
    assert found.judged.name == metric
    means = runs.group_by("technique", "arm", "budget").agg(pl.col(metric).mean()).rows()
    mean = {tuple(key): value for *key, value in means}
    gains = found.findings.gains.filter(versus="scratch")
    assert len(gains) == 4
    for row in gains.iter_rows(named=True):
        own, other = (mean[row["technique"], arm, row["budget"]] for arm in ("ported", "scratch"))
        assert row["gain"] == pytest.approx(own - other, abs=1e-9)


@pytest.mark.parametrize(
    "options", [("--metric", "accuracy"), ("--set", 'testing.metric="accuracy"')], ids=["option", "file"]
)
def test_a_metric_that_is_named_counts(options: tuple[str, ...], study: Run) -> None:
    told = study("report", *options, "--json")
    assert told.json["metric"]["name"] == "accuracy" and not told.err
    assert all("difference in accuracy" in row["sentence"] for row in told.json["verdicts"])
    assert told.json["metric"]["majorities"]["reviews"] > 0.8
    assert "are of the most frequent class" in " ".join(study("report", *options).out.split())


def test_exported_tables_are_judged_as_their_study_is(study: Run, tiny: Path, lopsided: Path, tmp_path: Path) -> None:
    """The shares travel in study.json; where it has none, as in older ones, the report says that it cannot know."""
    out, declared = tmp_path / "out", pp.Study.from_file(tiny, dir=lopsided, set=CHANGES)
    assert study("export", "--out", out).code == 0
    there = study("report", "--results", out, "--json")
    assert there.json["metric"]["name"] == "balanced_accuracy" and there.json["metric"]["note"] == there.err.strip()
    assert declared.report(results=out, metric="auroc").judged.name == "auroc"
    named = pp.Study.from_file(tiny, set=CHANGES | {"testing.metric": "accuracy"})
    assert named.report(results=out).judged.name == "accuracy"

    told = (out / "study.json").read_text(encoding="utf-8")
    begin = told.index('"majorities"')
    (out / "study.json").write_text(told[:begin] + told[told.index('"tables"', begin) :], encoding="utf-8")
    old = declared.report(results=out)
    assert (old.judged.name, old.judged.note) == ("accuracy", "")
    assert "share of the most frequent class is not on record for reviews" in old.findings.notes[0]


def test_neither_jobs_nor_rows_depend_on_what_is_judged(study: Run, tiny: Path, tmp_path: Path) -> None:
    plans = [plan_of(tiny, **own) for own in (CHANGES, CHANGES | {"testing.metric": '"auroc"'})]
    assert len({frozenset(plan.jobs) for plan in plans}) == 1
    tables = []
    for name, options in (("one", ()), ("two", ("--set", 'testing.metric="auroc"'))):
        assert study("export", "--out", tmp_path / name, *options).code == 0
        tables.append((tmp_path / name / "runs.parquet").read_bytes())
    assert tables[0] == tables[1]


@pytest.mark.parametrize("option", [("--metric", "acuracy"), ("--set", 'testing.metric="acuracy"')])
def test_an_unknown_metric_is_one_line(option: tuple[str, ...], study: Run) -> None:
    told = study("report", *option)
    assert (told.code, told.err.count("\n")) == (2, 1) and "did you mean 'accuracy'" in told.err


@given(st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 1), min_size=1, max_size=9)))
def test_one_lopsided_set_decides(labels: dict[str, list[int]]) -> None:
    """The rule for a study of one task is that for a test; for several it is the strictest of them."""
    majorities = {task: majority_share(np.array(own)) for task, own in labels.items()}
    single = {choice_for_classes(np.array(own)).name for own in labels.values()}
    found = choose_for_study(majorities)
    assert found.name == ("balanced_accuracy" if "balanced_accuracy" in single else "accuracy")
    assert bool(found.note) == (found.name != "accuracy")
    assert choose_for_study(majorities, "accuracy").name == "accuracy"
