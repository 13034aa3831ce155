"""Frames that the page derives from the findings: cells with their state, costs, problems."""

from __future__ import annotations

from dataclasses import dataclass

from peftport.core.libraries import pl
from peftport.metrics import METRICS
from peftport.report.findings import PLACE, SCHEMAS, Findings

UNSETTLED = "not enough evidence"
PROBLEM = [*PLACE, "arm", "method", "state", "error"]


@dataclass(frozen=True)
class Count:
    """A number to be shown in large type, and what it counts."""

    number: str
    what: str


def cells(findings: Findings) -> pl.DataFrame:
    """Every cell, arm and budget with its mean; ported ones without a mean as well, with the state of their runs."""
    key = [*PLACE, "arm", "method", "budget"]
    drawn = findings.curves.with_columns(state=pl.lit("done"))
    ported = findings.runs.filter(pl.col("arm") == "ported")
    worst = pl.col("state").filter(pl.col("state") != "done").first().fill_null("done")
    lost = ported.group_by(key, maintain_order=True).agg(state=worst)
    lost = lost.join(findings.curves.select(key), on=key, how="anti", nulls_equal=True)
    return pl.concat([drawn, lost], how="diagonal").sort(key, nulls_last=True, maintain_order=True)


def metrics(findings: Findings) -> pl.DataFrame:
    """Every metric of every cell, arm and budget: means over the seeds that are done.

    Where no run has an accuracy, as no task is of classes, metrics that no run has are left out.
    """
    key = [*PLACE, "arm", "method", "budget"]
    done = findings.runs.filter(pl.col("state") == "done")
    names = [name for name in METRICS if name in done.columns]
    if done.height and done["accuracy"].is_null().all():
        names = [name for name in names if done[name].is_not_null().any()]
    return done.group_by(key).agg(pl.col(name).mean() for name in names).sort(key, nulls_last=True)


def summary(pooled: pl.DataFrame) -> pl.DataFrame:
    """The pooled gains that a reader wants first: over all cells, and by technique; in the order of the questions."""
    first = pooled.filter(pl.col("scope").is_in(["all", "technique"]), pl.col("beside").is_null())
    questions = {name: first[name].unique(maintain_order=True).to_list() for name in ("tasks", "versus")}
    first = first.with_columns(pl.col(name).cast(pl.Enum(found)) for name, found in questions.items())
    return first.sort("method", "tasks", "versus", "budget", "technique", nulls_last=True, maintain_order=True)


def spent(findings: Findings) -> pl.DataFrame:
    """Runs, steps and seconds by arm and state. A training that several runs share is counted in each of them."""
    totals = [pl.len().alias("runs"), *(pl.col(name).sum() for name in ("steps", "train_seconds", "test_seconds"))]
    return findings.runs.group_by("arm", "state").agg(totals).sort("arm", "state")


def problems(findings: Findings) -> pl.DataFrame:
    """The runs that are not done, grouped by state and error, the most frequent first."""
    wrong = findings.runs.filter(pl.col("state") != "done")
    return wrong.group_by(PROBLEM).agg(pl.len().alias("runs")).sort("runs", *PROBLEM, descending=[True] + [False] * 9)


def ineligible(findings: Findings) -> pl.DataFrame:
    """The cells without a retention, and the reasons."""
    return findings.retention.filter(~pl.col("eligible").fill_null(False))


def uncertain(findings: Findings) -> pl.DataFrame:
    """The settings for which the intervals support no choice."""
    return findings.verdicts.filter(pl.col("verdict") == UNSETTLED)


def counts(findings: Findings) -> list[Count]:
    """The numbers at the top of the page that give the size of the study."""
    runs, ported = findings.runs, findings.curves.filter(pl.col("arm") == "ported")
    pairs = ported.select("origin", "receiver").n_unique()
    bad = runs.filter(pl.col("state").is_in(["failed", "blocked"])).height
    waiting = runs.filter(pl.col("state") == "pending").height
    hours = float(runs.select(pl.sum("train_seconds", "test_seconds").sum()).sum_horizontal().item()) / 3600
    counts = [
        Count(f"{runs.filter(pl.col('state') == 'done').height:,}", f"runs done of {runs.height:,}"),
        Count(f"{len(findings.techniques)}", "techniques" if len(findings.techniques) != 1 else "technique"),
        Count(f"{pairs}", "ordered host pairs" if pairs != 1 else "ordered host pair"),
        Count(f"{len(findings.seeds)}", "seeds" if len(findings.seeds) != 1 else "seed"),
        Count(_time(hours), "in training and testing"),
    ]
    counts += [Count(f"{bad:,}", "runs failed or blocked")] if bad else []
    return counts + ([Count(f"{waiting:,}", "runs pending")] if waiting else [])


def _time(hours: float) -> str:
    for size, unit in ((1, "h"), (1 / 60, "min")):
        if hours >= size:
            return f"{hours / size:.1f} {unit}"
    return f"{hours * 3600:.0f} s"


def derived(findings: Findings) -> dict[str, pl.DataFrame]:
    """Every frame the page can show, by the name of its table."""
    made = {
        "cells": cells,
        "metrics": metrics,
        "spent": spent,
        "problems": problems,
        "ineligible": ineligible,
        "uncertain": uncertain,
    }
    frames = {name: findings.frame(name) for name in SCHEMAS if name != "curves"}
    return frames | {name: make(findings) for name, make in made.items()}
