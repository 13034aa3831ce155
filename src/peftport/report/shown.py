"""How each frame is shown as a table, on the page and in LaTeX: its columns, their headings and formats."""

from __future__ import annotations

from collections.abc import Collection
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
ARM, METHOD, STATE = Shown("arm", "arm"), Shown("method", "method"), Shown("state", "state", "badge")
CELL = (*PLACE, METHOD)
LEVEL = Shown("mean", "accuracy [95 %]", "share", "low", "high")
BUDGET, SEEDS, RUNS = (
    Shown("budget", "steps", "whole"),
    Shown("seeds", "seeds", "whole"),
    Shown("runs", "runs", "whole"),
)
BASE, CEILING = Shown("base", "bare host", "share"), Shown("ceiling", "ceiling", "share")
GAIN = (Shown("gain", "gain [95 %]", "signed", "low", "high"), Shown("p", "p", "p"), Shown("p_holm", "p (Holm)", "p"))
PERMUTED = Shown("permuted", "permuted")
REGRET, NOTE, WHY = Shown("regret", "regret", "share"), Shown("note", "note", "long"), Shown("sentence", "why", "long")

TABLES: dict[str, tuple[Shown, ...]] = {
    "answers": (
        Shown("item", "test item", "whole"),
        Shown("prompt", "prompt", "long"),
        Shown("who", "who answers"),
        Shown("answer", "answer", "long"),
    ),
    "verdicts": (
        Shown("verdict", "verdict", "badge"),
        *CELL,
        WHY,
        Shown("cost_steps", "cost, steps", "whole"),
        Shown("cost_seconds", "cost, s", "seconds"),
        REGRET,
    ),
    "cells": (*PLACE, ARM, METHOD, BUDGET, LEVEL, SEEDS, Shown("items", "items", "whole"), STATE),
    "retention": (
        *CELL,
        Shown("retention", "retention [95 %]", "percent", "low", "high"),
        BASE,
        Shown("ported", "ported, 0 steps", "share"),
        CEILING,
        Shown("host_distance", "host distance", "share"),
        Shown("reason", "not eligible because", "long"),
    ),
    "lifts": (
        *CELL,
        Shown("lift", "lift at home [95 %]", "signed", "lift_low", "lift_high"),
        Shown("gain", "gain, 0 steps [95 %]", "signed", "low", "high"),
        SEEDS,
    ),
    "gains": (*CELL, BUDGET, Shown("versus", "against"), *GAIN, PERMUTED, SEEDS, NOTE),
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
        REGRET,
    ),
    "regret": (
        Shown("policy", "rule"),
        TECHNIQUE,
        Shown("regret", "mean regret [95 %]", "share", "low", "high"),
        Shown("pairs", "pairs of hosts", "whole"),
        Shown("settings", "settings", "whole"),
        NOTE,
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
        Shown("tasks", "tasks"),
        TECHNIQUE,
        PAIR,
        METHOD,
        BUDGET,
        Shown("versus", "gain over"),
        Shown("beside", "compared with"),
        *GAIN,
        Shown("other_gain", "gain in the other metric", "signed"),
        Shown("other_metric", "other metric"),
        Shown("cells", "cells", "whole"),
        SEEDS,
    ),
    "aggregates": (
        Shown("quantity", "quantity"),
        TECHNIQUE,
        Shown("estimate", "estimate [95 %]", "share", "low", "high"),
        NOTE,
    ),
    "spent": (
        ARM,
        STATE,
        RUNS,
        Shown("steps", "training steps", "whole"),
        Shown("train_seconds", "training, s", "seconds"),
        Shown("test_seconds", "testing, s", "seconds"),
    ),
    "problems": (*PLACE, ARM, METHOD, STATE, RUNS, Shown("error", "error", "long")),
    "ineligible": (*CELL, BASE, CEILING, Shown("reason", "why", "long")),
    "uncertain": (*CELL, WHY, Shown("low", "low", "signed"), Shown("high", "high", "signed")),
}


def shown_tables(metric: str, measured: Collection[str]) -> dict[str, tuple[Shown, ...]]:
    """The tables of a page whose levels are of the metric of that title, and the table of the metrics ``measured``."""
    level = replace(LEVEL, title=f"{metric} [95 %]")
    named = {name: tuple(level if shown == LEVEL else shown for shown in columns) for name, columns in TABLES.items()}
    run = (*PLACE, ARM, METHOD, BUDGET)
    return named | {
        "metrics": (*run, *(Shown(name, METRICS[name].title, "share") for name in METRICS if name in measured))
    }
