"""How each frame is shown as a table, on the page and in LaTeX: its columns, their headings and formats."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from peftport.metrics import METRICS

Format = Literal["text", "long", "badge", "whole", "share", "percent", "signed", "p", "seconds", "flag"]


@dataclass(frozen=True)
class Shown:
    """A column of a table, and the columns of the frame that are shown in it.

    Args:
        column: the column with the value, by which the table is sorted.
        title: the heading.
        form: the format of the value.
        low: the column with the lower end of its interval.
        high: the column with the upper end of its interval.
        mark: the column with a flag that the value was not reached (censored).
        to: the column with a second text, shown as "value → second" if it differs.

    """

    column: str
    title: str
    form: Format = "text"
    low: str = ""
    high: str = ""
    mark: str = ""
    to: str = ""

    def as_json(self) -> dict[str, Any]:
        """The description of the column for the script of the page."""
        return asdict(self)


TECHNIQUE, PAIR = Shown("technique", "technique"), Shown("origin", "origin → receiver", to="receiver")
TASKS = Shown("origin_task", "task", to="receiver_task")
PLACE = (TECHNIQUE, PAIR, TASKS)
CELL = (*PLACE, Shown("method", "method"))
LEVEL = Shown("mean", "accuracy [95 %]", "share", "low", "high")

TABLES: dict[str, tuple[Shown, ...]] = {
    "verdicts": (
        Shown("verdict", "verdict", "badge"),
        *CELL,
        Shown("sentence", "why", "long"),
        Shown("cost_steps", "cost, steps", "whole"),
        Shown("cost_seconds", "cost, s", "seconds"),
        Shown("regret", "regret", "share"),
    ),
    "cells": (
        *PLACE,
        Shown("arm", "arm"),
        Shown("method", "method"),
        Shown("budget", "steps", "whole"),
        LEVEL,
        Shown("seeds", "seeds", "whole"),
        Shown("items", "items", "whole"),
        Shown("state", "state", "badge"),
    ),
    "retention": (
        *CELL,
        Shown("retention", "retention [95 %]", "percent", "low", "high"),
        Shown("base", "bare host", "share"),
        Shown("ported", "ported, 0 steps", "share"),
        Shown("ceiling", "ceiling", "share"),
        Shown("host_distance", "host distance", "share"),
        Shown("reason", "not eligible because", "long"),
    ),
    "gains": (
        *CELL,
        Shown("budget", "steps", "whole"),
        Shown("versus", "against"),
        Shown("gain", "gain [95 %]", "signed", "low", "high"),
        Shown("p", "p", "p"),
        Shown("p_holm", "p (Holm)", "p"),
        Shown("seeds", "seeds", "whole"),
        Shown("note", "note", "long"),
    ),
    "savings": (
        *CELL,
        Shown("target", "target", "share"),
        Shown("steps_ported", "steps, ported", "whole", mark="ported_censored"),
        Shown("steps_scratch", "steps, scratch", "whole", mark="scratch_censored"),
        Shown("training_saved", "training saved", "percent"),
        Shown("break_even", "break-even, steps", "whole"),
        Shown("area_ported", "area, ported", "share"),
        Shown("area_sampled", "area, sampled", "share"),
        Shown("area_scratch", "area, scratch", "share"),
        Shown("negative_flips", "negative flips", "share"),
        Shown("regret", "regret", "share"),
    ),
    "regret": (
        Shown("policy", "rule"),
        TECHNIQUE,
        Shown("regret", "mean regret [95 %]", "share", "low", "high"),
        Shown("pairs", "pairs of hosts", "whole"),
        Shown("settings", "settings", "whole"),
        Shown("note", "note", "long"),
    ),
    "directions": (
        TECHNIQUE,
        Shown("host_a", "A → B", to="host_b"),
        TASKS,
        Shown("retention_ab", "A to B [95 %]", "percent", "low_ab", "high_ab"),
        Shown("retention_ba", "B to A [95 %]", "percent", "low_ba", "high_ba"),
    ),
    "pooled": (
        Shown("scope", "pooled by"),
        TECHNIQUE,
        Shown("origin", "origin → receiver", to="receiver"),
        Shown("method", "method"),
        Shown("budget", "steps", "whole"),
        Shown("versus", "gain over"),
        Shown("beside", "compared with"),
        Shown("gain", "gain [95 %]", "signed", "low", "high"),
        Shown("p", "p", "p"),
        Shown("p_holm", "p (Holm)", "p"),
        Shown("cells", "cells", "whole"),
        Shown("seeds", "seeds", "whole"),
    ),
    "aggregates": (
        Shown("quantity", "quantity"),
        TECHNIQUE,
        Shown("estimate", "estimate [95 %]", "share", "low", "high"),
        Shown("note", "note", "long"),
    ),
    "spent": (
        Shown("arm", "arm"),
        Shown("state", "state", "badge"),
        Shown("runs", "runs", "whole"),
        Shown("steps", "training steps", "whole"),
        Shown("train_seconds", "training, s", "seconds"),
        Shown("test_seconds", "testing, s", "seconds"),
    ),
    "problems": (
        *PLACE,
        Shown("arm", "arm"),
        Shown("method", "method"),
        Shown("state", "state", "badge"),
        Shown("runs", "runs", "whole"),
        Shown("error", "error", "long"),
    ),
    "ineligible": (
        *CELL,
        Shown("base", "bare host", "share"),
        Shown("ceiling", "ceiling", "share"),
        Shown("reason", "why", "long"),
    ),
    "uncertain": (
        *CELL,
        Shown("sentence", "why", "long"),
        Shown("low", "low", "signed"),
        Shown("high", "high", "signed"),
    ),
}


def shown_tables(metric: str) -> dict[str, tuple[Shown, ...]]:
    """The tables of a page whose levels are of the metric of that title, and the table of every metric."""
    level = replace(LEVEL, title=f"{metric} [95 %]")
    named = {name: tuple(level if one == LEVEL else one for one in columns) for name, columns in TABLES.items()}
    run = (*PLACE, Shown("arm", "arm"), Shown("method", "method"), Shown("budget", "steps", "whole"))
    return named | {"metrics": (*run, *(Shown(name, one.title, "share") for name, one in METRICS.items()))}
