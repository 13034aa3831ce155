"""Learning curves: the mean of the declared metric by arm and budget, with its interval over seeds and test items."""

from __future__ import annotations

from peftport.analysis.measures.evidence import CELL, SETTING, Evidence, plain
from peftport.core.libraries import pl

COLUMNS = (*SETTING, "arm", "method", "budget", "mean", "low", "high", "seeds", "items")


def curves(evidence: Evidence) -> pl.DataFrame:
    """A row for each arm, method and budget of every setting; scratch, ceiling and bare are repeated in each setting.

    The bare host has no seeds (0), so its interval covers test items only, as does that of any arm with one seed.
    """
    points = _points(evidence)
    by_origin = points.filter(pl.col("arm").is_in(["ported", "sampled", "shuffled"]))
    settings = (
        (by_origin if by_origin.height else points.filter(pl.col("arm") != "bare"))
        .select(SETTING)
        .unique(maintain_order=True)
    )
    shared = [by_origin]
    for arm in ("scratch", "ceiling", "bare"):
        keys = ("receiver", "receiver_task") if arm == "bare" else ("technique", "receiver", "receiver_task")
        part = points.filter(pl.col("arm") == arm).drop([c for c in SETTING if c not in keys])
        shared.append(settings.join(part, on=keys, how="inner", nulls_equal=True).select(COLUMNS))
    return plain(pl.concat(part.select(COLUMNS) for part in shared)).sort(*SETTING, "arm", "method", "budget")


def _points(evidence: Evidence) -> pl.DataFrame:
    """The mean and interval of every cell, arm and budget with finished runs."""
    rows = evidence.done.sort("row").with_columns(pl.col("row").alias("row_own"))
    pairs = evidence.pairs(rows, (*CELL, "arm", "budget"), ("own",))
    estimates = pairs.crossed.contrast([1.0])
    mean, margin = evidence.as_scored(estimates.estimate), estimates.margin(evidence.declared.level)
    bounds = evidence.metric.bounds
    return pairs.table.with_columns(
        mean=pl.lit(mean),
        low=pl.lit((mean - margin).clip(*bounds)),
        high=pl.lit((mean + margin).clip(*bounds)),
        seeds=pl.when(pl.col("arm") == "bare").then(0).otherwise(pl.lit(pairs.crossed.seeds)),
        items=pl.lit(pairs.crossed.items),
    )
