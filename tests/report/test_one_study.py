"""What a study says on the terminal, as JSON and on its page is the same, for every committed study."""

from __future__ import annotations

import json
from html import unescape

from peftport.api.study_results import Reported
from peftport.metrics.choice import StudyMetric
from peftport.report.findings import Findings
from peftport.report.html import render
from peftport.report.study_report import StudyReport
from report.test_one_statistic import embedded
from report.test_results import findings

__all__ = ["findings"]  # a page of each study under results/


def test_terminal_json_and_page_of_a_study_agree(findings: Findings) -> None:
    result = Reported(StudyReport(findings, StudyMetric(findings.metric)))
    said, page = json.loads(json.dumps(result.as_json(), default=str)), render(findings)
    frames, text = embedded(page), unescape(page)
    assert said["headlines"] == [*findings.headlines] == result.lines()
    assert all(line in text for line in said["headlines"])
    keys = ("technique", "receiver", "receiver_task", "verdict", "sentence")
    told = [tuple(row[key] for key in keys) for row in said["verdicts"]]
    assert told == [tuple(row[key] for key in keys) for row in frames["verdicts"]]
    assert len(frames["pooled"]) == len(said["pooled"])
    for shown, kept in zip(frames["pooled"], said["pooled"], strict=True):
        for key in ("gain", "low", "high"):
            assert shown[key] is kept[key] is None or abs(shown[key] - kept[key]) < 1e-4
    [table] = result.tables()
    printed = {cell for row in table.rows for cell in row}
    over_all = [row for row in said["pooled"] if row["scope"] == "all" and row["beside"] is None]
    for row in over_all:
        assert any(f"{row['gain']:+.3f}" in cell for cell in printed), row
