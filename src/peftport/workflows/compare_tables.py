"""Lay out one comparison as the tables that studies export, so that the same measures and verdicts apply to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from peftport.analysis.measures import Declared, Evidence
from peftport.analysis.measures.columns import CORRECT, RUNS
from peftport.analysis.verdict import verdicts
from peftport.workflows.comparison import Comparison


@dataclass(frozen=True, eq=False)
class Frames:
    """The two tables of a comparison: one row for each run, and the per-item results of each run."""

    runs: pl.DataFrame
    correct: pl.DataFrame


def compare_frames(comparison: Comparison) -> Frames:
    """Return the runs of a comparison in the columns of a study's tables.

    A comparison does not train for the origin's full number of steps, so its longest training from scratch serves as
    the ceiling: a share of the lift is relative to what that training reaches.
    """
    rows, correct = [], []

    def add(name: str, arm: str, budget: int, seed: int | None, scores: Any, **more: Any) -> None:
        rows.append({
            "run": name, "receiver": comparison.receiver, "receiver_task": comparison.task, "arm": arm,
            "budget": budget, "seed": seed, "state": "done", "accuracy": scores.accuracy, "auroc": scores.auroc,
            "accuracy_at_median": scores.accuracy_at_median, "n_items": len(scores.labels), "steps": budget, **more,
        })  # fmt: skip
        correct.append({"run": name, "correct": scores.correct.tolist()})

    plan, longest = comparison.plan, max(comparison.plan.budgets)
    seconds = {(row.arm, row.budget, row.seed): row.seconds for row in comparison.rows}
    for (arm, budget, seed), scores in comparison.scores.items():
        technique = {"technique": comparison.technique, "train_seconds": seconds.get((arm, budget, seed))}
        method = {"ported": plan.method, "sampled": plan.sampler}.get(arm)
        origin = {"origin": comparison.origin, "method": method} if method else {}
        add(f"{arm}-{budget}-{seed}", arm, budget, seed, scores, **technique, **origin)
        if arm == "scratch" and budget == longest > 0:
            add(f"ceiling-{budget}-{seed}", "ceiling", budget, seed, scores, **technique)
    add("bare", "bare", 0, None, comparison.bare)
    held = pl.DataFrame(correct, schema=CORRECT)
    return Frames(pl.DataFrame(rows, schema=RUNS), held)


def verdict_of(comparison: Comparison, declared: Declared | None = None) -> dict[str, Any] | None:
    """Return the verdict on one comparison as a row of `verdicts`, or None where no ported arm was run."""
    frames = compare_frames(comparison)
    found = verdicts(Evidence.of(frames.runs, frames.correct, declared))
    return found.row(0, named=True) if len(found) else None
