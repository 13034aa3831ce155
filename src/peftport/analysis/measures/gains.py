"""Gains: the ported module over sampled, shuffled, scratch and bare, at every budget, paired over seeds and items."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from peftport.analysis.measures.differences import Differences, differences
from peftport.analysis.measures.evidence import CELL, Evidence, join, plain
from peftport.analysis.stats.permutation import holm, sign_flip, sign_flip_floor
from peftport.core.libraries import pl

COLUMNS = (*CELL, "budget", "versus", "gain", "low", "high", "p", "p_holm", "permuted", "seeds", "note")


@lru_cache(maxsize=6)  # the gains and the mixed model of one table in turn
def gained(evidence: Evidence, versus: str) -> Differences:
    """The ported arm minus another arm, in every cell and budget where a seed finished in both."""
    rows = join(evidence.arm("ported"), evidence.arm(versus), versus)
    return differences(evidence, rows, (*CELL, "budget"), ("ported", versus))


def gains(evidence: Evidence, *, rng: np.random.Generator) -> pl.DataFrame:
    """A row for each cell, budget and arm that is compared; null, with a note, if no seed finished in both arms.

    Args:
        evidence: the runs.
        rng: draws sign flips at random, if these are declared and there are too many seeds for all of them.

    """
    rows = pl.concat([_against(evidence, versus, rng) for versus in evidence.opponents or ("sampled",)])
    return plain(_with_holm(rows, evidence.declared.family).select(COLUMNS)).sort(*CELL, "budget", "versus")


def _against(evidence: Evidence, versus: str, rng: np.random.Generator) -> pl.DataFrame:
    compared, level = gained(evidence, versus), evidence.declared.level
    margin = compared.estimates.margin(level)
    by_signs = evidence.declared.test == "sign_flip"
    p = _sign_flips(evidence, versus, rng) if by_signs else compared.estimates.p
    table = compared.pairs.table.with_columns(
        gain=pl.lit(compared.estimates.estimate),
        low=pl.lit(compared.estimates.estimate - margin),
        high=pl.lit(compared.estimates.estimate + margin),
        p=pl.lit(p),
        seeds=pl.lit(compared.pairs.crossed.seeds),
        itemised=pl.lit(compared.pairs.itemised),
        permuted=pl.lit(np.where(compared.permuted, "items", "")).replace("", None),
        swapped=pl.lit(compared.estimates.swapped).fill_nan(None),
    )
    if by_signs:
        table = table.with_columns(permuted=pl.lit("seeds"))
    whole = evidence.planned.join(table, on=(*CELL, "budget"), how="left", nulls_equal=True)
    seeds = pl.col("seeds").fill_null(0)
    return whole.with_columns(versus=pl.lit(versus), note=_note(level, by_signs), seeds=seeds)


def _note(level: float, by_signs: bool) -> pl.Expr:
    """What a reader must know about an interval or a p; null if there is nothing."""
    seeds, planned = pl.col("seeds").fill_null(0), pl.col("planned")
    parts = [
        pl.when(seeds == 0).then(pl.lit("no seed finished in both arms")),
        pl.when((seeds > 0) & (seeds < planned)).then(
            pl.format("{} of {} seeds finished in both arms", seeds, planned)
        ),
        pl.when(seeds == 1).then(pl.lit("one seed: the interval covers test items only")),
        pl.when((seeds > 0) & ~pl.col("itemised")).then(
            pl.lit("no per-item results: test items are treated as unpaired, so the interval is wide")
        ),
    ]
    doubted = pl.col("swapped") > 1 - level
    said = "swapping items between the arms does not settle it (p {}), so the interval reaches zero"
    parts.append(pl.when(doubted).then(pl.format(said, pl.col("swapped").round(4))))
    if by_signs:
        few = (seeds > 0) & (pl.lit(2.0).pow(1 - seeds.cast(pl.Int64)) > 1 - level)
        floor = pl.lit(2.0).pow(1 - seeds.cast(pl.Int64)).round(4)
        parts.append(pl.when(few).then(pl.format("not enough seeds: a sign-flip p cannot fall under {}", floor)))
    text = pl.concat_str(parts, separator="; ", ignore_nulls=True)
    return pl.when(text != "").then(text)


def _sign_flips(evidence: Evidence, versus: str, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """The sign-flip p over the seeds of every group, in the order of `gained`."""
    rows = join(evidence.arm("ported"), evidence.arm(versus), versus)
    values = evidence.values
    d = values[rows["row_ported"].to_numpy()] - values[rows[f"row_{versus}"].to_numpy()]
    grouped = rows.select(*CELL, "budget").with_columns(d=pl.lit(d)).group_by(*CELL, "budget", maintain_order=True)
    lists = grouped.agg("d")["d"]
    sizes = lists.list.len().to_numpy()
    p = np.ones(len(lists))
    for s in np.unique(sizes):
        of_size = sizes == s
        p[of_size] = sign_flip(lists.filter(of_size).explode().to_numpy().reshape(-1, s), rng=rng)
        assert p[of_size].min() >= sign_flip_floor(int(s)) * (1 - 1e-9) or s > 12
    return p


def _with_holm(rows: pl.DataFrame, family: str) -> pl.DataFrame:
    """Add p after Holm's correction within each family; a null p takes no part."""
    keys: list[str] = {"versus": ["versus"], "cell": list(CELL), "all": ["all"]}[family]
    indexed = rows.with_columns(all=pl.lit(0)).with_row_index("at").drop_nulls("p")
    adjusted = np.full(len(rows), np.nan)
    p = rows["p"].fill_null(float("nan")).to_numpy()
    for members in indexed.group_by(keys).agg("at")["at"]:
        at = np.asarray(members, dtype=np.int64)
        adjusted[at] = holm(p[at])
    return rows.with_columns(p_holm=pl.lit(adjusted).fill_nan(None))
