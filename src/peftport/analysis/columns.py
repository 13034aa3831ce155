"""The columns of a table of runs, which studies export, comparisons make, measures take and reports show."""

from __future__ import annotations

from typing import Any

from peftport.core.libraries import pl
from peftport.metrics import METRICS, metrics_of

FACTORS: dict[str, Any] = {
    "technique": pl.String, "origin": pl.String, "receiver": pl.String, "origin_task": pl.String,
    "receiver_task": pl.String, "arm": pl.String, "method": pl.String, "budget": pl.Int64, "seed": pl.Int64,
}  # fmt: skip
FIRST: dict[str, Any] = {"run": pl.String, **FACTORS, "state": pl.String}
LAST: dict[str, Any] = {
    "n_items": pl.Int64, "loss": pl.Float64, "steps": pl.Int64, "train_seconds": pl.Float64, "test_seconds": pl.Float64,
    "host_distance": pl.Float64, "error": pl.String, "job": pl.String,
}  # fmt: skip
USUAL_KIND = "classification"
OLD_METRICS = ("accuracy", "auroc", "accuracy_at_median")  # what every table has, those of early versions too
CORRECT: dict[str, Any] = {"run": pl.String, "correct": pl.List(pl.Boolean)}
ITEMS: dict[str, Any] = {"run": pl.String, "metric": pl.String, "values": pl.List(pl.Float64)}
# Text that a spreadsheet would run, and such text behind apostrophes, so that one can be taken off again.
FORMULA = r"^'*[=+\-@\t\r\n]"


def run_columns(*kinds: str) -> dict[str, Any]:
    """The columns of a table of runs and their types: the factors, a column for each metric, time and cost.

    ``kinds`` are the kinds of task whose metrics the table has (if none is named, classification). The metrics of early
    tables are always among them.
    """
    metrics = [name for name in METRICS if name in OLD_METRICS or name in metrics_of(*(kinds or (USUAL_KIND,)))]
    return {**FIRST, **dict.fromkeys(metrics, pl.Float64), **LAST}


def completed(runs: pl.DataFrame) -> pl.DataFrame:
    """A table of runs with all columns: metrics that it does not know, as one of an early version, are null."""
    others = [metric for name, metric in METRICS.items() if name in runs.columns and USUAL_KIND not in metric.kinds]
    columns = run_columns(USUAL_KIND, *(kind for metric in others for kind in metric.kinds))
    lacking = [pl.lit(None, columns[name]).alias(name) for name in METRICS if name in columns.keys() - runs.columns]
    return runs.with_columns(lacking).select(*[name for name in columns if name in {*runs.columns, *METRICS}])
