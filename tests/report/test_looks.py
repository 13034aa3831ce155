"""Every page at every width, in light, dark and on paper: nothing overflows, nothing overlaps, axe finds nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from peftport.api.upgrade_result import Upgraded
from peftport.report.compared import comparison_findings
from peftport.report.html import render
from peftport.report.upgraded import upgrade_page
from peftport.workflows.compare_tables import ComparisonAnalysis
from peftport.workflows.upgrade import CODES, Upgrade
from peftport.workflows.upgrade_requests import UpgradeRequest
from peftport.workflows.upgrading.ledger import Span, UpgradeRecord
from report.browsing import Open
from report.test_compared import planted

PAPER = 700  # no paper is narrower, in CSS pixels between its margins
MEDIA = ({"color_scheme": "light"}, {"color_scheme": "dark"}, {"media": "print"})
OUTCOMES = ("copy", "align", "refresh", "retrain", "not enough evidence", "refused")
# Pairs of texts of one drawing, or of one card, whose boxes share more than a pixel each way.
OVERLAPS = """() => {
  const found = [];
  for (const place of document.querySelectorAll('.canvas svg, .marks, thead, .panel h3')) {
    const texts = place.querySelectorAll(place.matches('svg') ? 'text' : 'span:not(.track), th');
    const boxes = [...texts].filter((e) => e.textContent.trim() && e.checkVisibility({ opacityProperty: true }))
      .map((e) => [e.textContent.trim(), e.getBoundingClientRect(), e]);
    for (let i = 0; i < boxes.length; i += 1) for (let j = i + 1; j < boxes.length; j += 1) {
      const [a, b] = [boxes[i][1], boxes[j][1]];
      if (boxes[i][2].contains(boxes[j][2]) || boxes[j][2].contains(boxes[i][2])) continue;
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      if (across > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1)
        found.push(`${boxes[i][0]} / ${boxes[j][0]}`);
    }
  }
  return found;
}"""
STICKING_OUT = """() => [...document.querySelectorAll('main :is(svg, p, li, td, dd, pre), h1, nav li')]
  .filter((e) => e.checkVisibility() && e.getBoundingClientRect().right > window.innerWidth + 1 && !e.closest('.wide'))
  .map((e) => e.outerHTML.slice(0, 200))"""

# Tables that are wider than their place.
SCROLLING = """() => [...document.querySelectorAll('.wide')]
  .filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
  .map((e) => `${e.getAttribute('aria-label')}: ${e.scrollWidth} > ${e.clientWidth}`)"""


def records(rng: np.random.Generator, number: int = 12) -> Iterator[UpgradeRecord]:
    """Modules of every outcome, with hostile and long names."""
    for index in range(number):
        outcome = OUTCOMES[index % len(OUTCOMES)]
        numbers: dict[str, Any] = {}
        if outcome != "refused":
            home, bare, ported = rng.uniform(0.3, 1, 3).round(4)
            numbers = {"home": home, "bare": bare, "ported": ported, "metric": "accuracy", "items": 200}
            numbers |= {
                name: Span(estimate=mean, low=mean - 0.05, high=mean + 0.05)
                for name, mean in (("gain", ported - bare), ("change", ported - home))
            }
        name = f"<b>module</b>-{index}" if index % 5 else f"a-rather-long-name-of-a-module-{index}"
        why = "It was tested, and this is what came of it. " * (1 + index % 3)
        about = {} if outcome == "refused" else {"technique": "lora", "format": "peft", "method": "copy"}
        yield UpgradeRecord(name=name, module=name, content="0", outcome=outcome, why=why, **about, **numbers)  # type: ignore[arg-type]


def upgrade_of(seed: int, number: int = 12) -> Upgrade:
    return Upgrade("old-host", "new-host", "toy", tuple(records(np.random.default_rng(seed), number)))


@pytest.fixture(scope="module", params=("compare", "study", "upgrade"))
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of each kind."""
    if request.param == "study":
        found: Path = request.getfixturevalue("report")
        return found
    path: Path = tmp_path_factory.mktemp("looks") / f"{request.param}.html"
    if request.param == "upgrade":
        text = upgrade_page(upgrade_of(1), "peftport upgrade old-host new-host modules")
    else:
        analysis = ComparisonAnalysis([planted("lora", 0.9), planted("prefix", 0.5)])
        text = render(comparison_findings(analysis, study="s", about="a", command="c"))
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("width", (1280, 768, 390))
def test_nothing_overflows_or_overlaps_and_axe_finds_nothing(open_page: Open, file: Path, width: int) -> None:
    page: Page = open_page(file, width=width).page
    for media in MEDIA if width >= PAPER else MEDIA[:2]:
        page.emulate_media(**{"media": "screen", **media})  # type: ignore[arg-type]
        assert page.evaluate("document.documentElement.scrollWidth") <= width, media
        assert page.evaluate(STICKING_OUT) == [], media
        assert page.evaluate(SCROLLING) == [], media
        assert page.evaluate(OVERLAPS) == [], media
        violations = Axe().run(page).response["violations"]
        told = [(v["id"], v["help"], [node["html"][:160] for node in v["nodes"][:3]]) for v in violations]
        assert told == [], json.dumps(told, indent=1)


@pytest.mark.parametrize("seed", range(3))
def test_an_upgrades_terminal_json_and_page_say_the_same(open_page: Open, tmp_path: Path, seed: int) -> None:
    upgrade = upgrade_of(seed, number=4 + 3 * seed)
    result = Upgraded(UpgradeRequest("old-host", "new-host", ("m",), task="toy", out=tmp_path / "out"), upgrade)
    document = json.loads(json.dumps(result.as_json()))
    page_file = tmp_path / "report.html"
    page_file.write_text(upgrade_page(upgrade, "peftport upgrade"), encoding="utf-8")
    page = open_page(page_file).page
    answer = page.locator(".card .verdict").inner_text()
    assert str(result) == document["summary"] and str(result) in answer and str(result) in result.lines()
    [printed] = result.tables()
    for row, shown, kept in zip(page.locator("tbody tr").all(), printed.rows, document["modules"], strict=True):
        cells = dict(zip(printed.columns, row.locator("td").all_inner_texts(), strict=True))
        assert cells["module"] == shown[0] == kept["name"]
        assert cells["outcome"] == shown[-1] == kept["outcome"]
        assert cells["gain"].replace("\n", " ") == (shown[printed.columns.index("gain")] or "none")
    gains = [kept["gain"] for kept in document["modules"] if kept["gain"] is not None]
    drawn = page.locator(".marks .value").all_inner_texts()
    assert drawn == [f"{g['estimate']:+.3f} [{g['low']:+.3f}, {g['high']:+.3f}]" for g in gains]
    outcomes = {kept["outcome"] for kept in document["modules"]}
    worst = next((word for word in CODES if word in outcomes), "usable")
    assert page.locator(".card").get_attribute("data-is") == worst
    assert document["exit_code"] == CODES.get(worst, 0)
