"""What porting saves: steps to a target, area under the learning curve, break-even, flips, regret.

target           bare + share (ceiling - bare); there is none where the lift is not settled to reach the declared floor
steps            the first tested budget, 0 included, at which the mean over seeds reaches the target; censored if none
                 does
training_saved   1 - steps_ported / steps_scratch; if scratch is censored, a lower bound computed with its last budget
break_even       the first tested budget at which scratch, trained for as long, is at least as good as the ported module
area             under the curve, by the trapezoidal rule over the ported module's budgets, divided by their range
negative_flips   the share of test items that the bare host gets right and the ported module, untrained, gets wrong
regret           the best arm's mean score minus the ported arm's, as a mean over budgets

These are point estimates at the tested budgets, without intervals; gains, retention and verdicts have intervals.
"""

from __future__ import annotations

import numpy as np

from peftport.analysis.measures.evidence import CELL, ITEMS_AT_ONCE, KEYS, SETTING, Evidence, join, plain
from peftport.analysis.measures.retention import retained
from peftport.core.libraries import pl

COLUMNS = (
    *CELL, "target", "steps_ported", "steps_scratch", "ported_censored", "scratch_censored", "training_saved",
    "break_even", "area_ported", "area_sampled", "area_scratch", "negative_flips", "regret",
)  # fmt: skip
HERE = ("technique", "receiver", "receiver_task")


def savings(evidence: Evidence) -> pl.DataFrame:
    """A row for every cell of the table; a measure that cannot be taken is null."""
    shares = retained(evidence)
    goal = pl.col("base") + evidence.declared.target * (pl.col("ceiling") - pl.col("base"))
    cells = shares.select(*CELL, pl.when("eligible").then(goal).alias("target"))
    for part in (_steps(evidence, cells), _levels(evidence), _flips(evidence)):
        cells = cells.join(part, on=CELL, how="left", nulls_equal=True)
    levels = [evidence.as_scored_column(name) for name in ("target", "area_ported", "area_sampled", "area_scratch")]
    return plain(cells.with_columns(levels, training_saved=_saved()).select(COLUMNS)).sort(*CELL)


def means(evidence: Evidence, arm: str) -> pl.DataFrame:
    """The mean score of an arm over seeds, by the factors that the arm depends on, as column ``<arm>``."""
    by = [key for key in KEYS[arm] if key != "seed"]
    rows = evidence.arm(arm)
    value = pl.lit(evidence.values[rows[f"row_{arm}"].to_numpy()])
    return rows.with_columns(value.alias(arm)).group_by(by).agg(pl.col(arm).mean())


def table_of_means(evidence: Evidence) -> pl.DataFrame:
    """For each cell and budget, the means of ported, sampled and scratch, of bare at budget 0, and their best."""
    table = means(evidence, "ported")
    for arm in ("sampled", "scratch", "bare"):
        on = [key for key in KEYS[arm] if key != "seed"]
        table = table.join(means(evidence, arm), on=on, how="left", nulls_equal=True)
    untrained = pl.when(pl.col("budget") == 0).then(pl.col("bare"))
    best = pl.max_horizontal(pl.col("ported").max().over(*SETTING, "budget"), "sampled", "scratch", untrained)
    return table.with_columns(best=best).sort(*CELL, "budget", nulls_last=True)


def _steps(evidence: Evidence, cells: pl.DataFrame) -> pl.DataFrame:
    """The first budgets at the target. The ceiling is one more point of the curve of scratch."""
    ported = means(evidence, "ported").rename({"ported": "score"})
    top = evidence.arm("ceiling").rename({"ceiling_steps": "budget"})
    value = pl.lit(evidence.values[top["row_ceiling"].to_numpy()])
    ceiling = top.with_columns(value.alias("scratch")).group_by(*HERE, "budget").agg(pl.col("scratch").mean())
    both = pl.concat([means(evidence, "scratch").select(*HERE, "budget", "scratch"), ceiling])
    scratch = both.group_by(*HERE, "budget").agg(pl.col("scratch").mean().alias("score"))
    steps = cells
    for name, curve, on in (("ported", ported, CELL), ("scratch", scratch, HERE)):
        met = pl.col("score") >= pl.col("target") - 1e-12
        reached = cells.join(curve, on=on, how="inner", nulls_equal=True).group_by(CELL).agg(
            pl.col("budget").filter(met).min().alias(f"steps_{name}"), pl.col("budget").max().alias(f"last_{name}")
        )  # fmt: skip
        steps = steps.join(reached, on=CELL, how="left", nulls_equal=True)
    has = pl.col("target").is_not_null()
    return steps.with_columns(
        pl.when(has & pl.col(f"last_{name}").is_not_null())
        .then(pl.col(f"steps_{name}").is_null())
        .alias(f"{name}_censored")
        for name in ("ported", "scratch")
    ).drop("target")


def _saved() -> pl.Expr:
    against = pl.coalesce("steps_scratch", "last_scratch")
    known = pl.col("steps_ported").is_not_null() & pl.col("scratch_censored").is_not_null() & (against > 0)
    return pl.when(known).then(1 - pl.col("steps_ported") / against)


def _levels(evidence: Evidence) -> pl.DataFrame:
    level = pl.col("scratch") >= pl.col("ported")
    return table_of_means(evidence).group_by(CELL, maintain_order=True).agg(
        pl.col("budget").filter(level).min().alias("break_even"),
        *(_area(arm).alias(f"area_{arm}") for arm in ("ported", "sampled", "scratch")),
        (pl.col("best") - pl.col("ported")).mean().alias("regret"),
    )  # fmt: skip


def _area(arm: str) -> pl.Expr:
    """The mean height of a curve over sorted budgets; null if a budget has no score."""
    step, height = pl.col("budget").cast(pl.Float64).diff(), (pl.col(arm) + pl.col(arm).shift()) / 2
    span = (pl.col("budget").max() - pl.col("budget").min()).cast(pl.Float64)
    trapezes = pl.when(pl.len() > 1).then((step * height).sum() / span).otherwise(pl.col(arm).first())
    return pl.when(pl.col(arm).null_count() == 0).then(trapezes)


def _flips(evidence: Evidence) -> pl.DataFrame:
    rows = join(evidence.arm("ported").filter(pl.col("budget") == 0), evidence.arm("bare"), "bare")
    index = rows.select("row_ported", "row_bare").to_numpy().astype(np.int64)
    begins, n = evidence.begins[index], evidence.counts[index[:, 0]]
    flips = np.full(len(rows), np.nan)
    held = (begins >= 0).all(1) & (evidence.declared.metric == "accuracy")  # else items are not right or wrong
    for items in np.unique(n[held]):
        at = np.flatnonzero(held & (n == items))
        each = max(1, ITEMS_AT_ONCE // max(1, int(items)))
        for part in (at[i : i + each] for i in range(0, len(at), each)):
            ported, bare = (evidence.items[begins[part, k, None] + np.arange(items)] for k in (0, 1))
            flips[part] = (bare > ported).mean(1)
    flipped = rows.select(CELL).with_columns(negative_flips=pl.lit(flips).fill_nan(None))
    return flipped.group_by(CELL).agg(pl.col("negative_flips").mean())
