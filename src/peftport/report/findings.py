"""The content of a report: frames of measures, and how they were made. Nothing here computes a measure.

A cell is (technique, origin, receiver, origin task, receiver task, method). Runs that have no origin (scratch, ceiling,
bare) leave origin and origin_task null; the bare host also leaves technique and seed null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from peftport.analysis.columns import completed, run_columns
from peftport.core.libraries import pl
from peftport.metrics import METRICS

TEXT, WHOLE, REAL, FLAG = pl.String(), pl.Int64(), pl.Float64(), pl.Boolean()
PLACE = {"technique": TEXT, "origin": TEXT, "receiver": TEXT, "origin_task": TEXT, "receiver_task": TEXT}
CELL = {**PLACE, "method": TEXT}
SCHEMAS: dict[str, dict[str, pl.DataType]] = {
    "curves": {**PLACE, "arm": TEXT, "method": TEXT, "budget": WHOLE, "mean": REAL, "low": REAL, "high": REAL}
    | {"seeds": WHOLE, "items": WHOLE},
    "retention": {**CELL, "base": REAL, "ceiling": REAL, "ported": REAL, "retention": REAL, "low": REAL, "high": REAL}
    | {"eligible": FLAG, "reason": TEXT, "host_distance": REAL},
    "gains": {**CELL, "budget": WHOLE, "versus": TEXT, "gain": REAL, "low": REAL, "high": REAL, "p": REAL}
    | {"p_holm": REAL, "permuted": TEXT, "seeds": WHOLE, "note": TEXT},
    "savings": {**CELL, "target": REAL, "steps_ported": REAL, "steps_scratch": REAL, "ported_censored": FLAG}
    | {"scratch_censored": FLAG, "training_saved": REAL, "break_even": REAL, "area_ported": REAL}
    | {"area_sampled": REAL, "area_scratch": REAL, "negative_flips": REAL, "regret": REAL},
    "verdicts": {**CELL, "verdict": TEXT, "sentence": TEXT, "cost_steps": REAL, "cost_seconds": REAL, "low": REAL}
    | {"high": REAL, "regret": REAL},
    "regret": {"policy": TEXT, "technique": TEXT, "regret": REAL, "low": REAL, "high": REAL, "pairs": WHOLE}
    | {"settings": WHOLE, "note": TEXT},
    "lifts": {**CELL, "lift": REAL, "lift_low": REAL, "lift_high": REAL, "gain": REAL, "low": REAL, "high": REAL}
    | {"seeds": WHOLE},
    "directions": {"technique": TEXT, "host_a": TEXT, "host_b": TEXT, "origin_task": TEXT, "receiver_task": TEXT}
    | {"retention_ab": REAL, "low_ab": REAL, "high_ab": REAL, "retention_ba": REAL, "low_ba": REAL, "high_ba": REAL},
    "pooled": {"scope": TEXT, "tasks": TEXT, "technique": TEXT, "origin": TEXT, "receiver": TEXT, "method": TEXT}
    | {"budget": WHOLE, "versus": TEXT, "beside": TEXT, "gain": REAL, "low": REAL, "high": REAL, "p": REAL}
    | {"p_holm": REAL, "other_metric": TEXT, "other_gain": REAL, "cells": WHOLE, "seeds": WHOLE},
    "answers": {"item": WHOLE, "prompt": TEXT, "who": TEXT, "answer": TEXT},
    "aggregates": {"technique": TEXT, "quantity": TEXT, "estimate": REAL, "low": REAL, "high": REAL, "note": TEXT},
}

FRAMES = ("runs", *SCHEMAS)


def schema_of(name: str) -> dict[str, pl.DataType]:
    """The columns of a frame; those of ``runs`` have the metrics among them."""
    return {column: kind() for column, kind in run_columns().items()} if name == "runs" else SCHEMAS[name]


def frame(name: str, rows: Sequence[Mapping[str, Any]] = ()) -> pl.DataFrame:
    """A frame of the named kind from rows; a column that a row lacks is null."""
    schema = schema_of(name)
    return pl.DataFrame({column: [row.get(column) for row in rows] for column in schema}, schema=schema, strict=False)


def _empty(name: str) -> Any:
    return field(default_factory=lambda: frame(name), repr=False)


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything a report shows. Frames have the columns that `schema_of` tells; further columns are dropped.

    Args:
        study: the name of the study, comparison or demonstration.
        about: one or two sentences: what was asked.
        command: the command line that repeats it.
        versions: software, name -> version.
        machine: hardware, name -> value.
        hosts: host -> fingerprint, or another text that distinguishes it from a host with the same name.
        seeds: the seeds used.
        headlines: the main results in sentences.
        scale: which conclusions the size of the study allows, and which it does not.
        tested: the number of items on which a run is tested, and the shares of the test sets' most frequent classes.
        metric: the metric of the levels, gains and verdicts.
        notes: what a reader must know before relying on a number.

    """

    study: str
    about: str = ""
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    headlines: tuple[str, ...] = ()
    scale: str = ""
    tested: str = ""
    metric: str = "accuracy"
    notes: tuple[str, ...] = ()
    runs: pl.DataFrame = _empty("runs")
    curves: pl.DataFrame = _empty("curves")
    retention: pl.DataFrame = _empty("retention")
    gains: pl.DataFrame = _empty("gains")
    savings: pl.DataFrame = _empty("savings")
    verdicts: pl.DataFrame = _empty("verdicts")
    regret: pl.DataFrame = _empty("regret")
    lifts: pl.DataFrame = _empty("lifts")
    directions: pl.DataFrame = _empty("directions")
    pooled: pl.DataFrame = _empty("pooled")
    aggregates: pl.DataFrame = _empty("aggregates")
    answers: pl.DataFrame = _empty("answers")

    def __post_init__(self) -> None:
        for declared in fields(self):
            if declared.name in FRAMES:
                object.__setattr__(self, declared.name, _conform(declared.name, getattr(self, declared.name)))

    def frame(self, name: str) -> pl.DataFrame:
        """The frame of that name."""
        frame = getattr(self, name)
        assert isinstance(frame, pl.DataFrame), name
        return frame

    @property
    def techniques(self) -> list[str]:
        """Techniques in any frame, sorted: the order of their colours and shapes everywhere."""
        named = [self.frame(name)["technique"] for name in FRAMES if "technique" in self.frame(name).columns]
        return pl.concat(named).drop_nulls().unique().sort().to_list()


def _conform(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with the declared columns and types; NaN and infinities become null."""
    schema = schema_of(name)
    if name == "runs":
        frame = completed(frame)
        schema |= {column: REAL for column in frame.columns if column in METRICS}
    missing = [column for column in schema if column not in frame.columns]
    assert not missing, f"findings.{name}: expected columns {', '.join(schema)}; missing {', '.join(missing)}"
    kept = frame.select(pl.col(column).cast(kind) for column, kind in schema.items())
    reals = [column for column, kind in schema.items() if kind == REAL]
    return kept.with_columns(pl.when(pl.col(column).is_finite()).then(pl.col(column)) for column in reals)
