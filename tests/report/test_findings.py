"""Findings, their digests and their packing: nothing lost, nothing invented."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftport.report.digest import cells, counts, ineligible, problems, spent, uncertain
from peftport.report.findings import PLACE, SCHEMAS, Findings, frame
from peftport.report.pack import packed, script_json, unpacked
from peftport.report.shown import shown_tables

TEXTS = st.text(max_size=12) | st.sampled_from(["</script>", "<!--", "a & b", "\u2028", "=1+1", "größe 日本"])


def read(columns: dict[str, Any], name: str) -> list[Any]:
    """A packed column as values, as the page's script reads it."""
    column = columns[name]
    if isinstance(column, list):
        return column
    return [None if code < 0 else column["words"][code] for code in column["codes"]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.none() | TEXTS, st.none() | st.integers(-9, 9), st.none() | st.floats(-2, 2)), max_size=8))
def test_packing_keeps_every_value(rows: list[tuple[str | None, int | None, float | None]]) -> None:
    schema = {"text": pl.String, "whole": pl.Int64, "real": pl.Float64}
    given_frame = pl.DataFrame(rows, schema=schema, orient="row")
    columns = unpacked(packed({"one": given_frame}))["one"]["columns"]
    assert read(columns, "text") == given_frame["text"].to_list()
    assert read(columns, "whole") == given_frame["whole"].to_list()
    for value, kept in zip(given_frame["real"].to_list(), read(columns, "real"), strict=True):
        assert (kept is None) == (value is None)
        assert value is None or kept == pytest.approx(value, abs=5.1e-5)


def test_small_p_values_keep_their_leading_digits() -> None:
    columns = unpacked(packed({"p": pl.DataFrame({"p": [1.2345e-7, 0.04321, 0.0]})}))["p"]["columns"]
    assert columns["p"] == pytest.approx([1.23e-7, 0.0432, 0.0], rel=1e-9)


@given(TEXTS)
def test_script_json_means_the_same_and_closes_nothing(text: str) -> None:
    written = script_json({"name": text})
    assert json.loads(written) == {"name": text}
    assert not set(written) & set("<>&\u2028\u2029")


def test_frames_take_the_declared_columns_and_types() -> None:
    loose = frame("aggregates", [{"quantity": "x", "estimate": float("nan"), "low": float("inf"), "high": 1.0}])
    kept = Findings("s", aggregates=loose.with_columns(more=pl.lit(1))).aggregates
    assert kept.columns == list(SCHEMAS["aggregates"])
    assert kept.row(0, named=True) == {
        "technique": None, "quantity": "x", "estimate": None, "low": None, "high": 1.0, "note": None,
    }  # fmt: skip
    with pytest.raises(AssertionError, match="missing note"):
        Findings("s", aggregates=loose.drop("note"))


def test_every_shown_column_exists(findings: Findings) -> None:
    from peftport.report.digest import derived

    frames = derived(findings)
    for name, columns in shown_tables("accuracy", frames["metrics"].columns).items():
        named = {part for shown in columns for part in (shown.column, shown.low, shown.high, shown.mark, shown.to)}
        assert named - {""} <= set(frames[name].columns), name


def test_cells_hold_every_curve_and_every_lost_cell() -> None:
    place = dict.fromkeys(PLACE, "x") | {"method": "copy", "arm": "ported"}
    done = {**place, "budget": 0, "mean": 0.7, "seeds": 2}
    runs = [
        {**place, "budget": budget, "state": state} for budget, state in ((0, "done"), (9, "failed"), (9, "failed"))
    ]
    found = cells(Findings("s", runs=frame("runs", runs), curves=frame("curves", [done])))
    assert found.select("budget", "mean", "state").rows() == [(0, 0.7, "done"), (9, None, "failed")]


def test_counts_add_up(findings: Findings) -> None:
    assert spent(findings)["runs"].sum() == findings.runs.height
    lost = findings.runs.filter(pl.col("state") != "done").height
    assert problems(findings)["runs"].sum() == lost > 0
    number = {count.what: count.number for count in counts(findings)}
    assert number["runs failed or blocked"] == str(lost)
    assert number[f"runs done of {findings.runs.height:,}"] == f"{findings.runs.height - lost:,}"
    assert ineligible(findings).height == findings.retention["retention"].null_count() > 0
    assert uncertain(findings).height == findings.verdicts.filter(verdict="not enough evidence").height
