"""Check that recorded results can be reproduced: recompute some runs, in their planned stacks, and compare them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from peftport.analysis.columns import FACTORS, OLD_METRICS
from peftport.core.hashing import rng_for
from peftport.core.libraries import pl
from peftport.metrics import METRICS
from peftport.metrics.texts import TextMetric
from peftport.store.artifacts import Artifacts
from peftport.store.held import HeldFolder
from peftport.store.ledger import ARTIFACTS, Ledger
from peftport.study import executors
from peftport.study.commands import VerifyRequest
from peftport.study.export import Exported, export, read_export, recorded_items, rows_of
from peftport.study.item_table import NAME as ITEM_TABLE
from peftport.study.item_table import item_frames, item_metrics, items_that_differ
from peftport.study.items import CLASSES, StoredItems
from peftport.study.opened import OpenedStudy
from peftport.study.plan import Plan
from peftport.study.run import run_study
from peftport.tasks.kinds import KINDS
from peftport.training.loop import GENERATED

SAME = (*FACTORS, "state", "n_items", "steps", "error", "job")  # columns that no rounding touches
ALSO_ROUNDED = ("loss", "host_distance")
MEANS = [name for name in item_metrics(*KINDS) if CLASSES not in METRICS[name].kinds]
ROUNDING = 1e-6


@dataclass(frozen=True)
class Verified:
    """One recomputed run.

    Attributes:
        accuracy_difference: the difference between its accuracy and the recorded one; None of targets that are no
            classes.
        items_that_differ: the number of test items on which the two differ, of those that ``correct`` records.
        columns_that_differ: columns of the recorded row that were not reproduced.

    """

    run: str
    accuracy_difference: float | None
    items_that_differ: int
    columns_that_differ: tuple[str, ...] = ()

    def differs(self, tolerance: int) -> bool:
        """Return whether more differs than ``tolerance`` items and the changes that these can cause."""
        return self.items_that_differ > tolerance or bool(self.columns_that_differ)


def verify_study(opened: OpenedStudy, request: VerifyRequest) -> list[Verified]:
    """Recompute random runs from the beginning and compare them with the recorded runs and items.

    A run may differ on ``tolerance`` items, and its other numbers by as much as these items could change them. Where
    the table of items was exported too, it is compared as well.

    Raises:
        BadRequest: there are fewer recorded runs, or no tables.
        PeftportError: the tables were altered.

    """
    folder = Path(request.results)
    recorded, items = read_export(folder), recorded_items(folder)
    plan = opened.plan_of(recorded.runs["job"])
    part = _sampled(plan, recorded, request)
    runs = [run.name for run in part.runs()]
    with HeldFolder("verify") as home:
        ledger, artifacts = Ledger(Path(home)), Artifacts(Path(home) / ARTIFACTS)
        try:
            executor = executors.make_executor(
                request.executor, request.workers, request.threads, plan.study.loading
            )  # fmt: skip
            run_study(part, ledger, artifacts, executor, progress=request.progress)
            again = export(part, ledger, artifacts)
            verified = run_differences(again, recorded, runs, request.tolerance, plan.study.testing.generate)
            if items is None:
                return verified
            ours = pl.concat(item_frames(again.runs, rows_of(part, ledger), StoredItems(artifacts)))
        finally:
            ledger.close()
    theirs = items.filter(pl.col("run").is_in(runs)).collect()
    return [_with_items(each, ours, theirs, request.tolerance) for each in verified]


def _sampled(plan: Plan, recorded: Exported, request: VerifyRequest) -> Plan:
    """The part of a plan that recomputes ``sample`` random runs of those that are recorded as done."""
    done = set(recorded.runs.filter(recorded.runs["state"] == "done")["run"])
    runs = [run for run in plan.runs() if run.name in done]
    if not 1 <= request.sample <= len(runs):
        problem = f"expected 1 to {len(runs)}, the recorded runs of this study, got {request.sample}"
        request.refuse("sample", problem)
    picks = sorted(rng_for(request.seed, "verify").choice(len(runs), size=request.sample, replace=False).tolist())
    return plan.part([runs[i] for i in picks])


def _with_items(verified: Verified, ours: pl.DataFrame, theirs: pl.DataFrame, tolerance: int) -> Verified:
    """Add ``items`` to the columns that differ where the two tables of items do."""
    left, right = (each.filter(run=verified.run) for each in (ours, theirs))
    if not items_that_differ(left, right, tolerance):
        return verified
    return replace(verified, columns_that_differ=(*verified.columns_that_differ, ITEM_TABLE))


def run_differences(
    ours: Exported, theirs: Exported, runs: list[str], tolerance: int = 0, generate: int = GENERATED
) -> list[Verified]:
    """Compare two tables for each of these runs: their items, and their rows except the seconds.

    Answers were generated for at most ``generate`` items.
    """
    rows, items = zip(*(_by_run(each) for each in (ours, theirs)), strict=True)
    verified = []
    for run in runs:
        again, recorded = (np.array(each.get(run, []), dtype=bool) for each in items)
        of_classes = ours.tested.kinds.get(rows[0][run]["receiver_task"], CLASSES) == CLASSES
        if len(again) != len(recorded) or bool(len(again)) != of_classes:
            verified.append(Verified(run, float("nan"), max(len(again), len(recorded)), ("correct",)))
            continue
        columns = tuple(name for name in SAME if rows[0][run][name] != rows[1][run][name])
        items_of = rows[0][run]["n_items"] or 1
        for name in _rounded(rows[0][run], rows[1][run], tolerance > 0):
            count = min(items_of, generate) if isinstance(METRICS.get(name), TextMetric) else items_of
            room = ROUNDING + 2 * tolerance / max(1, count)
            if not _close(rows[0][run].get(name), rows[1][run].get(name), room):
                columns += (name,)
        apart = float(abs(again.mean() - recorded.mean())) if of_classes else None
        verified.append(Verified(run, apart, int((again != recorded).sum()), columns))
    return verified


def _rounded(ours: Mapping[str, Any], theirs: Mapping[str, Any], elsewhere: bool) -> Iterator[str]:
    """Columns of rounded numbers to hold: of metrics, those that the recorded table knows.

    ``elsewhere``: items may differ, and only the first metrics of classes, and means over the items of other kinds,
    move by no more than the share of those.
    """
    for name in [name for name in METRICS if name in OLD_METRICS or name in MEANS] if elsewhere else METRICS:
        if theirs.get(name) is not None or (name in OLD_METRICS and ours[name] is None):
            yield name
    yield from ALSO_ROUNDED


def _by_run(tables: Exported) -> tuple[dict[str, dict[str, Any]], dict[str, list[bool]]]:
    return {row["run"]: row for row in tables.runs.iter_rows(named=True)}, dict(tables.correct.iter_rows())


def _close(left: float | None, right: float | None, room: float) -> bool:
    if left is None or right is None:
        return left is right
    return abs(left - right) <= room * max(1.0, abs(left))
