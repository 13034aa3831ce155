"""What a module gains at home beside what it gains on the receiver before any training there.

    lift    of the origin's module over its bare host, at home
    gain    of the ported module over the bare receiver, at budget 0

A module that gained nothing at home has nothing to bring. Where what origins score at home was not recorded as runs of
its own (``home``), the ceiling on that host and task is the same training.
"""

from __future__ import annotations

from peftport.analysis.measures.differences import Differences, differences
from peftport.analysis.measures.evidence import CELL, Evidence, join, plain
from peftport.analysis.measures.gains import gained
from peftport.core.libraries import pl

COLUMNS = (*CELL, "lift", "lift_low", "lift_high", "gain", "low", "high", "seeds")
HOME = ("technique", "receiver", "receiver_task")


def lifts(evidence: Evidence) -> pl.DataFrame:
    """A row for every cell whose module was tested both at home and, untrained, on the receiver."""
    at_home = differences(evidence, _homes(evidence), HOME, ("home", "bare"))
    home = _with_bounds(at_home, evidence, "lift", "lift_low", "lift_high")
    home = home.rename({"receiver": "origin", "receiver_task": "home_task"})
    away = gained(evidence, "bare")
    cells = _with_bounds(away, evidence, "gain", "low", "high").with_columns(seeds=pl.lit(away.pairs.crossed.seeds))
    cells = plain(cells.filter(pl.col("budget") == 0).drop("budget"))
    cells = cells.with_columns(home_task=pl.coalesce("origin_task", "receiver_task"))
    both = cells.join(plain(home), on=("technique", "origin", "home_task"), how="inner", nulls_equal=True)
    return both.select(COLUMNS).sort(*CELL)


def _homes(evidence: Evidence) -> pl.DataFrame:
    """The runs of origins' modules at home, each with that of the bare host there."""
    ceilings = evidence.arm("ceiling").select(*HOME, "seed", row_home="row_ceiling")
    home = evidence.arm("home").select(*HOME, "seed", "row_home")
    home = pl.concat([home, ceilings.join(home, on=HOME, how="anti", nulls_equal=True)])
    return join(home, evidence.arm("bare"), "bare")


def _with_bounds(found: Differences, evidence: Evidence, *names: str) -> pl.DataFrame:
    estimate, margin = found.estimates.estimate, found.estimates.margin(evidence.declared.level)
    values = dict(zip(names, (estimate, estimate - margin, estimate + margin), strict=True))
    return found.pairs.table.with_columns(**{name: pl.lit(value) for name, value in values.items()})
