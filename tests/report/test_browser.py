"""The page in a real browser: drawn, usable by hand and keyboard, quiet, and closed to the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from playwright.sync_api import Page

from peftport.report.digest import cells
from peftport.report.figures import CHARTS
from peftport.report.findings import Findings
from peftport.report.html import render
from report.browsing import Open, column, downloaded, heading, table
from report.simulated import HOSTILE, simulated

# Colours by role, read where the browser resolves CSS variables.
COLOUR = "(e, of) => getComputedStyle(e)[of]"


def paper_of(page: Page) -> str:
    return str(page.locator("body").evaluate(COLOUR, "backgroundColor"))


def test_every_chart_is_drawn_with_marks(open_page: Open, report: Path) -> None:
    page = open_page(report).page
    for name in CHARTS:
        panels = page.locator(f'[data-chart="{name}"] .panel')
        assert panels.count() >= 1, name
        for index in range(panels.count()):
            svg = panels.nth(index).locator("svg")
            assert svg.locator(".mark-symbol path, .mark-rect path").count() > 0, (name, index)
            box = svg.bounding_box()
            assert box and box["width"] > 150 and box["height"] > 60


def test_a_curve_lies_where_its_numbers_say(open_page: Open, report: Path, findings: Findings) -> None:
    """The heights of a panel's points are a straight line in the frame's accuracies of that cell."""
    page = open_page(report).page
    panel = page.locator('[data-chart="curves"] .panel').first
    technique, pair = panel.locator("h3").evaluate("(e) => [e.firstChild.textContent, e.lastChild.textContent]")
    origin, receiver = pair.split(" → ")
    own = findings.curves.filter(technique=technique, origin=origin, receiver=receiver)
    own = own.filter(origin_task="rotten_tomatoes", receiver_task="rotten_tomatoes")
    known = {(arm, budget): mean for arm, budget, mean in own.select("arm", "budget", "mean").iter_rows()}
    said, tops = [], []
    for mark in panel.locator(".mark-symbol path").all():
        label = dict(part.split(": ", 1) for part in (mark.get_attribute("aria-label") or "").split("; "))
        said.append(known[label["arm"], int(label["budget"])])
        box = mark.bounding_box()
        assert box
        tops.append(box["y"] + box["height"] / 2)
    assert len(said) == 9  # three arms at three budgets
    slope, start = np.polyfit(said, tops, 1)
    assert slope < 0
    assert np.abs(np.polyval([slope, start], said) - tops).max() < 2  # pixels


def test_hostile_names_stay_text_everywhere(open_page: Open, report: Path) -> None:
    """Title, choices, chart labels, tables and tooltips show the name; no element is made of it and no script runs."""
    page = open_page(report).page
    assert HOSTILE in page.locator("h1").inner_text()
    assert page.locator("script").count() == 4
    assert page.locator("b", has_text="not bold").count() == 0
    assert HOSTILE in page.locator('[data-chart="curves"] h3').all_inner_texts()[0]
    table(page, "cells").locator("input").fill("script")
    assert any(HOSTILE in cell for cell in column(page, "cells", 2))
    point = page.locator('[data-chart="distance"] .mark-symbol path').first
    point.scroll_into_view_if_needed()
    point.hover(force=True)
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert page.locator("#vg-tooltip-element script").count() == 0
    assert "host distance" in page.locator("#vg-tooltip-element").inner_text()


def test_sorting_orders_the_whole_table_both_ways(open_page: Open, report: Path, findings: Findings) -> None:
    page = open_page(report).page
    button = heading(page, "cells", "accuracy")
    everything = cells(findings)["mean"].drop_nulls().sort()
    for direction, expected in (("ascending", everything), ("descending", everything.reverse())):
        button.click()
        assert button.locator("xpath=..").get_attribute("aria-sort") == direction
        shown = [float(text.split()[0]) for text in column(page, "cells", 7)]
        assert shown == pytest.approx(expected.head(10).to_list(), abs=6e-4)


def test_filtering_needs_every_word(open_page: Open, report: Path, findings: Findings) -> None:
    page = open_page(report).page
    table(page, "cells").locator("input").fill("LORA ported sst2")
    own = cells(findings).filter(pl.col("technique") == "lora", pl.col("arm") == "ported")
    own = own.filter((pl.col("origin_task") == "sst2") | (pl.col("receiver_task") == "sst2"))
    assert table(page, "cells").locator(".count").inner_text().startswith(f"{own.height} of ")
    assert set(column(page, "cells", 1)) == {"lora"}
    table(page, "cells").locator("input").fill("no such word")
    assert column(page, "cells", 1) == []


def test_the_download_is_the_filtered_table_in_its_order(open_page: Open, report: Path, findings: Findings) -> None:
    page = open_page(report).page
    whole = downloaded(page, "cells")
    frame = cells(findings)
    assert len(whole) == frame.height
    assert list(whole[0]) == frame.columns
    assert [row["origin"] or None for row in whole] == frame["origin"].to_list()
    means = [float(row["mean"]) if row["mean"] else None for row in whole]
    assert means == pytest.approx(frame["mean"].round(4).to_list())
    table(page, "cells").locator("input").fill("prefix ceiling")
    heading(page, "cells", "task").click()
    some = downloaded(page, "cells")
    assert {row["technique"] for row in some} == {"prefix"} and {row["arm"] for row in some} == {"ceiling"}


def test_pages_of_a_table_hold_each_row_once(open_page: Open, report: Path) -> None:
    page = open_page(report).page
    seen = []
    while True:
        seen += table(page, "problems").locator("tbody tr").all_inner_texts()
        following = table(page, "problems").locator("button", has_text="Next")
        if not following.count() or following.is_disabled():
            break
        following.click()
    counted = table(page, "problems").locator(".count").inner_text()
    assert counted == f"{len(seen)} rows"


def test_choosing_tasks_draws_their_curves(open_page: Open, report: Path) -> None:
    page = open_page(report).page
    assert page.locator("#slice-tasks").input_value() == "rotten_tomatoes"
    page.locator("#slice-tasks").select_option("sst2 → rotten_tomatoes")
    page.wait_for_selector('html[data-loading="all drawn"]', state="attached")
    assert page.locator('[data-chart="retention"] h3').all_inner_texts() == ["sst2 → rotten_tomatoes, copy"]
    page.locator("#slice-tasks").select_option("")
    page.wait_for_selector('html[data-loading="all drawn"]', state="attached")
    assert page.locator('[data-chart="retention"] .panel').count() == 3
    first = page.locator('[data-chart="curves"] .panel').count()
    page.locator('[data-chart="curves"] .more').click()
    page.wait_for_function(f"document.querySelectorAll('[data-chart=curves] .panel svg').length > {first}")


def test_every_control_is_reached_and_worked_by_keyboard(open_page: Open, report: Path) -> None:
    page = open_page(report).page
    controls = "a[href], button, select, input, summary, [tabindex='0']"
    wanted = page.evaluate(
        "(all) => [...document.querySelectorAll(all)].filter((e) => !e.disabled && e.checkVisibility()).length",
        controls,
    )
    page.evaluate("() => { window.reached = new Set(); }")
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        page.evaluate("() => window.reached.add(document.activeElement)")
    reached = page.evaluate("() => [...window.reached].filter((e) => e !== document.body).length")
    assert reached >= wanted
    heading(page, "cells", "steps").focus()
    page.keyboard.press("Enter")
    assert heading(page, "cells", "steps").locator("xpath=..").get_attribute("aria-sort") == "ascending"
    outline = heading(page, "cells", "steps").evaluate(COLOUR, "outlineStyle")
    assert outline == "solid"


def test_dark_and_light_follow_the_system_and_the_button(open_page: Open, report: Path) -> None:
    light, dark = open_page(report).page, open_page(report, scheme="dark").page
    paper = {
        name: page.locator("body").evaluate(COLOUR, "backgroundColor") for name, page in (("l", light), ("d", dark))
    }
    assert paper == {"l": "rgb(255, 255, 255)", "d": "rgb(20, 24, 28)"}
    label = '[data-chart="curves"] .role-axis-label text'
    before = dark.locator(label).first.evaluate(COLOUR, "fill")
    dark.locator("#theme").click()
    assert paper_of(dark) == paper_of(light)
    assert dark.locator(label).first.evaluate(COLOUR, "fill") != before


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_sticks_out_sideways(open_page: Open, report: Path, width: int) -> None:
    page = open_page(report, width=width).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        """(width) => [...document.querySelectorAll('main svg, main p, main li, .bar, .pager')]
        .filter((e) => e.checkVisibility() && e.getBoundingClientRect().right > width + 1).length""",
        width,
    )
    assert wide == 0


def test_text_and_background_differ_enough(open_page: Open, report: Path) -> None:
    """WCAG contrast of at least 4.5 for text, soft text and links, light and dark."""
    for scheme in ("light", "dark"):
        page = open_page(report, scheme=scheme).page
        for selector in ("h1", ".about", "nav a", ".fine", "thead button", ".interval"):
            one = page.locator(selector).locator("visible=true").first
            assert (
                contrast(one.evaluate(COLOUR, "color"), page.locator("body").evaluate(COLOUR, "backgroundColor")) > 4.5
            )


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour[4:-1].split(",")]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_print_is_light_and_without_controls(open_page: Open, report: Path) -> None:
    page = open_page(report, scheme="dark").page
    page.emulate_media(media="print")
    assert paper_of(page) == "rgb(255, 255, 255)"
    assert page.locator("nav").is_hidden() and page.locator(".download").first.is_hidden()
    assert page.locator('[data-chart="curves"] svg').first.is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_a_page_without_data_says_what_is_left_out(open_page: Open, tmp_path: Path) -> None:
    file = tmp_path / "empty.html"
    file.write_text(render(Findings(study="nothing yet")), encoding="utf-8")
    page = open_page(file).page
    said = page.locator("#problems").inner_text()
    for title in ("Learning curves", "What a module keeps", "There and back", "Every cell"):
        assert f"{title}: " in said


def test_many_cells_are_searched_and_sorted(open_page: Open, tmp_path: Path) -> None:
    many = simulated(runs=60_000, rng=np.random.default_rng(1))
    file = tmp_path / "many.html"
    file.write_text(render(many), encoding="utf-8")
    page = open_page(file).page
    assert page.locator('[data-chart="curves"] .panel').count() == 16
    table(page, "cells").locator("input").fill("distill prefix scratch")
    own = cells(many).filter(method="distill", technique="prefix", arm="scratch")
    page.wait_for_function(
        "(n) => document.querySelector('[data-table=cells] .count').textContent.startsWith(n)", arg=f"{own.height:,} of"
    )
    heading(page, "cells", "accuracy").click()
    assert float(column(page, "cells", 7)[0].split()[0]) == pytest.approx(own["mean"].min(), abs=6e-4)
