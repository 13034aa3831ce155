"""What a study's test items say of its metric, where that is not accuracy: from its artifacts or its exported items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from peftport.analysis.columns import ITEMS
from peftport.core.hashing import rng_for
from peftport.core.libraries import pl
from peftport.metrics import metric_named
from peftport.metrics.base import Metric
from peftport.metrics.choice import check_measures
from peftport.metrics.resampling import resampled
from peftport.store.ledger import JobRow
from peftport.study.item_table import predictions_of
from peftport.study.items import CLASSES, StoredItems
from peftport.tasks.spec import Predictions

ReadTest = Callable[[str, str, int], Predictions | None]  # of a run, a job and a budget
# Tests: a metric on draws of more would take hours, and their seeds alone are paired. Many more of one that takes all
# draws at once.
MOST_RESAMPLED, MOST_AT_ONCE = 2_000, 20_000


@dataclass(frozen=True, eq=False)
class JudgedItems:
    """Per-item results (``run``, ``metric``, ``values``), or by run the metric on draws of the items, (B,)."""

    items: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=ITEMS))
    draws: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    tests: Mapping[str, Predictions] = field(default_factory=dict)  # by run, those that the draws are of


def judged_items(name: str, runs: pl.DataFrame, read: ReadTest) -> JudgedItems:
    """Judge the done runs' tests. Those whose right classes are not known (of old artifacts) are left out.

    ``read`` reads the test of a job at a budget, which several runs may share.
    """
    metric, places = metric_named(name), defaultdict[tuple[str, str], dict[str, Predictions]](dict)
    known: dict[tuple[str, int], Predictions | None] = {}
    if name == "accuracy":
        return JudgedItems()
    columns = ("run", "job", "budget", "receiver", "receiver_task")
    for run, job, budget, *place in runs.filter(state="done").select(columns).iter_rows():
        if (job, budget) not in known:
            known[job, budget] = read(run, job, budget)
        test = known[job, budget]
        if test is not None:
            places[place[0], place[1]][run] = test
    each: list[tuple[str, str, Any]] = []
    draws: dict[str, npt.NDArray[np.float64]] = {}
    drawn_of: dict[str, Predictions] = {}
    for (receiver, task), tests in places.items():
        check_measures(name, next(iter(tests.values())).kind)
        values = {run: metric.per_item(test) for run, test in tests.items()}
        if all(per_item is not None for per_item in values.values()):
            each += [(run, name, np.asarray(per_item, np.float64).tolist()) for run, per_item in values.items()]
        elif len(known) <= (MOST_RESAMPLED if type(metric).on_counts is Metric.on_counts else MOST_AT_ONCE):
            drawn = resampled(metric, list(tests.values()), rng=rng_for(0, "items", receiver, task))
            draws |= dict(zip(tests, drawn, strict=True))
            drawn_of |= tests
    return JudgedItems(pl.DataFrame(each, schema=ITEMS, orient="row"), draws, drawn_of)


def stored_tests(rows: Mapping[str, JobRow], stored: StoredItems) -> ReadTest:
    """Read tests from a study's artifacts."""
    return lambda run, job, budget: stored.predictions(rows[job], budget)


def recorded_tests(runs: pl.DataFrame, items: pl.LazyFrame, kinds: Mapping[str, str]) -> ReadTest:
    """Read tests from the exported table of items; ``kinds`` has the kind of each receiver task."""
    by_run = items.collect().partition_by("run", as_dict=True)
    task_of = dict(runs.select("run", "receiver_task").iter_rows())

    def read(run: str, job: str, budget: int) -> Predictions | None:
        own = by_run.get((run,))
        return None if own is None else predictions_of(kinds.get(task_of[run], CLASSES), own.sort("item"))

    return read
