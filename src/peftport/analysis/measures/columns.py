"""The columns of a table of runs: what studies export, comparisons become, measures take and reports show."""

from __future__ import annotations

from typing import Any

import polars as pl

FACTORS: dict[str, Any] = {
    "technique": pl.String, "origin": pl.String, "receiver": pl.String, "origin_task": pl.String,
    "receiver_task": pl.String, "arm": pl.String, "method": pl.String, "budget": pl.Int64, "seed": pl.Int64,
}  # fmt: skip
RUNS: dict[str, Any] = {
    "run": pl.String, **FACTORS, "state": pl.String, "accuracy": pl.Float64, "auroc": pl.Float64,
    "accuracy_at_median": pl.Float64, "n_items": pl.Int64, "loss": pl.Float64, "steps": pl.Int64,
    "train_seconds": pl.Float64, "test_seconds": pl.Float64, "host_distance": pl.Float64, "error": pl.String,
    "job": pl.String,
}  # fmt: skip
CORRECT: dict[str, Any] = {"run": pl.String, "correct": pl.List(pl.Boolean)}
