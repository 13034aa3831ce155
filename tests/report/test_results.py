"""The committed results as pages: every folder under results/ that holds a study's runs, in a real browser."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from peftport.report.digest import cells
from peftport.report.findings import Findings
from peftport.report.html import render
from peftport.report.studied import study_findings
from peftport.study.export import read_about, read_export
from report.browsing import ROOT, Open, column, downloaded, heading, table

STUDIES = sorted(folder.parent for folder in (ROOT / "results").glob("*/runs.parquet"))
DRAWN = ("pooled", "aggregates", "curves", "retention", "savings", "verdicts")
FIRST_POOLED = 9  # panels drawn at once (templates/charts.js); the rest when asked for


@pytest.fixture(scope="module", params=STUDIES, ids=lambda folder: folder.name)
def findings(request: pytest.FixtureRequest) -> Findings:
    tables = read_export(request.param)
    return study_findings(tables.runs, tables.correct, read_about(request.param))


def test_the_page_of_committed_results(open_page: Open, findings: Findings, tmp_path: Path) -> None:
    """Charts drawn, tables sorted, filtered and downloaded; the fixture sees that nothing complains or leaves."""
    file = tmp_path / "report.html"
    file.write_text(render(findings), encoding="utf-8")
    page = open_page(file).page
    for name in DRAWN:
        marks = page.locator(f'[data-chart="{name}"] svg').locator(".mark-symbol path, .mark-rect path")
        assert marks.count() > 0, name
    every = cells(findings)["mean"].drop_nulls().sort()
    heading(page, "cells", "accuracy").click()
    shown = [float(text.split()[0]) for text in column(page, "cells", 7)]
    assert shown == pytest.approx(every.head(10).to_list(), abs=6e-4)
    technique = findings.techniques[0]
    table(page, "cells").locator("input").fill(f"{technique} ported")
    rows = downloaded(page, "cells")
    assert {(row["technique"], row["arm"]) for row in rows} == {(technique, "ported")}
    drawn = findings.pooled.filter(pl.col("beside").is_null() & pl.col("scope").is_in(["all", "technique"]))
    panels = drawn.select("method", "tasks", "versus", "budget").n_unique()
    assert page.locator('[data-chart="pooled"] .panel').count() == min(panels, FIRST_POOLED)
    assert all(line in page.locator("#headline").text_content() for line in findings.headlines)
