"""A comparison's page: its numbers are the comparison's, and what it cannot know is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peftport.core.arms import ARMS
from peftport.report.compared import comparison_findings, demo_findings
from peftport.report.findings import Findings
from peftport.report.html import render
from peftport.training.evaluation import Scores
from peftport.workflows.compare_tables import ComparisonAnalysis
from peftport.workflows.comparison import Comparison, ComparisonPlan, ComparisonRow
from peftport.workflows.demo import Demo, DemoSettings
from report.browsing import Open, downloaded, table

BUDGETS, SEEDS, ITEMS = (0, 10), (0, 1), 60


def scores(right: np.ndarray[Any, Any]) -> Scores:
    labels = np.arange(len(right)) % 2
    return Scores(np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)], labels)


def planted(technique: str, share: float) -> Comparison:
    """Ported right on ``share`` of the items at budget 0, all other arms on half of them; .8 after training."""
    rng = np.random.default_rng(0)
    found = {}
    for arm in ARMS:
        for budget in BUDGETS:
            for seed in SEEDS:
                rate = 0.8 if budget else share if arm == "ported" else 0.5
                found[arm, budget, seed] = scores(rng.random(ITEMS) < rate)
    rows = [
        ComparisonRow(technique, "<old>", "new", arm, budget, seed, s.measures(), ITEMS, 1.5)
        for (arm, budget, seed), s in found.items()
    ]
    bare = scores(np.arange(ITEMS) % 2 == 0)
    return Comparison(technique, "<old>", "new", "toy", ComparisonPlan(BUDGETS, SEEDS), 1e-3, bare, rows, found)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found() -> Findings:
    analysis = ComparisonAnalysis([planted("lora", 0.9), planted("prefix", 0.5)])
    return comparison_findings(analysis, study="s", about="a", command="c")


def test_curves_and_gains_are_the_comparisons(found: Findings) -> None:
    comparison = planted("lora", 0.9)
    for row in found.curves.filter(technique="lora").iter_rows(named=True):
        tests = [comparison.scores.get((row["arm"], row["budget"], seed), comparison.bare) for seed in SEEDS]
        assert row["mean"] == pytest.approx(np.mean([test.accuracy for test in tests]))
        assert row["low"] <= row["mean"] <= row["high"]
    for row in found.gains.filter(technique="lora").iter_rows(named=True):
        known = ComparisonAnalysis([comparison]).difference("ported", row["versus"], row["budget"])
        assert (row["gain"], row["low"], row["high"]) == pytest.approx((known.estimate, known.low, known.high))
    [start] = found.gains.filter(technique="lora", versus="sampled", budget=0).iter_rows(named=True)
    assert start["gain"] > 0.3
    assert found.runs.height == 2 * len(ARMS) * len(BUDGETS) * len(SEEDS)


def test_its_page_draws_and_says_what_it_leaves_out(found: Findings, open_page: Open, tmp_path: Path) -> None:
    file = tmp_path / "compare.html"
    file.write_text(render(found), encoding="utf-8")
    page = open_page(file).page
    assert page.locator('[data-chart="curves"] .panel').count() == 2
    # Nine points would be three arms at three budgets; here two budgets, and the bare host as a line with its name.
    assert page.locator('[data-chart="curves"] .panel').first.locator(".mark-symbol path").count() == 6
    assert "bare" in page.locator('[data-chart="curves"] .panel').first.inner_text()
    assert "<old> → new" in page.locator('[data-chart="curves"] h3').first.inner_text()
    assert "What a module keeps: no ceiling was trained" in page.locator("#problems").inner_text()
    assert page.locator("#slice").is_hidden()
    titles = page.locator('[data-table="gains"] thead button').all_inner_texts()
    assert any("gain" in title for title in titles) and {"p", "p (Holm)"} <= set(titles)


def test_the_demo_has_the_same_page_with_its_command() -> None:
    settings = DemoSettings(budgets=BUDGETS, seeds=SEEDS, test_items=ITEMS)
    demo = Demo(settings, [planted("lora", 0.9)], {"lora": 0.8}, 0.5, 3.0)
    found = demo_findings(demo)
    assert found.command == "peftport demo" and "lora 0.800" in found.notes[0]
    assert '<pre id="command" tabindex="0">peftport demo</pre>' in render(found)
    assert json.dumps(dict(found.versions)).count("torch") == 1


def test_the_demos_page_in_a_browser(open_page: Open, tmp_path: Path) -> None:
    """Curves drawn, every cell in the table, filter and download; the fixture sees that nothing complains or leaves."""
    settings = DemoSettings(budgets=BUDGETS, seeds=SEEDS, test_items=ITEMS)
    arms = [planted("lora", 0.9), planted("prefix", 0.6)]
    found = demo_findings(Demo(settings, arms, {"lora": 0.8, "prefix": 0.7}, 0.5, 3.0))
    file = tmp_path / "report.html"
    file.write_text(render(found), encoding="utf-8")
    page = open_page(file).page
    assert page.locator('[data-chart="curves"] svg .mark-symbol path').count() > 0
    table(page, "cells").locator("input").fill("lora ported")
    rows = downloaded(page, "cells")
    assert len(rows) == len(arms[0].plan.budgets)
    assert {(row["technique"], row["arm"]) for row in rows} == {("lora", "ported")}
