"""The report as one HTML file that needs no network, no server and no other file.

Charts are drawn by the Vega bundle that comes with vl-convert. The content security policy in the page's head forbids
all requests, and all scripts but the two whose hashes it names. Texts from names and data sets reach the page through
autoescaped templates, through ``script_json`` or compressed, and are inserted as text, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from markupsafe import Markup

from peftport.core.libraries import pl
from peftport.metrics import metric_named
from peftport.report.digest import Count, counts, derived
from peftport.report.figures import BANDS, CHARTS, PARAMS, drawing
from peftport.report.findings import Findings
from peftport.report.in_short import cards
from peftport.report.pack import packed, script_json
from peftport.report.palette import PAGE
from peftport.report.shown import shown_tables
from peftport.report.templating import template, template_text

SCRIPTS = ("frames.js", "table.js", "rows.js", "charts.js", "page.js")
# The most rows of a table that a page holds; the files that the study exports have all rows.
MOST_ROWS = {"cells": 400_000, "gains": 120_000}
MOST_OTHER_ROWS = 60_000
MOST_SENTENCES = 3  # with more, and cards above them, sentences are folded


@dataclass(frozen=True)
class Section:
    """A section of the page. If its frame has no rows, it is left out, and ``lacking`` is the reason."""

    key: str
    title: str
    frame: str
    lacking: str


SECTIONS = (
    Section("headline", "In short", "", ""),
    Section("verdicts", "What to do, pair by pair", "verdicts", "no verdicts were computed"),
    Section("curves", "Learning curves", "cells", "no run is done yet"),
    Section("retention", "What a module keeps", "retention", "no ceiling was trained, so there is no lift to keep"),
    Section("lifts", "What a module gains at home, and what of it away", "lifts", "no origin was tested at home"),
    Section("directions", "There and back", "directions", "no pair of hosts was tried in both directions"),
    Section("distance", "Retention against host distance", "distance", "no distance between hosts was measured"),
    Section("savings", "Cost, and training saved", "savings", "steps to a target need a ceiling and several budgets"),
    Section("gains", "Gains over sampled and scratch", "gains", "there is nothing to compare the ported arm with"),
    Section("cells", "Every cell", "cells", "no run is done yet"),
    Section("problems", "Not eligible, failed, uncertain", "", ""),
    Section("provenance", "How it was run", "", ""),
)


def render(findings: Findings) -> str:
    """One self-contained HTML page. Sections without data are left out; the page lists them with the reason."""
    frames, metric = derived(findings), metric_named(findings.metric)
    kept, cut = _cut(frames)
    present, absent = _sections(frames)
    charts, first = _charts(findings, frames), cards(findings)
    bundle, script = vega_bundle(), own_script()
    return template("page.html.j2").render(
        f=findings,
        cards=first,
        told={card.sentence for card in first},
        long=bool(first) and len(findings.headlines) > MOST_SENTENCES,
        counts=_counts(findings),
        title=f"{metric.title[0].upper()}{metric.title[1:]}",
        higher=metric.higher_is_better,
        sections=present,
        arms=findings.curves["arm"].unique().to_list(),
        absent=absent,
        cut=cut,
        sizes={name: frame.height for name, frame in frames.items()},
        charts=charts,
        style=Markup(template_text("page.css")),
        policy=_policy(bundle, script),
        bundle=Markup(bundle),
        own=Markup(script),
        frames=packed(kept),
        meta=Markup(
            script_json(
                {
                    "tables": {
                        name: [shown.as_json() for shown in columns]
                        for name, columns in shown_tables(metric.title, frames["metrics"].columns).items()
                    },
                    "charts": charts,
                    "techniques": findings.techniques,
                    "study": findings.study,
                    "bounds": [bound if math.isfinite(bound) else None for bound in metric.bounds],
                }
            )
        ),
    )


def _counts(findings: Findings) -> list[Count]:
    return counts(findings) if findings.runs.height else []


def _cut(frames: Mapping[str, pl.DataFrame]) -> tuple[dict[str, pl.DataFrame], dict[str, tuple[int, int]]]:
    """The frames, cut to the rows that a page can hold, and for those that were cut (rows kept, all rows)."""
    kept = {name: frame.head(MOST_ROWS.get(name, MOST_OTHER_ROWS)) for name, frame in frames.items()}
    cut = {
        name: (kept[name].height, frame.height) for name, frame in frames.items() if frame.height > kept[name].height
    }
    return kept, cut


def _sections(frames: Mapping[str, pl.DataFrame]) -> tuple[list[Section], list[Section]]:
    retention = frames["retention"]
    known = retention.filter(pl.col("host_distance").is_not_null() & pl.col("retention").is_not_null())
    sizes = {name: frame.height for name, frame in frames.items()} | {"distance": known.height}
    present = [section for section in SECTIONS if not section.frame or sizes[section.frame]]
    return present, [section for section in SECTIONS if section not in present]


def _charts(findings: Findings, frames: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """The charts of the sections that are shown, without rows."""
    there = {section.key for section in _sections(frames)[0]}
    there |= {name for name in ("pooled", "aggregates") if frames[name].height}
    return {
        name: {
            "spec": drawing(name, PAGE, findings.techniques),
            "params": PARAMS.get(name, {}),
            "band": BANDS.get(name, ""),
        }
        for name in CHARTS
        if name in there
    }


@cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that touches no global but ``vegaEmbed``."""
    import vl_convert

    source = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return _closed(f"(() => {{{source}\n}})();")


@cache
def own_script() -> str:
    """The page's own scripts as one."""
    source = "\n".join(template_text(name) for name in SCRIPTS)
    return _closed(f'(() => {{"use strict";\n{source}\n}})();')


def _closed(script: str) -> str:
    """A script that cannot end its own block."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(*scripts: str) -> str:
    """Content security policy: nothing is fetched; the two scripts run, and no other."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src 'none'; form-action 'none'; base-uri 'none'"
    )
