"""Gains pooled over cells: over all, by technique, by host pair and by both; techniques and directions told apart.

For every test task the paired differences d_csi (cell c, seed s, test item i; ported right minus other right) are
averaged over the pooled cells, which share seeds and items,

    gain = sum_t w_t mean_si(mean_c d_csi)      w_t: share of the cells tested on task t

and the variance of each task's mean is that of the crossed design (stats.crossed). Different tasks have different items
and count as independent; the degrees of freedom of their sum are Satterthwaite's. Why average over cells first: they
share seeds and items, so their errors do not cancel as those of independent cells would. The intervals speak of these
cells with new seeds and new test items, not of other hosts or data. A technique is compared with the mean of the
others, and a direction with the opposite one, by the difference of two such averages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from peftport.analysis.measures.evidence import Evidence, join, plain
from peftport.analysis.measures.gains import VERSUS
from peftport.analysis.stats.crossed import Estimates, crossed_from_items
from peftport.analysis.stats.permutation import holm
from peftport.core.libraries import pl

SCHEMA = {
    "scope": pl.String, "technique": pl.String, "origin": pl.String, "receiver": pl.String, "method": pl.String,
    "budget": pl.Int64, "versus": pl.String, "beside": pl.String, "gain": pl.Float64, "low": pl.Float64,
    "high": pl.Float64, "p": pl.Float64, "p_holm": pl.Float64, "cells": pl.Int64, "seeds": pl.Int64,
}  # fmt: skip
ALL, TECHNIQUE, PAIR, BOTH = "all", "technique", "pair", "technique and pair"
OTHERS, OPPOSITE = "the other techniques", "the opposite direction"
FAMILY = ("scope", "method", "versus", "beside")  # Holm over the budgets, techniques and pairs of one question
MOST_RUNS = 100_000  # paired runs whose items are averaged at most; a larger study has only aggregates
Floats = npt.NDArray[np.float32]
Place = tuple[str | None, str | None, str | None]  # technique, origin, receiver; None if pooled over
Stratum = tuple[str, int]
EVERYWHERE: Place = (None, None, None)


@dataclass(eq=False)
class Pool:
    """Summed differences by stratum (test task, number of items) and seed, and the number of cells in each sum."""

    sums: dict[Stratum, dict[int, Floats]]  # (N,) each
    cells: dict[Stratum, dict[int, int]]

    @classmethod
    def empty(cls) -> Pool:
        """Make an empty pool."""
        return cls(defaultdict(dict), defaultdict(dict))

    def add(self, stratum: Stratum, seed: int, differences: Floats, cells: int = 1) -> None:
        """Add one run's differences, or a sum of several."""
        sums, held = self.sums[stratum], self.cells[stratum]
        sums[seed] = sums[seed] + differences if seed in sums else differences
        held[seed] = held.get(seed, 0) + cells

    def merge(self, other: Pool) -> None:
        """Add all of another pool."""
        for stratum, by_seed in other.sums.items():
            for seed, total in by_seed.items():
                self.add(stratum, seed, total, other.cells[stratum][seed])

    def size(self, stratum: Stratum) -> int:
        """The number of cells of a stratum."""
        return max(self.cells[stratum].values())

    def means(self, stratum: Stratum) -> dict[int, Floats]:
        """The mean difference by seed, for the seeds that all cells of the stratum have."""
        most, held = self.size(stratum), self.cells[stratum]
        return {seed: total / np.float32(most) for seed, total in self.sums[stratum].items() if held[seed] == most}


def pooled(evidence: Evidence) -> pl.DataFrame:
    """A row for each scope, place, budget and compared arm; no rows if there are no per-item results."""
    rows = [row for versus in VERSUS for row in _against(evidence, versus)]
    table = pl.DataFrame(rows, schema={k: v for k, v in SCHEMA.items() if k != "p_holm"}, orient="row")
    adjusted = np.full(len(table), np.nan)
    for family in table.with_row_index("at").group_by(*FAMILY, maintain_order=True).agg("at", "p").rows(named=True):
        adjusted[family["at"]] = holm(np.array(family["p"]))
    return table.with_columns(p_holm=pl.Series(adjusted, dtype=pl.Float64)).select(SCHEMA.keys())


def _against(evidence: Evidence, versus: str) -> Iterator[tuple[object, ...]]:
    level = evidence.declared.level
    for (method, budget), places in _pools(evidence, versus).items():
        for scope, place, beside, pool, other in _questions(places):
            pooled_gain = _estimate(pool, other)
            if pooled_gain is not None:
                gain, margin, p = (
                    float(x[0]) for x in (pooled_gain.mean.estimate, pooled_gain.mean.margin(level), pooled_gain.mean.p)
                )
                bounds = (gain, gain - margin, gain + margin, p)
                yield scope, *place, method, budget, versus, beside, *bounds, pooled_gain.cells, pooled_gain.seeds


def _pools(evidence: Evidence, versus: str) -> dict[tuple[str, int], dict[Place, Pool]]:
    """By method and budget, a pool for every technique on every pair of hosts."""
    rows = join(evidence.arm("ported"), evidence.arm(versus), versus)
    ours, theirs = (evidence.begins[rows[name].to_numpy()] for name in ("row_ported", f"row_{versus}"))
    held = rows.filter(pl.lit((ours >= 0) & (theirs >= 0)))
    pools: dict[tuple[str, int], dict[Place, Pool]] = defaultdict(lambda: defaultdict(Pool.empty))
    if len(held) > MOST_RUNS:
        return {}
    names = ("method", "budget", "technique", "origin", "receiver", "receiver_task", "seed")
    for row in plain(held).select(*names, "row_ported", f"row_{versus}").iter_rows():
        method, budget, technique, origin, receiver, task, seed, ported, against = row
        difference = _items(evidence, ported) - _items(evidence, against)
        pools[method, budget][technique, origin, receiver].add((task, len(difference)), seed, difference)
    return pools


def _items(evidence: Evidence, run: int) -> Floats:
    begin = evidence.begins[run]
    results: Floats = evidence.items[begin : begin + evidence.counts[run]].astype(np.float32)
    return results


def _questions(places: Mapping[Place, Pool]) -> Iterator[tuple[str, Place, str | None, Pool, Pool | None]]:
    """Each pooled gain: its scope, its place, what it is compared with if anything, and the pools of both."""
    everything = _merged(places, lambda _: EVERYWHERE)
    by_technique = _merged(places, lambda place: (place[0], None, None))
    by_pair = _merged(places, lambda place: (None, place[1], place[2]))
    for scope, pools in ((ALL, everything), (TECHNIQUE, by_technique), (PAIR, by_pair), (BOTH, places)):
        for place, pool in sorted(pools.items(), key=lambda item: tuple(map(str, item[0]))):
            yield scope, place, None, pool, None
    for place, pool in sorted(by_technique.items(), key=lambda item: str(item[0])):
        others = _merged({p: pool for p, pool in places.items() if p[0] != place[0]}, lambda _: EVERYWHERE)
        if others:
            yield TECHNIQUE, place, OTHERS, pool, others[EVERYWHERE]
    for (technique, origin, receiver), pool in sorted(by_pair.items(), key=lambda item: tuple(map(str, item[0]))):
        back = by_pair.get((technique, receiver, origin))
        if back is not None and str(origin) < str(receiver):
            yield PAIR, (technique, origin, receiver), OPPOSITE, pool, back


def _merged(places: Mapping[Place, Pool], key: Callable[[Place], Place]) -> dict[Place, Pool]:
    merged: dict[Place, Pool] = defaultdict(Pool.empty)
    for place, pool in places.items():
        merged[key(place)].merge(pool)
    return merged


@dataclass(frozen=True, eq=False)
class Mean:
    """A pooled mean, the number of its cells, and the fewest seeds of a stratum."""

    mean: Estimates
    cells: int
    seeds: int


def _estimate(pool: Pool, other: Pool | None) -> Mean | None:
    """The mean of one pool, or of one minus another, over the strata; None if no seed has all cells."""
    weights, parts, fewest = [], [], []
    for stratum in sorted(pool.sums):
        values = pool.means(stratum)
        if other is not None:
            beside = other.means(stratum) if stratum in other.sums else {}
            values = {seed: values[seed] - beside[seed] for seed in values if seed in beside}
        if values:
            parts.append(crossed_from_items(np.stack(list(values.values()))[None, None]).contrast([1.0]))
            weights.append(pool.size(stratum))
            fewest.append(len(values))
    if not parts:
        return None
    share = np.array(weights) / sum(weights)
    variances = share**2 * np.array([part.variance[0] for part in parts])
    total, dfs = variances.sum(), np.array([part.df[0] for part in parts])
    spread = (variances**2 / dfs).sum()
    df = total**2 / spread if spread > 0 else dfs.min()
    mean = share @ np.array([part.estimate[0] for part in parts])
    return Mean(Estimates(*(np.array([value]) for value in (mean, total, df))), sum(weights), min(fewest))
