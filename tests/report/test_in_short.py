"""The cards of a page's first screen: numbers in their places on one axis, and counts of verdicts."""

from __future__ import annotations

from collections import Counter

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from peftport.report.cards import on_axis
from peftport.report.findings import Findings
from peftport.report.in_short import MOST_MARKS, cards

NUMBER = st.floats(-1, 1, allow_nan=False).map(lambda x: round(x, 4))
ROW = st.tuples(NUMBER, st.none() | st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)))


@given(st.lists(ROW, min_size=1, max_size=8), st.booleans())
def test_marks_lie_on_the_axis_in_the_order_of_their_numbers(
    rows: list[tuple[float, tuple[float, float] | None]], signed: bool
) -> None:
    given_rows = [
        (f"n{i}", "ported", mean, *((None, None) if ends is None else (mean - ends[0], mean + ends[1])))
        for i, (mean, ends) in enumerate(rows)
    ]
    marks, zero = on_axis(given_rows, signed=signed)
    assert [mark.name for mark in marks] == [row[0] for row in given_rows]
    assert (zero is not None) == signed
    for mark, (_, _, mean, low, high) in zip(marks, given_rows, strict=True):
        assert 0 <= mark.start <= 100 and mark.start + mark.width <= 100.02 and 0 <= mark.left <= 100
        assert mark.text.startswith(f"{mean:+.3f}" if signed else f"{mean:.3f}")
        assert low is None or mark.start - 0.02 <= mark.left <= mark.start + mark.width + 0.02
        assert high is None or "[" in mark.text
        if zero is not None:
            assert (mark.left - zero) * mean >= -0.02
    placed = sorted(zip([row[2] for row in given_rows], [mark.left for mark in marks], strict=True))
    assert [left for _, left in placed] == sorted(left for _, left in placed)


def test_a_study_of_many_cells_has_a_card_for_each_kind_of_cell(findings: Findings) -> None:
    found = cards(findings)
    kinds = findings.pooled["tasks"].unique(maintain_order=True).to_list()
    assert len(found) == len(kinds) > 0 and findings.verdicts.height > 6
    for card, kind in zip(found, kinds, strict=True):
        same = (pl.col("origin_task") == pl.col("receiver_task")) == (kind == "same-task")
        counts = Counter(findings.verdicts.filter(same)["verdict"])
        assert card.verdict in counts and card.sentence.startswith(f"{counts[card.verdict]} of {counts.total()} cells")
        assert counts[card.verdict] == max(counts.values()) and card.zero is not None
        told = {f"{gain:+.3f}" for gain in findings.pooled.filter(tasks=kind, scope="all")["gain"]}
        assert 0 < len(card.marks) <= MOST_MARKS * 2 and {mark.text.split()[0] for mark in card.marks} <= told


def test_without_verdicts_there_is_no_card() -> None:
    assert cards(Findings("nothing")) == []
