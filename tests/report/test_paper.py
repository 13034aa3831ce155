"""Figures and tables for a paper: all of them, with all their numbers, names as text."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftport.core.errors import BadRequest, OutputRefused
from peftport.metrics import METRICS
from peftport.report.digest import derived
from peftport.report.export import export_figures, panels_of
from peftport.report.figures import CHARTS
from peftport.report.findings import Findings
from peftport.report.latex import WRITTEN, escaped, latex_table, latex_tables
from report.simulated import HOSTILE, simulated

STARTS = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF"}


@pytest.fixture(scope="module")
def small() -> Findings:
    return simulated(runs=720, rng=np.random.default_rng(5), techniques=("lora", "prefix"))


@pytest.mark.parametrize("image", STARTS)
def test_every_figure_is_written(small: Findings, tmp_path: Path, image: str) -> None:
    few = Findings("few", verdicts=small.verdicts, directions=small.directions)
    own = few if image != "svg" else small
    written = export_figures(own, tmp_path / "figures", image)  # type: ignore[arg-type]
    assert {path.stem.split("-")[0] for path in written} == {name for name in CHARTS if panels_of(name, own)}
    assert all(path.read_bytes().startswith(STARTS[image]) for path in written)
    assert sorted(written) == sorted((tmp_path / "figures").iterdir())


def test_a_figure_shows_the_numbers_of_its_frame(small: Findings, tmp_path: Path) -> None:
    export_figures(small, tmp_path, "svg")
    drawn = (tmp_path / "retention.svg").read_text(encoding="utf-8")
    shown = re.findall(r">(−?\d+%)<", drawn)
    known = small.retention["retention"].drop_nulls()
    assert sorted(shown) == sorted(f"{round(100 * value):.0f}%".replace("-", "−") for value in known)
    assert drawn.count(">n/e<") == small.retention["retention"].null_count()
    assert HOSTILE not in drawn


@pytest.mark.parametrize(("metric", "unit"), [("accuracy", 1.0), ("rmse", 100.0), ("log_loss", 5.0), ("pearson", -1.0)])
def test_levels_are_drawn_where_they_are(small: Findings, metric: str, unit: float) -> None:
    """Those of an error in its unit too, and correlations below zero."""
    levels = small.curves.with_columns(pl.col(name) * unit for name in ("mean", "low", "high"))
    if unit < 0:
        levels = levels.rename({"low": "high", "high": "low"})
    panels = panels_of("curves", replace(small, metric=metric, curves=levels.select(small.curves.columns)))
    seen = [value for row in levels.iter_rows(named=True) for name in ("mean", "low", "high") if (value := row[name])]
    low, high = METRICS[metric].bounds
    assert all(panel.params["low"] == pytest.approx(max(low, min(seen) - 0.01)) for panel in panels)
    assert all(panel.params["high"] == pytest.approx(min(high, max(seen) + 0.01)) for panel in panels)


def test_an_unknown_format_and_a_blocked_folder_are_refused(small: Findings, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="expected one of svg, png, pdf, got 'gif'"):
        export_figures(small, tmp_path, "gif")  # type: ignore[arg-type]
    (tmp_path / "file").write_text("in the way")
    for write in (lambda folder: export_figures(small, folder, "svg"), lambda folder: latex_tables(small, folder)):
        with pytest.raises(OutputRefused, match="expected a folder"):
            write(tmp_path / "file")


def test_tables_have_every_row_and_the_same_columns_in_each(small: Findings, tmp_path: Path) -> None:
    frames = derived(small)
    written = {path.stem: path.read_text(encoding="utf-8") for path in latex_tables(small, tmp_path)}
    assert written.keys() == {name for name in WRITTEN if frames[name].height}
    for name, text in written.items():
        body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].replace(r"\endhead", "").strip().splitlines()
        assert len(body) == frames[name].height
        columns = len(re.search(r"\\begin\{(?:longtable|tabular)\}\{([lr]+)\}", text)[1])  # type: ignore[index]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in body} == {columns}
        assert "<" not in text and text.count("{") == text.count("}")


def test_what_every_row_says_goes_to_the_caption(small: Findings) -> None:
    text = latex_table("retention", small.retention)
    caption, body = text.split(r"\toprule")[0], text.split(r"\midrule")[1]
    assert "method: copy; bare host: $0.640$" in caption
    assert "copy" not in body and "0.640" not in body


@given(st.text(max_size=30))
def test_no_text_reaches_latex_as_a_command(text: str) -> None:
    """Every special character left stands in one of our own escapes."""
    rest = escaped(text)
    for known in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", r"\textless{}", r"\textgreater{}"):
        rest = rest.replace(known, "")
    rest = re.sub(r"\\[&%$#_{}]", "", rest.replace(r"$\rightarrow$", ""))
    assert not set(rest) & set("\\&%$#_{}~^<>")
