"""The page as text: closed to the network, the same for the same findings, honest about what it leaves out."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import numpy as np
import pytest

from peftport.report import html
from peftport.report.figures import CHARTS, PARAMS, Canvas, drawing
from peftport.report.findings import Findings
from peftport.report.html import render
from peftport.report.pack import unpacked
from peftport.report.palette import ARMS, PAGE, PAPER, Palette
from report.simulated import HOSTILE, simulated


def blocks(page: str) -> list[tuple[str, str]]:
    """Attributes and content of every script block, read as a browser does: the first ``</script`` closes."""
    return re.findall(r"<script([^>]*)>(.*?)</script", page, flags=re.DOTALL | re.IGNORECASE)


def test_the_policy_names_the_two_scripts_and_allows_no_connection(findings: Findings) -> None:
    page = render(findings)
    found = blocks(page)
    assert [attributes.strip() for attributes, _ in found] == [
        'type="application/json" id="meta"', 'type="text/plain" id="frames"', "", "",
    ]  # fmt: skip
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    policy = policy.replace("&#39;", "'")
    for _, script in found[2:]:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src 'none'" in policy and "unsafe-eval" not in policy
    assert "script-src 'unsafe" not in policy


def test_names_are_escaped_in_markup_and_kept_in_data(findings: Findings) -> None:
    page = render(findings)
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert HOSTILE not in outside and "&lt;script&gt;alert(1)&lt;/script&gt;" in outside
    assert not re.search(r'(src|href)="(?!#|data:)', outside)
    (_, meta), (_, frames) = blocks(page)[:2]
    assert json.loads(meta)["study"] == findings.study
    columns = unpacked(frames)["verdicts"]["columns"]
    assert set(columns["origin"]["words"]) == set(findings.verdicts["origin"].unique())
    assert HOSTILE in columns["origin"]["words"]


def test_the_same_findings_make_the_same_page() -> None:
    one, two = (render(simulated(runs=720, rng=np.random.default_rng(3))) for _ in range(2))
    assert one == two


def test_sections_without_data_are_left_out_with_a_reason() -> None:
    full = simulated(runs=720, rng=np.random.default_rng(3))
    page = render(Findings("curves only", runs=full.runs, curves=full.curves))
    there = re.findall(r'<section id="(\w+)"', page)
    assert there == ["headline", "curves", "cells", "problems", "provenance"]
    for section in html.SECTIONS:
        assert (f"{section.title}: {section.lacking}." in page) == (section.key not in there)


def test_a_table_too_long_for_a_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MOST_ROWS", {"cells": 100})
    full = simulated(runs=720, rng=np.random.default_rng(3))
    page = render(full)
    held = unpacked(blocks(page)[1][1])["cells"]["size"]
    assert held == 100
    assert re.search(r"The page holds the first 100 of \d+ rows; the exported files hold all", page)


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_valid_vega_lite(name: str) -> None:
    """The page does not check a drawing again: altair's schema does, here."""
    chart = CHARTS[name](Canvas(PAGE, ("lora", "prefix"), PARAMS.get(name, {})))
    assert chart.to_dict(validate=True)["layer"]


@pytest.mark.parametrize("palette", [PAGE, PAPER])
@pytest.mark.parametrize("name", CHARTS)
def test_a_drawing_has_no_rows_and_reads_only_its_parameters(name: str, palette: Palette) -> None:
    spec = drawing(name, palette, ["lora", HOSTILE])
    assert spec["data"] == {"name": "rows"} and "datasets" not in spec
    assert {param["name"] for param in spec.get("params", [])} == PARAMS.get(name, {}).keys()
    assert ("var(--" in json.dumps(spec)) == (palette is PAGE)


def test_colours_stay_apart_for_colour_blind_readers() -> None:
    """Colours of arms and techniques differ in lightness or hue under simulated deuteranopia (Machado et al. 2009)."""
    deuteranopia = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    for colours in (PAPER.arms, PAPER.techniques[:4], PAPER.verdicts):
        seen = [deuteranopia @ [int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours]
        apart = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[i + 1 :]]
        assert min(apart) > 0.15
    assert len(PAPER.arms) == len(ARMS)
