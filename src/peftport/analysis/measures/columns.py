"""The columns of a table of runs, which studies export, comparisons make, measures take and reports show."""

from __future__ import annotations

from typing import Any

import polars as pl

from peftport.metrics import METRICS

FACTORS: dict[str, Any] = {
    "technique": pl.String, "origin": pl.String, "receiver": pl.String, "origin_task": pl.String,
    "receiver_task": pl.String, "arm": pl.String, "method": pl.String, "budget": pl.Int64, "seed": pl.Int64,
}  # fmt: skip
FIRST: dict[str, Any] = {"run": pl.String, **FACTORS, "state": pl.String}
LAST: dict[str, Any] = {
    "n_items": pl.Int64, "loss": pl.Float64, "steps": pl.Int64, "train_seconds": pl.Float64, "test_seconds": pl.Float64,
    "host_distance": pl.Float64, "error": pl.String, "job": pl.String,
}  # fmt: skip
OLD_METRICS = ("accuracy", "auroc", "accuracy_at_median")  # the metrics that tables of early versions have
CORRECT: dict[str, Any] = {"run": pl.String, "correct": pl.List(pl.Boolean)}
ITEMS: dict[str, Any] = {"run": pl.String, "metric": pl.String, "values": pl.List(pl.Float64)}


def run_columns() -> dict[str, Any]:
    """The columns of a table of runs and their types: the factors, a column for each metric, time and cost."""
    return {**FIRST, **dict.fromkeys(METRICS, pl.Float64), **LAST}


def completed(runs: pl.DataFrame) -> pl.DataFrame:
    """A table of runs with all columns; metrics that it lacks, as tables of early versions do, are null."""
    columns = run_columns()
    lacking = [pl.lit(None, columns[name]).alias(name) for name in METRICS if name not in runs.columns]
    return runs.with_columns(lacking).select(*[name for name in columns if name in {*runs.columns, *METRICS}])
