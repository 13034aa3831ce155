"""Statistics as pure functions of arrays; the generator is passed in. Letters: G groups, K arms, S seeds, N items."""

from __future__ import annotations

from peftport.analysis.stats.intervals import Interval, paired_difference

__all__ = ["Interval", "paired_difference"]
