"""The grid as a whole and by technique: interquartile means, probability of improvement, and a mixed model.

The interquartile mean is the mean of the middle half of all values; the probability of improvement is how often the
ported module beats another arm in the same cell. Their intervals speak of these cells with new seeds, which all cells
share (bootstrap, analysis/stats/resampling.py). Cells whose module is tested on the task that it was trained for and
cells that cross tasks are never taken together. The mixed model treats host pairs and data sets as random draws, so its
intervals speak of other pairs and data sets as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from peftport.analysis.measures.evidence import CELL, RELATION, SETTING, Evidence, join, plain, relations
from peftport.analysis.measures.gains import gained
from peftport.analysis.measures.retention import retained
from peftport.analysis.stats.intervals import Interval
from peftport.analysis.stats.mixed import mixed_model
from peftport.analysis.stats.resampling import (
    interquartile_mean,
    large_interquartile_mean,
    large_probability_of_improvement,
    probability_of_improvement,
    stratified_bootstrap,
)
from peftport.core.libraries import pl

SCHEMA = {
    "technique": pl.String, "quantity": pl.String, "estimate": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    "note": pl.String,
}  # fmt: skip
LARGE = 250  # with more scores, intervals come from a formula, which agrees with the bootstrap there (tests)
MOST_MODELLED = 600  # cells that a mixed model is fitted to at most, since its matrices are dense
LEAST_PAIRS = 3
Floats = npt.NDArray[np.float64]
Row = tuple[str | None, str, float | None, float | None, float | None, str | None]


def aggregates(evidence: Evidence, *, rng: np.random.Generator) -> pl.DataFrame:
    """A row for each quantity and porting method, for all techniques together (null) and for each."""
    rows: list[Row] = []
    methods, kinds = evidence.planned["method"].unique().sort().to_list(), relations(evidence.planned)
    for method in methods:
        for relation in kinds:
            words = [method] * (len(methods) > 1) + [relation] * (len(kinds) > 1)
            which, name = (pl.col("method") == method) & RELATION.eq(relation), f"{', '.join(words)}: " if words else ""
            for versus in evidence.opponents:
                rows += _improvements(evidence, which, versus, name, rng)
            rows += _retentions(evidence, which, name, rng)
            rows += _modelled(evidence, which, name)
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _improvements(
    evidence: Evidence, which: pl.Expr, versus: str, name: str, rng: np.random.Generator
) -> Iterator[Row]:
    ported = evidence.arm("ported").filter(which)
    paired = join(ported, evidence.arm(versus), versus).sort("budget", "seed", maintain_order=True)
    cells = paired.group_by(*CELL, "budget", maintain_order=True).agg("row_ported", f"row_{versus}")
    for (budget,), of_budget in cells.group_by("budget", maintain_order=True):
        when = f"{name}%s over {versus}, {budget} steps"
        for technique, group, left_out in _by_technique(of_budget):
            x, y = (_stacked(evidence, group, arm) for arm in ("ported", versus))
            interval = _interval(evidence, (x - y,), rng)
            yield _row(technique, when % "interquartile mean gain", interval, left_out)
            yield _row(technique, when % "probability of improvement", _interval(evidence, (x, y), rng), left_out)


def _retentions(evidence: Evidence, which: pl.Expr, name: str, rng: np.random.Generator) -> Iterator[Row]:
    """Retention in eligible cells: the lift that each seed keeps, divided by the cell's mean lift."""
    shares = retained(evidence).filter(pl.col("eligible") & which)
    ported = evidence.arm("ported").filter(pl.col("budget") == 0).sort("seed", maintain_order=True)
    rows = ported.join(shares.select(*CELL, "base", "ceiling"), on=CELL, how="inner", nulls_equal=True)
    cells = rows.group_by(*CELL, "base", "ceiling", maintain_order=True).agg("row_ported")
    for technique, group, left_out in _by_technique(cells) if len(cells) else ():
        base, ceiling = (group[c].to_numpy() for c in ("base", "ceiling"))
        kept = (_stacked(evidence, group, "ported") - base) / (ceiling - base)
        yield _row(technique, f"{name}interquartile mean retention", _interval(evidence, (kept,), rng), left_out)


def _by_technique(cells: pl.DataFrame) -> Iterator[tuple[str | None, pl.DataFrame, int]]:
    """All cells, then those of each technique. Cells with fewer seeds than the others are left out and counted."""
    named = cells.with_columns(technique=pl.col("technique").cast(pl.String), seeds=pl.col("row_ported").list.len())
    most = pl.col("seeds") == pl.col("seeds").max()
    yield None, named.filter(most), named.select((~most).sum()).item()
    for technique in named["technique"].unique().sort():
        of_technique = named.filter(pl.col("technique") == technique)
        yield technique, of_technique.filter(most), of_technique.select((~most).sum()).item()


def _stacked(evidence: Evidence, cells: pl.DataFrame, arm: str) -> Floats:
    """The scores of an arm as (S, T), where each row of ``cells`` is a cell."""
    scores: Floats = evidence.values[cells[f"row_{arm}"].explode().to_numpy()].reshape(len(cells), -1).T
    return scores


def _interval(evidence: Evidence, samples: tuple[Floats, ...], rng: np.random.Generator) -> Interval:
    """The interquartile mean of one array, or the probability of improvement of two, with its interval."""
    level = evidence.declared.level
    if samples[0].size > LARGE:
        large = large_interquartile_mean if len(samples) == 1 else large_probability_of_improvement
        return large(*samples, level=level, shared=True)
    statistic = interquartile_mean if len(samples) == 1 else probability_of_improvement
    return stratified_bootstrap(statistic, samples, level=level, rng=rng, shared=True)


def _row(technique: str | None, quantity: str, interval: Interval, left_out: int) -> Row:
    note = f"{left_out} cells with fewer seeds left out" if left_out else None
    return technique, quantity, interval.estimate, interval.low, interval.high, note


def _modelled(evidence: Evidence, which: pl.Expr, name: str) -> Iterator[Row]:
    """The gain at the smallest budget by technique, from cell means, with host pairs and data sets random."""
    if not evidence.opponents:
        return
    versus = evidence.opponents[0]
    quantity = f"{name}mixed model gain over {versus}, smallest budget"
    planned = evidence.planned.filter(which & (pl.col("budget") == pl.col("budget").min()))
    why_not = [
        f"fewer than {LEAST_PAIRS} host pairs"
        if len(planned.select("origin", "receiver").unique()) < LEAST_PAIRS
        else "",
        f"more than {MOST_MODELLED} cells" if len(planned) > MOST_MODELLED else "",
    ]
    if any(why_not):
        yield None, quantity, None, None, None, f"not fitted: {', '.join(filter(None, why_not))}"
        return
    compared = gained(evidence, versus)
    table = plain(compared.pairs.table.with_columns(y=pl.lit(compared.estimates.estimate)))
    table = table.join(plain(planned), on=(*CELL, "budget"), how="semi", nulls_equal=True).sort(SETTING)
    data = pl.format("{} -> {}", pl.col("origin_task").fill_null("unknown"), "receiver_task")
    table = table.with_columns(pair=pl.format("{} -> {}", "origin", "receiver"), data=data)
    random = {kind: table[kind].to_list() for kind in ("pair", "data") if table[kind].n_unique() > 1}
    fit = mixed_model(table["y"].to_numpy(), table["technique"].to_list(), random, level=evidence.declared.level)
    note = None if fit.converged else "the fit did not converge"
    for technique, effect in fit.effects.items():
        yield technique, quantity, effect.estimate, effect.low, effect.high, note
    for kind, deviation in fit.deviations.items():
        what = {"pair": "between host pairs", "data": "between data sets", "noise": "within"}[kind]
        yield None, f"{quantity}: standard deviation {what}", deviation, None, None, note
