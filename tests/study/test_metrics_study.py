"""A metric in a study: columns of old ledgers are filled from stored scores, old tables are read, verdicts go by it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from peftport.analysis.columns import OLD_METRICS, run_columns
from peftport.core.errors import PeftportError
from peftport.metrics import METRICS, metrics_of
from peftport.metrics.base import Metric, Predicted, predicted_classes
from peftport.metrics.resampling import resampled
from peftport.report.html import render
from peftport.report.studied import study_findings
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import Ledger
from peftport.study import judged
from peftport.study.about import about
from peftport.study.export import Exported, export, read_export, rows_of, write_export
from peftport.study.items import StoredItems
from peftport.study.verify import run_differences
from pico_folders import Run
from pico_study import plan_of


class FirstClass(Metric):
    """The share of items that are said to be of the first class."""

    name, title = "first_class", "share of the first class"

    def aggregate(self, predictions: Predicted) -> float | None:
        """Read off the predictions alone."""
        return float((predicted_classes(predictions) == 0).mean())


def export_of(tiny: Path, folder: Path) -> Exported:
    ledger = Ledger(folder)
    try:
        return export(plan_of(tiny), ledger, Artifacts(folder / "artifacts"))
    finally:
        ledger.close()


def test_a_new_metric_has_a_column_in_a_study_done_before_it(
    tiny: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tiny)
    before = export_of(tiny, undisturbed)
    monkeypatch.setitem(METRICS, FirstClass.name, FirstClass())
    exported = export_of(tiny, undisturbed)
    assert plan_of(tiny).jobs.keys() == plan.jobs.keys()
    assert exported.runs.drop(FirstClass.name).equals(before.runs)
    assert list(exported.runs.columns) == list(run_columns()) and exported.runs[FirstClass.name].null_count() == 0
    assert exported.runs[FirstClass.name].n_unique() > 0 and exported.runs[FirstClass.name].is_between(0, 1).all()
    write_export(exported, tmp_path, "parquet")
    assert read_export(tmp_path).runs.equals(exported.runs)
    judged = plan_of(tiny, **{"testing.metric": f'"{FirstClass.name}"'})
    assert judged.jobs.keys() == plan.jobs.keys()
    ledger = Ledger(undisturbed)
    try:
        found = study_findings(exported.runs, exported.correct, about(judged, ledger, ""))
    finally:
        ledger.close()
    assert all(f"difference in {FirstClass.title}" in said for said in found.verdicts["sentence"])
    assert FirstClass.title in (page := render(found)) and f'"column": "{FirstClass.name}"' in page
    assert found.metric == FirstClass.name


def test_tables_with_the_first_metrics_alone_stay_readable(tiny: Path, undisturbed: Path, tmp_path: Path) -> None:
    exported = export_of(tiny, undisturbed)
    old = exported.runs.drop([name for name in metrics_of("classification") if name not in OLD_METRICS])
    write_export(Exported(old, exported.correct), tmp_path, "parquet")
    read = read_export(tmp_path)
    assert list(read.runs.columns) == list(run_columns())
    assert read.runs.select(old.columns).equals(old) and read.runs["log_loss"].null_count() == len(old)
    names = exported.runs["run"].to_list()[:5]
    assert [each.columns_that_differ for each in run_differences(exported, read, names)] == [()] * 5
    write_export(Exported(old.drop("auroc"), exported.correct), tmp_path, "parquet")
    with pytest.raises(PeftportError, match="expected the columns of study export"):
        read_export(tmp_path)


def test_every_metric_of_a_study_is_that_of_its_stored_scores(tiny: Path, undisturbed: Path) -> None:
    runs = export_of(tiny, undisturbed).runs
    names = list(metrics_of("classification"))
    assert runs.select(pl.col(names).null_count()).row(0) == (0,) * len(names)
    assert np.allclose(runs["accuracy"], runs["balanced_accuracy"], atol=0.5)


def test_an_unknown_metric_in_a_study_file_is_one_line(peftport: Run, tiny: Path) -> None:
    told = peftport("study", "plan", tiny, "--set", 'testing.metric="acuracy"')
    assert (told.code, told.err.count("\n")) == (2, 1) and "did you mean 'accuracy'" in told.err


def test_a_metric_of_other_tasks_is_refused(peftport: Run, tiny: Path, undisturbed: Path) -> None:
    """When the study is planned, and when a report of what was run asks for it."""
    planned = peftport("study", "plan", tiny, "--set", 'testing.metric="chrf"')
    reported = peftport("study", "report", tiny, "--dir", undisturbed, "--metric", "chrf")
    for told in (planned, reported):
        assert (told.code, told.err.count("\n")) == (2, 1), told
        assert "chrf" in told.err and "classification" in told.err


@pytest.mark.parametrize("metric", ["log_loss", "balanced_accuracy", "auroc"])
def test_a_study_is_judged_by_its_metric_over_items(
    metric: str, tiny: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the study's own folder items are paired; from exported tables they are not, and the note says so."""
    monkeypatch.setattr(judged, "resampled", partial(resampled, draws=12))
    plan = plan_of(tiny, **{"testing.metric": f'"{metric}"'})
    ledger = Ledger(undisturbed)
    try:
        exported = export(plan, ledger, Artifacts(undisturbed / "artifacts"))
        told = about(plan, ledger, "")
        tests = judged.stored_tests(rows_of(plan, ledger), StoredItems(Artifacts(undisturbed / "artifacts")))
        items = judged.judged_items(metric, exported.runs, tests)
    finally:
        ledger.close()
    found = study_findings(exported.runs, exported.correct, told, items=items)
    assert METRICS[metric].title in found.verdicts["sentence"][0]
    assert not found.gains["note"].fill_null("").str.contains("no per-item results").any()
    sign = 1 if METRICS[metric].higher_is_better else -1
    means = exported.runs.group_by("technique", "receiver", "arm", "budget").agg(pl.col(metric).mean()).rows()
    mean = {tuple(key): value for *key, value in means}
    for row in found.gains.filter(versus="scratch").iter_rows(named=True):
        own, other = (mean[row["technique"], row["receiver"], arm, row["budget"]] for arm in ("ported", "scratch"))
        assert row["gain"] == pytest.approx(sign * (own - other), abs=1e-9)
    write_export(exported, tmp_path, "parquet")
    read = read_export(tmp_path)
    if metric == "log_loss":
        with pytest.raises(PeftportError, match="--metric log_loss: expected its per-item results"):
            study_findings(read.runs, read.correct, told)
    else:
        notes = study_findings(read.runs, read.correct, told).gains["note"].fill_null("")
        assert notes.str.contains("no per-item results").all()
