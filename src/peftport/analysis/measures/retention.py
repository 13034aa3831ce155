"""Zero-shot retention: the share of the lift that a ported module keeps before any training on the receiver.

    (ported at budget 0 - bare) / (ceiling - bare),   ceiling: trained from scratch for the origin's steps

It is given only if the lift is settled to be at least the declared floor: the lower bound of its interval counts.
Otherwise the cell is "not eligible", with a reason instead of a number, since a share of what may be nearly nothing
means nothing. Both intervals are over seeds and test items; that of the share is Fieller's.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from peftport.analysis.measures.evidence import CELL, Evidence, Pairs, join, plain
from peftport.core.libraries import pl

COLUMNS = (
    *CELL, "base", "ceiling", "ported", "retention", "low", "high", "eligible", "reason", "host_distance",
)  # fmt: skip
ARMS = ("ported", "bare", "ceiling")
KEPT, LIFT = (1.0, -1.0, 0.0), (0.0, -1.0, 1.0)


def retention(evidence: Evidence) -> pl.DataFrame:
    """A row for every cell of the table."""
    levels = [evidence.as_scored_column(name) for name in ("base", "ceiling", "ported")]
    return plain(retained(evidence).with_columns(levels).select(COLUMNS)).sort(*CELL)


@lru_cache(maxsize=1)  # several measures ask for the same table in turn
def retained(evidence: Evidence) -> pl.DataFrame:
    """The table of `retention` with names as categories, and with ``ceiling_steps``."""
    ported = evidence.arm("ported").filter(pl.col("budget") == 0)
    rows = join(join(ported, evidence.arm("bare"), "bare"), evidence.arm("ceiling"), "ceiling")
    shares = _shares(
        evidence.pairs(rows, (*CELL, "ceiling_steps"), ARMS), evidence.declared.floor, evidence.declared.level
    )
    runs = evidence.runs.filter(pl.col("arm") == "ported").group_by(CELL).agg(pl.col("host_distance").mean())
    whole = runs.join(shares, on=CELL, how="left", nulls_equal=True).sort(*CELL, nulls_last=True)
    return whole.with_columns(
        eligible=pl.col("eligible").fill_null(False),
        reason=pl.when(pl.col("eligible").is_null()).then(_missing(evidence, whole)).otherwise(pl.col("reason")),
    )


def _shares(pairs: Pairs, floor: float, level: float) -> pl.DataFrame:
    ratios = pairs.crossed.ratio(KEPT, LIFT, level)
    mean = pairs.crossed.mean  # (G, 3): ported, bare, ceiling
    lift = pairs.crossed.contrast(LIFT)
    margin = lift.margin(level)
    eligible = (lift.estimate - margin >= floor) & ratios.bounded

    def if_eligible(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> pl.Expr:
        return pl.lit(np.where(eligible, values, np.nan)).fill_nan(None)

    said = [f"{e:+.3f} [{e - m:+.3f}, {e + m:+.3f}]" for e, m in zip(lift.estimate, margin, strict=True)]
    return pairs.table.with_columns(
        ported=pl.lit(mean[:, 0]),
        base=pl.lit(mean[:, 1]),
        ceiling=pl.lit(mean[:, 2]),
        retention=if_eligible(ratios.estimate),
        low=if_eligible(ratios.low),
        high=if_eligible(ratios.high),
        eligible=pl.lit(eligible),
        reason=pl.when(~pl.lit(eligible)).then(
            pl.format(
                f"the lift over the bare host, {{}}, is not settled to reach the floor of {floor:g}",
                pl.Series(said, dtype=pl.String),
            )
        ),
    )


def _missing(evidence: Evidence, whole: pl.DataFrame) -> pl.Expr:
    """For each cell, which of the three results is missing."""
    ported = evidence.arm("ported").filter(pl.col("budget") == 0).select(CELL).unique().with_columns(has_ported=True)
    bare = evidence.arm("bare").select("receiver", "receiver_task").with_columns(has_bare=True)
    here = ("technique", "receiver", "receiver_task")
    ceiling = evidence.arm("ceiling").select(here).unique().with_columns(has_ceiling=True)
    marked = (
        whole.select(CELL)
        .join(ported, on=CELL, how="left", nulls_equal=True, maintain_order="left")
        .join(bare, on=("receiver", "receiver_task"), how="left", nulls_equal=True, maintain_order="left")
        .join(ceiling, on=here, how="left", nulls_equal=True, maintain_order="left")
    )
    names = {"has_ported": "run at budget 0", "has_bare": "test of the bare host", "has_ceiling": "ceiling"}
    reason = marked.select(
        pl.coalesce(
            *(pl.when(pl.col(name).is_null()).then(pl.lit(f"no finished {what}")) for name, what in names.items()),
            pl.lit("no seed finished in both the ported arm and the ceiling"),
        )
    ).to_series()
    return pl.lit(reason)
