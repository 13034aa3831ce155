"""Check that recorded results can be reproduced: recompute some runs, in their planned stacks, and compare them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peftport.analysis.columns import FACTORS, OLD_METRICS
from peftport.core.errors import BadRequest
from peftport.core.hashing import rng_for
from peftport.core.progress import Progress
from peftport.metrics import METRICS
from peftport.store.artifacts import Artifacts
from peftport.store.held import HeldFolder
from peftport.store.ledger import Ledger
from peftport.study.executors import Executor
from peftport.study.export import Exported, export
from peftport.study.plan import Plan
from peftport.study.run import run_study

SAME = (*FACTORS, "state", "n_items", "steps", "error", "job")  # columns that no rounding touches
ALSO_ROUNDED = ("loss", "host_distance")
ROUNDING = 1e-6


@dataclass(frozen=True)
class Verified:
    """One recomputed run.

    Attributes:
        accuracy_difference: the difference between its accuracy and the recorded one.
        items_that_differ: the number of test items on which the two differ.
        columns_that_differ: columns of the recorded row that were not reproduced.

    """

    run: str
    accuracy_difference: float
    items_that_differ: int
    columns_that_differ: tuple[str, ...] = ()

    def differs(self, tolerance: int) -> bool:
        """Return whether more differs than ``tolerance`` items and the changes that these can cause."""
        return self.items_that_differ > tolerance or bool(self.columns_that_differ)


def verify(
    plan: Plan,
    recorded: Exported,
    sample: int,
    seed: int,
    executor_for: Callable[[], Executor],
    progress: Progress | None = None,
    tolerance: int = 0,
) -> list[Verified]:
    """Recompute ``sample`` random runs from the beginning and compare them with the recorded runs and items.

    A run may differ on ``tolerance`` items, and its other numbers by as much as these items could change them.

    Raises:
        BadRequest: there are fewer recorded runs.

    """
    done = set(recorded.runs.filter(recorded.runs["state"] == "done")["run"])
    runs = [run for run in plan.runs() if run.name in done]
    if not 1 <= sample <= len(runs):
        raise BadRequest(f"--sample: expected 1 to {len(runs)}, the recorded runs of this study, got {sample}")
    picks = sorted(rng_for(seed, "verify").choice(len(runs), size=sample, replace=False).tolist())
    part = plan.part([runs[i] for i in picks])
    with HeldFolder("verify") as home, closing(Ledger(Path(home))) as ledger:
        artifacts = Artifacts(Path(home) / "artifacts")
        run_study(part, ledger, artifacts, executor_for(), progress=progress)
        again = export(part, ledger, artifacts)
    return run_differences(again, recorded, [run.name for run in part.runs()], tolerance)


def run_differences(ours: Exported, theirs: Exported, runs: list[str], tolerance: int = 0) -> list[Verified]:
    """Compare two tables for each of these runs: their items, and their rows except the seconds."""
    rows, items = zip(*(_by_run(each) for each in (ours, theirs)), strict=True)
    found = []
    for run in runs:
        one, other = (np.array(each.get(run, []), dtype=bool) for each in items)
        if len(one) != len(other) or not len(one):
            found.append(Verified(run, float("nan"), max(len(one), len(other)), ("correct",)))
            continue
        columns = tuple(name for name in SAME if rows[0][run][name] != rows[1][run][name])
        room = ROUNDING + 2 * tolerance / len(one)
        columns += tuple(
            name
            for name in _rounded(rows[0][run], rows[1][run], tolerance > 0)
            if not _close(rows[0][run][name], rows[1][run][name], room)
        )
        found.append(Verified(run, float(abs(one.mean() - other.mean())), int((one != other).sum()), columns))
    return found


def _rounded(ours: Mapping[str, Any], theirs: Mapping[str, Any], elsewhere: bool) -> Iterator[str]:
    """Columns of rounded numbers to hold: of metrics, those that the recorded table knows.

    ``elsewhere``: items may differ, and only the first metrics move by no more than the share of those.
    """
    for name in OLD_METRICS if elsewhere else METRICS:
        if theirs.get(name) is not None or (name in OLD_METRICS and ours[name] is None):
            yield name
    yield from ALSO_ROUNDED


def _by_run(tables: Exported) -> tuple[dict[str, dict[str, Any]], dict[str, list[bool]]]:
    return {row["run"]: row for row in tables.runs.iter_rows(named=True)}, dict(tables.correct.iter_rows())


def _close(one: float | None, other: float | None, room: float) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= room * max(1.0, abs(one))
