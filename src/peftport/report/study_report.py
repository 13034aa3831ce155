"""The jobs ``study report`` and ``study watch``: a study's findings, from its ledger or its tables, and the files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from peftport.core.errors import BadRequest
from peftport.core.libraries import pl
from peftport.core.progress import step
from peftport.metrics.choice import StudyMetric
from peftport.report.export import export_figures
from peftport.report.findings import Findings, frame
from peftport.report.html import render
from peftport.report.latex import latex_tables
from peftport.report.studied import study_findings
from peftport.store.artifacts import write_text
from peftport.study.about import about
from peftport.study.answers import study_answers
from peftport.study.commands import ReportRequest, WatchRequest
from peftport.study.export import Exported, export, read_about, read_export, recorded_items, rows_of
from peftport.study.gate_results import study_gates
from peftport.study.items import StoredItems
from peftport.study.judged import judged_items, recorded_tests, stored_tests
from peftport.study.kinds import check_generated
from peftport.study.opened import OpenedStudy
from peftport.study.plan import Plan
from peftport.study.status import follow_study
from peftport.study.tested import judged_by


@dataclass(frozen=True, eq=False)
class StudyReport:
    """What came out of a study, what it is judged by, and the files that were written."""

    findings: Findings
    judged: StudyMetric
    files: tuple[Path, ...] = ()


def report_study(opened: OpenedStudy, request: ReportRequest) -> StudyReport:
    """Compute what came out, and write the page, figures and tables that are asked for.

    The metric is the one asked for, else that of the study file, else that on record beside exported tables; where none
    of them names one, the usual one of the tasks' kind: of classes accuracy, or balanced accuracy for lopsided sets.

    Raises:
        BadRequest: nothing was run yet, the ledger is damaged, there are no tables, they are of another study, or the
            metric is unknown.
        PeftportError: an artifact is missing or corrupt, or the tables were altered.

    """
    asked = request.metric or opened.plan.study.testing.metric
    if request.results is None:
        findings, judged = _from_ledger(opened, asked)
    else:
        findings, judged = _from_tables(Path(request.results), asked, opened.plan)
    files: list[Path] = []
    if request.out is not None:
        with step("drawing the page"):
            page = render(findings)
        write_text(Path(request.out), page)
        files.append(Path(request.out))
    if request.figures is not None:
        with step("drawing the figures"):
            files += export_figures(findings, Path(request.figures), request.format)
    if request.latex is not None:
        files += latex_tables(findings, Path(request.latex))
    return StudyReport(findings, judged, tuple(files))


def watch_study(opened: OpenedStudy, request: WatchRequest) -> StudyReport:
    """Wait until no job of a study is left, then compute what came out.

    Raises:
        BadRequest: nothing was run yet.

    """
    follow_study(opened, request)
    return report_study(opened, ReportRequest())


def _from_ledger(opened: OpenedStudy, asked: str | None) -> tuple[Findings, StudyMetric]:
    with opened.ledger() as ledger:
        exported = export(opened.plan, ledger, opened.artifacts)
        told = about(opened.plan, ledger, opened.command, exported.tested, study_gates(opened, ledger))
        judged = judged_by(exported.tested, asked)
        check_generated(told.study, judged.name)
        rows, stored = rows_of(opened.plan, ledger), StoredItems(opened.artifacts)
        items = judged_items(judged.name, exported.runs, stored_tests(rows, stored))
        answers = [asdict(answer) for answer in study_answers(opened.plan, rows, stored)]
    found = study_findings(exported.runs, exported.correct, told, judged=judged, items=items)
    return replace(found, answers=frame("answers", answers)), judged


def _from_tables(folder: Path, asked: str | None, plan: Plan) -> tuple[Findings, StudyMetric]:
    exported, told = _of_plan(read_export(folder), plan, folder), read_about(folder)
    judged = judged_by(exported.tested, asked or told.study.testing.metric)
    check_generated(told.study, judged.name)
    table = None if judged.name == "accuracy" else recorded_items(folder)
    items = None
    if table is not None:
        items = judged_items(judged.name, exported.runs, recorded_tests(exported.runs, table, told.kinds))
    return study_findings(exported.runs, exported.correct, told, judged=judged, items=items), judged


def _of_plan(exported: Exported, plan: Plan, folder: Path) -> Exported:
    """Keep those of the exported runs that are asked for; tables that lack one of them are of another study."""
    wanted = {run.name for run in plan.runs()}
    runs = exported.runs.filter(pl.col("run").is_in(wanted))
    if runs.height < len(wanted):
        raise BadRequest(
            f"--results {folder}: expected the {len(wanted)} runs of {plan.study.name}, got {runs.height} of them; "
            "give the study file of these tables, or --only with what they have"
        )
    return replace(exported, runs=runs, correct=exported.correct.filter(pl.col("run").is_in(wanted)))
