"""Turn a study's table of runs into recorded ports: each zero-shot test of a ported module beside bare and ceiling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from peftport.analysis.measures import Evidence, lifts
from peftport.analysis.measures.evidence import CELL, join, plain
from peftport.analysis.prediction.recorded import LEVEL, RecordedPort

ARMS = ("ported", "bare", "ceiling")


@dataclass(frozen=True)
class Relation:
    """How an origin and a receiver are related."""

    marks: tuple[str, str]
    origin_family: str
    receiver_family: str
    same_vocabulary: bool


def collect(
    study: str,
    evidence: Evidence,
    relations: Mapping[tuple[str, str], Relation],
    origin_steps: Callable[[str], int],
) -> list[RecordedPort]:
    """A record for each cell that ran all three arms and whose module was tested on its own task; a mean over seeds.

    Args:
        study: the name of the study.
        evidence: its runs.
        relations: by the names of origin and receiver.
        origin_steps: for how many steps modules were trained on an origin.

    """
    ported = evidence.arm("ported").filter(pl.col("budget") == 0)
    ported = ported.filter(pl.col("origin_task").cast(pl.String) == pl.col("receiver_task").cast(pl.String))
    rows = join(join(ported, evidence.arm("bare"), "bare"), evidence.arm("ceiling"), "ceiling")
    sampled = evidence.pairs(join(ported, evidence.arm("sampled"), "sampled"), CELL, ("ported", "sampled"))
    drawn = dict(zip(plain(sampled.table).select(CELL).iter_rows(), sampled.crossed.mean[:, 1], strict=True))
    pairs = evidence.pairs(rows, CELL, ARMS)
    gains = pairs.crossed.contrast([1.0, -1.0, 0.0])
    margins = gains.margin(LEVEL)
    lift = pairs.crossed.contrast([0.0, -1.0, 1.0])
    lift_low = lift.estimate - lift.margin(LEVEL)
    at_home = {tuple(row[:-2]): row[-2:] for row in lifts(evidence).select(*CELL, "lift", "lift_low").iter_rows()}
    apart = plain(evidence.runs.filter(pl.col("arm") == "ported").group_by(CELL).agg(pl.col("host_distance").mean()))
    distances = {tuple(row[:-1]): row[-1] for row in apart.select(*CELL, "host_distance").iter_rows()}
    records = []
    for at, cell in enumerate(plain(pairs.table).select(CELL).iter_rows()):
        technique, origin, receiver, _, task, method = cell
        means = [round(float(mean), 6) for mean in pairs.crossed.mean[at]]
        relation = relations[origin, receiver]
        home, home_low = (round(float(value), 6) for value in at_home[cell]) if cell in at_home else (None, None)
        records.append(
            RecordedPort(
                study=study,
                origin=origin,
                receiver=receiver,
                marks=relation.marks,
                origin_family=relation.origin_family,
                receiver_family=relation.receiver_family,
                same_vocabulary=relation.same_vocabulary,
                distance=distances[cell],
                technique=technique,
                method=method,
                task=task,
                seeds=int(pairs.crossed.seeds[at]),
                items=int(pairs.crossed.items[at]),
                ported=means[0],
                base=means[1],
                ceiling=means[2],
                sampled=round(float(drawn[cell]), 6) if cell in drawn else None,
                gain_low=round(float(gains.estimate[at] - margins[at]), 6),
                gain_high=round(float(gains.estimate[at] + margins[at]), 6),
                origin_steps=origin_steps(origin),
                home=home,
                home_low=home_low,
                lift_low=round(float(lift_low[at]), 6),
            )
        )
    return sorted(records, key=lambda p: (p.technique, p.method, p.origin, p.receiver, p.task))
