"""Gains pooled over cells: over all, by technique, by host pair and by both; techniques and directions told apart.

For every test task the paired differences d_csi (cell c, seed s, test item i; ported right minus other right) are
averaged over the pooled cells, which share seeds and items,

    gain = sum_t w_t mean_si(mean_c d_csi)      w_t: share of the cells tested on task t

and the variance is that of a crossed design whose seeds all tasks share (`stats.crossed.over_strata`): different tasks
have different items, but a seed's modules begin alike in all of them, and may be the very same. Why average over cells
first: they share seeds and items, so their errors do not cancel as those of independent cells would. Of a metric
without a value for each item, the metric itself and its draws (`metrics.resampling`) are averaged. The intervals speak
of these cells with new seeds and new test items, not of other hosts or data. A technique is compared with the mean of
the others, and a direction with the opposite one, by the difference of two such averages.

Accuracy and AUROC are told beside each other: ``other_gain`` is the same mean in the ``other_metric``, as an estimate.

Cells whose module is tested on the task that it was trained for and cells that cross tasks answer two questions, and
are never pooled. Claims: that the ported arm gains over another one, at every budget, over all cells of a kind. Holm's
correction takes all tests of one claim together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from peftport.analysis.measures.evidence import CROSS, SAME, Evidence, join, plain
from peftport.analysis.stats.crossed import Crossed, Estimates, crossed_from_draws, crossed_from_items, over_strata
from peftport.analysis.stats.permutation import holm
from peftport.core.libraries import pl

SCHEMA = {
    "scope": pl.String, "tasks": pl.String, "technique": pl.String, "origin": pl.String, "receiver": pl.String,
    "method": pl.String, "budget": pl.Int64, "versus": pl.String, "beside": pl.String, "gain": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "p": pl.Float64, "p_holm": pl.Float64, "other_metric": pl.String,
    "other_gain": pl.Float64, "cells": pl.Int64, "seeds": pl.Int64,
}  # fmt: skip
ALL, TECHNIQUE, PAIR, BOTH = "all", "technique", "pair", "technique and pair"
OTHERS, OPPOSITE = "the other techniques", "the opposite direction"
# Holm over the budgets, kinds of tasks, techniques and pairs of one question; over all cells that is one claim.
FAMILY = ("scope", "method", "versus", "beside")
CLAIMED = ("sampled", "scratch", "shuffled")  # over which the ported arm is claimed to gain
OTHER = {"accuracy": "auroc"}  # told beside the declared metric; beside all others accuracy is
MOST_RUNS = 100_000  # paired runs whose items are averaged at most; a larger study has only aggregates
Floats = npt.NDArray[np.float32]
Place = tuple[str | None, str | None, str | None]  # technique, origin, receiver; None if pooled over
Stratum = tuple[str, int, bool]  # test task, number of items, whether its metric is drawn
EVERYWHERE: Place = (None, None, None)


@dataclass(eq=False)
class Pool:
    """Summed differences by stratum and seed, and the number of cells in each sum."""

    sums: dict[Stratum, dict[int, Floats]]  # (N + 1,) each, or (1 + B + 1,): see `_results`
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
    rows = [row for versus in evidence.opponents for row in _against(evidence, versus)]
    table = pl.DataFrame(rows, schema={k: v for k, v in SCHEMA.items() if k != "p_holm"}, orient="row")
    adjusted = np.full(len(table), np.nan)
    for family in table.with_row_index("at").group_by(*FAMILY, maintain_order=True).agg("at", "p").rows(named=True):
        adjusted[family["at"]] = holm(np.array(family["p"]))
    return table.with_columns(p_holm=pl.Series(adjusted, dtype=pl.Float64)).select(SCHEMA.keys())


def _against(evidence: Evidence, versus: str) -> Iterator[tuple[object, ...]]:
    level = evidence.declared.level
    for (method, budget, tasks), places in _pools(evidence, versus).items():
        for scope, place, beside, pool, other in _questions(places):
            pooled_gain = _estimate(pool, other)
            if pooled_gain is not None:
                gain, margin, p = (
                    float(x[0]) for x in (pooled_gain.mean.estimate, pooled_gain.mean.margin(level), pooled_gain.mean.p)
                )
                found = (gain, gain - margin, gain + margin, p, *_other(evidence, pooled_gain.other))
                count = (pooled_gain.cells, pooled_gain.seeds)
                yield scope, tasks, *place, method, budget, versus, beside, *found, *count


def _pools(evidence: Evidence, versus: str) -> dict[tuple[str, int, str], dict[Place, Pool]]:
    """By method, budget and kind of tasks, a pool for every technique on every pair of hosts."""
    rows = join(evidence.arm("ported"), evidence.arm(versus), versus)
    pairs = rows.select("row_ported", f"row_{versus}").to_numpy()
    itemised, drawn = (evidence.begins[pairs] >= 0).all(1), np.zeros(len(pairs), np.bool_)
    if evidence.draws.shape[1]:
        drawn = np.isfinite(evidence.draws[pairs]).all((1, 2))
    held = rows.with_columns(drawn=pl.lit(drawn & ~itemised)).filter(pl.lit(itemised | drawn))
    pools: dict[tuple[str, int, str], dict[Place, Pool]] = defaultdict(lambda: defaultdict(Pool.empty))
    if len(held) > MOST_RUNS:
        return {}
    names = ("method", "budget", "technique", "origin", "receiver", "origin_task", "receiver_task", "seed", "drawn")
    beside = _beside(evidence)
    for row in plain(held).select(*names, "row_ported", f"row_{versus}").iter_rows():
        method, budget, technique, origin, receiver, home, task, seed, of_draws, ported, against = row
        ours, theirs = (
            np.append(_results(evidence, run, of_draws), beside[run]).astype(np.float32) for run in (ported, against)
        )
        tasks, stratum = SAME if home in (None, task) else CROSS, (task, int(evidence.counts[ported]), of_draws)
        pools[method, budget, tasks][technique, origin, receiver].add(stratum, seed, ours - theirs)
    return pools


def _beside(evidence: Evidence) -> Floats:
    """The other metric of every run, (R,), higher being better; NaN where there is none."""
    name = _other_name(evidence)
    if name not in evidence.runs.columns:
        return np.full(len(evidence.runs), np.nan, np.float32)
    return evidence.runs[name].cast(pl.Float64).fill_null(np.nan).to_numpy().astype(np.float32)


def _other_name(evidence: Evidence) -> str:
    return OTHER.get(evidence.declared.metric, "accuracy")


def _other(evidence: Evidence, gain: float) -> tuple[str | None, float | None]:
    return (_other_name(evidence), gain) if np.isfinite(gain) else (None, None)


def _results(evidence: Evidence, run: int, drawn: bool) -> Floats:
    """The results of a run for each item, (N,), or its metric and the draws of it, (1 + B,)."""
    if drawn:
        return np.concatenate([evidence.values[[run]], evidence.draws[run]]).astype(np.float32)
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
    """A pooled mean, the same in the other metric, and the numbers of cells and seeds."""

    mean: Estimates
    other: float
    cells: int
    seeds: int


def _estimate(pool: Pool, other: Pool | None) -> Mean | None:
    """The mean of one pool, or of one minus another, over the strata; None if no seed has all cells of all of them."""
    by_stratum: dict[Stratum, dict[int, Floats]] = {}
    for stratum in sorted(pool.sums):
        values = pool.means(stratum)
        if other is not None:
            beside = other.means(stratum) if stratum in other.sums else {}
            values = {seed: values[seed] - beside[seed] for seed in values if seed in beside}
        if values:
            by_stratum[stratum] = values
    seeds = sorted(set.intersection(*(set(values) for values in by_stratum.values()))) if by_stratum else []
    if not seeds:
        return None
    stacked = {stratum: np.stack([values[seed] for seed in seeds]) for stratum, values in by_stratum.items()}
    sizes = np.array([pool.size(stratum) for stratum in stacked])
    own = {stratum: values[:, :-1].astype(np.float64) for stratum, values in stacked.items()}
    means = [values[:, 0] if drawn else values.mean(1) for (_, _, drawn), values in own.items()]  # T of (S,)
    strata, share = [_crossed(values, stratum) for stratum, values in own.items()], sizes / sizes.sum()
    aside = float(share @ np.array([values[:, -1].mean(dtype=np.float64) for values in stacked.values()]))
    return Mean(over_strata(strata, share, np.stack(means)), aside, int(sizes.sum()), len(seeds))


def _crossed(values: npt.NDArray[np.float64], stratum: Stratum) -> Crossed:
    """One stratum's seeds, (S, N) or (S, 1 + B)."""
    _, items, drawn = stratum
    if not drawn:
        return crossed_from_items(values[None, None])
    wide = values[None, None]
    return crossed_from_draws(wide[..., 0], wide[..., 1:], np.array([items]))
