"""Turn the results of benchmarks/upgrades.py into recorded ports: each method's and distilling's tests as they are."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from peftport.analysis.prediction.recorded import LEVEL, RecordedPort
from peftport.analysis.stats.crossed import Estimates, crossed_from_items
from peftport.porting import METHODS
from peftport.workflows.distill import NAME as DISTILL
from recorded_of_runs import Relation

STUDY = "upgrades"
NAMES = (*(porter.name for porter in METHODS), DISTILL)
Rows = dict[str, dict[str, Any]]  # by arm: the tests of what was not trained further


def upgraded_ports(folder: Path, related: Callable[[str], tuple[Relation, float | None]]) -> list[RecordedPort]:
    """The records of a folder, a receiver and technique after another, in the order of the declaration.

    ``related`` says of a declared receiver how it is related to the origin, and how far apart the weights are.
    """
    declared = declaration(folder)
    ports: list[RecordedPort] = []
    for name, receiver in declared["receivers"].items():
        relation, distance = related(receiver)
        for technique in declared["techniques"]:
            file = folder / f"{name}-{technique}.json"
            if file.is_file():
                measured = json.loads(file.read_text(encoding="utf-8"))
                ports += _ports(measured, declared, technique, relation, distance)
    return ports


def _ports(
    measured: dict[str, Any], declared: dict[str, Any], technique: str, relation: Relation, distance: float | None
) -> list[RecordedPort]:
    """The records of the methods that could carry the modules to one receiver; a mean over seeds."""
    rows: Rows = {row["arm"]: row for row in measured["rows"] if "refused" not in row and row["steps"] == 0}
    if not {"bare", "ceiling"} <= rows.keys():
        return []  # the run was ended before it got there
    *own, alone = measured["at_home"]
    lift = _over(rows, "ceiling", "bare")
    found = []
    for name in (name for name in NAMES if name in rows):
        gain = _over(rows, name, "bare")
        found.append(
            RecordedPort(
                study=STUDY,
                origin=measured["hosts"][0],
                receiver=measured["hosts"][1],
                marks=relation.marks,
                origin_family=relation.origin_family,
                receiver_family=relation.receiver_family,
                same_vocabulary=relation.same_vocabulary,
                distance=distance,
                technique=technique,
                method=name,
                task=declared["task"],
                seeds=len(declared["seeds"]),
                items=declared["items"],
                base=_mean(rows["bare"]),
                ceiling=_mean(rows["ceiling"]),
                ported=_mean(rows[name]),
                sampled=_mean(rows["sampled"]) if "sampled" in rows else None,
                gain_low=round(float(gain.estimate[0] - gain.margin(LEVEL)[0]), 6),
                gain_high=round(float(gain.estimate[0] + gain.margin(LEVEL)[0]), 6),
                origin_steps=declared["origin_steps"],
                home=round(float(np.mean(own)) - alone, 6),
                home_low=None,  # the items of the tests at home were not kept
                lift_low=round(float(lift.estimate[0] - lift.margin(LEVEL)[0]), 6),
            )
        )
    return sorted(found, key=lambda port: port.method)


def declaration(folder: Path) -> dict[str, Any]:
    """What the results of a folder were declared as, which lies beside the results of all benchmarks."""
    return tomllib.loads((folder.parents[1] / f"{folder.name}.toml").read_text(encoding="utf-8"))


def _mean(row: dict[str, Any]) -> float:
    return round(float(np.mean(row["accuracy"])), 6)


def _over(rows: Rows, one: str, other: str) -> Estimates:
    """The difference of two arms, over seeds and test items."""
    right = [
        np.array([list(map(int, seed)) for seed in rows[name]["correct"]], dtype=np.uint8) for name in (one, other)
    ]
    return crossed_from_items(np.stack(right)[None]).contrast([1.0, -1.0])
