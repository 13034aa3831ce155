"""A card: a question, its verdict, and the few numbers behind it with intervals on one axis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MARGIN = 0.04  # share of the axis that is left free on each side


@dataclass(frozen=True)
class Mark:
    """One number on a card's axis, with its interval; ``left``, ``start`` and ``width`` are percentages of the axis."""

    name: str
    arm: str
    text: str
    left: float
    start: float
    width: float


@dataclass(frozen=True)
class Card:
    """One answer.

    Attributes:
        verdict: the word by which the card has its colour.
        zero: where no difference lies on the axis, in percent; None where levels are drawn.
        below: what the answer costs, or how many cells it is of.

    """

    question: str
    verdict: str
    sentence: str
    marks: tuple[Mark, ...]
    zero: float | None
    below: str


def on_axis(rows: Iterable[tuple[Any, ...]], *, signed: bool) -> tuple[tuple[Mark, ...], float | None]:
    """Place numbers and their intervals on an axis that holds all of them, and zero where they are gains.

    Args:
        rows: (name, arm, number, lower end, upper end); rows without a number are left out.
        signed: whether the numbers are gains, for which zero is marked.

    """
    known = [row for row in rows if row[2] is not None]
    ends = [end for row in known for end in row[2:] if end is not None] + ([0.0] if signed else [])
    if not known:
        return (), None
    least = float(min(ends))
    span = float(max(ends)) - least or 1.0

    def place(value: float) -> float:
        return round(100 * (MARGIN + (1 - 2 * MARGIN) * (float(value) - least) / span), 2)

    form = "{:+.3f}" if signed else "{:.3f}"
    marks = []
    for name, arm, mean, low, high in known:
        text, start, width = form.format(mean), place(mean), 0.0
        if low is not None and high is not None:
            text += f" [{form.format(low)}, {form.format(high)}]"
            start, width = place(low), round(place(high) - place(low), 2)
        marks.append(Mark(name, arm.split()[0], text, place(mean), start, width))
    return tuple(marks), place(0.0) if signed else None
