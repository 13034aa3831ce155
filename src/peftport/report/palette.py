"""Colours that colour-blind readers can distinguish, and shapes and dashes that carry the same information.

Source: Okabe & Ito 2008, "Color Universal Design". On the page a colour is a CSS variable, so that the theme and the
print style can change it without a new drawing; in figures for a paper it is the colour itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ARMS = ("ported", "sampled", "scratch", "shuffled")
ARM_SHAPES = ("circle", "square", "triangle-up", "diamond")
ARM_DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
VERDICTS = ("copy", "align", "refresh", "retrain", "not enough evidence")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
# Retention -1, 0, 1: vermillion, neutral, blue.
HEAT = ("#d55e00", "#f1efe9", "#0072b2")


@dataclass(frozen=True)
class Palette:
    """Every colour of a figure. ``techniques`` is cycled where there are more of them than colours."""

    ink: str
    soft: str
    line: str
    paper: str
    arms: tuple[str, ...]
    verdicts: tuple[str, ...]
    techniques: tuple[str, ...]

    def theme(self) -> dict[str, Any]:
        """The configuration of Vega-Lite in these colours."""
        font = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"
        axis = {
            "labelColor": self.soft,
            "titleColor": self.soft,
            "gridColor": self.line,
            "domainColor": self.line,
            "tickColor": self.line,
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
        }
        return {
            "font": font,
            "background": "transparent",
            "view": {"stroke": None},
            "axis": axis,
            "text": {"color": self.ink, "font": font},
            "rule": {"color": self.soft},
            "legend": {"labelColor": self.soft, "titleColor": self.soft, "symbolSize": 70, "symbolOpacity": 1}
            | {"labelFontSize": 12, "orient": "bottom"},
            "header": {"labelColor": self.ink, "titleColor": self.soft},
            "title": {"color": self.ink, "fontSize": 13},
        }


PAGE = Palette(
    ink="var(--ink)",
    soft="var(--soft)",
    line="var(--line)",
    paper="var(--paper)",
    arms=tuple(f"var(--{arm})" for arm in ARMS),
    verdicts=tuple(f"var(--v{index})" for index in range(len(VERDICTS))),
    techniques=tuple(f"var(--t{index})" for index in range(8)),
)
PAPER = Palette(
    ink="#1b1f24",
    soft="#57606a",
    line="#d8dee4",
    paper="#ffffff",
    arms=("#0072b2", "#e69f00", "#009e73", "#cc79a7"),
    verdicts=("#0072b2", "#56b4e9", "#009e73", "#e69f00", "#9aa4ae"),
    techniques=("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1b1f24", "#8a7a00"),
)
