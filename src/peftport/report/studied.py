"""A study as findings: its measures, the sentences a person in a hurry reads, and how it was run."""

from __future__ import annotations

from collections import Counter

import polars as pl

from peftport.identity import rng_for
from peftport.measures import Declared, Evidence, aggregates, curves, directions, gains, retention, savings
from peftport.report.findings import Findings
from peftport.report.tables import Table
from peftport.study.about import About
from peftport.verdict import verdicts


def study_findings(
    runs: pl.DataFrame, correct: pl.DataFrame, told: About, declared: Declared | None = None
) -> Findings:
    """Everything a study's report shows, from its two exported tables."""
    study, evidence = told.study, Evidence.of(runs, correct, declared)
    kept = retention(evidence)
    grid, judged = aggregates(evidence, rng=rng_for(0, "aggregates")), verdicts(evidence)
    gained = gains(evidence, rng=rng_for(0, "gains"))
    hosts = {name: f"weights {digest}" for name, digest in told.hosts.items()}
    hosts |= {name: f"made by the study, moved {d['weights']:.4f}" for name, d in told.updates.items()}
    return Findings(
        study=study.name,
        about=study.about,
        command=told.command,
        versions=told.versions,
        machine=told.machine,
        hosts=hosts,
        seeds=study.seeds,
        headlines=headlines(gained, judged, evidence.declared.level),
        scale=_scale(told),
        notes=_notes(told, evidence.declared),
        runs=runs,
        curves=curves(evidence),
        retention=kept,
        gains=gained,
        savings=savings(evidence),
        verdicts=judged,
        directions=directions(kept, study.porters[0]),
        aggregates=grid,
    )


def headlines(gained: pl.DataFrame, judged: pl.DataFrame, level: float) -> tuple[str, ...]:
    """What came out, counting only differences that the statistics carry: settled by seeds and test items together."""
    budgets = sorted(gained["budget"].unique().to_list())
    said = [
        _gain_sentence(gained.filter(versus=versus, budget=budget), versus, budget, level)
        for versus in ("sampled", "scratch")
        for budget in dict.fromkeys([*budgets[:1], *budgets[-1:]])
    ]
    words = Counter(judged["verdict"].to_list())
    if words:
        total = sum(words.values())
        said.append(f"Verdicts on {total} cells: {', '.join(f'{n} {word}' for word, n in words.most_common())}.")
    return tuple(line for line in said if line)


def _gain_sentence(rows: pl.DataFrame, versus: str, budget: int, level: float) -> str:
    """One opponent at one budget: in how many cells of each technique ported is above it, below it, or neither."""
    if not rows.height:
        return ""
    settled = pl.col("p_holm") < 1 - level
    counted = rows.group_by("technique", maintain_order=True).agg(
        above=(settled & (pl.col("gain") > 0)).sum(),
        below=(settled & (pl.col("gain") < 0)).sum(),
        cells=pl.len(),
        mean=pl.col("gain").mean(),
    )
    texts = [
        f"{r['technique']} above in {r['above']}, below in {r['below']} of {r['cells']} (mean {r['mean']:+.3f})"
        for r in counted.sort("technique").rows(named=True)
    ]
    when = "without further training" if budget == 0 else f"after {budget} steps"
    return f"Ported against {versus} {when}, cells settled at {level:.0%} after Holm: {'; '.join(texts)}."


def headline_table(findings: Findings) -> Table:
    """The aggregates as a table for the terminal."""
    rows = tuple(
        (
            row["technique"] or "all",
            row["quantity"],
            "" if row["estimate"] is None else f"{row['estimate']:+.3f}",
            "" if row["low"] is None else f"[{row['low']:+.3f}, {row['high']:+.3f}]",
        )
        for row in findings.aggregates.rows(named=True)
        if "mixed model" not in row["quantity"]
    )
    return Table(f"{findings.study}: the grid as a whole", ("technique", "quantity", "estimate", "95 % interval"), rows)


def _scale(told: About) -> str:
    study = told.study
    return (
        f"{told.sharing['runs']} runs and {told.sharing['baseline_runs']} of the baseline: {len(study.techniques)} "
        f"techniques, {len(study.pairs)} ordered host pairs, {len(study.tasks)} task combinations, "
        f"{len(study.seeds)} seeds, {study.testing.items} test items a run. What holds here holds for these hosts and "
        "texts; other pairs are other pairs."
    )


def _notes(told: About, declared: Declared) -> tuple[str, ...]:
    study = told.study
    return (
        f"Origins were trained for {study.training.origin_steps} steps of {study.training.batch_size} texts; every arm "
        "of a technique trains at the same learning rate, and arms of one seed see the same batches.",
        f"Retention is given only where training gains at least {declared.floor:g} over the bare host.",
        "Intervals of cells are over seeds and test items; those of the grid as a whole resample seeds within its "
        "cells and take pairs and test items as they are.",
        f"{told.failures} failed attempts are on record. All jobs together took {told.worker_seconds / 3600:.1f} hours "
        "of one worker.",
    )
