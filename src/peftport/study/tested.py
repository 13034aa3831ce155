"""What a study's tests say of its tasks: their kinds, by which metric each is usually judged, and lopsided classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from peftport.core.libraries import pl
from peftport.metrics.choice import StudyMetric, choose_for_study, majority_share
from peftport.store.ledger import JobRow
from peftport.study.items import StoredItems
from peftport.tasks.kinds.classification import Scores

MAJORITY = "majority"  # in the metrics of a row whose artifact does not hold the right classes


@dataclass(frozen=True)
class TestedTasks:
    """By receiver task.

    Attributes:
        kinds: the kind of task.
        usual: of other kinds than classes, the metric that the test is judged by where nobody asks for another.
        majorities: of classes, the share of the most frequent one of the test items, where the items tell it.

    """

    kinds: Mapping[str, str] = field(default_factory=dict)
    usual: Mapping[str, str] = field(default_factory=dict)
    majorities: Mapping[str, float] = field(default_factory=dict)


def tested_tasks(runs: pl.DataFrame, rows: Mapping[str, JobRow], stored: StoredItems) -> TestedTasks:
    """Read one test of each task; all tests of a task are of the same items."""
    kinds, usual, majorities = dict[str, str](), dict[str, str](), dict[str, float]()
    one_each = runs.filter(state="done").unique("receiver_task", keep="first", maintain_order=True)
    for task, job, budget in one_each.select("receiver_task", "job", "budget").iter_rows():
        test = stored.test(rows[job], budget)
        kinds[task] = test.kind
        if isinstance(test.predictions, Scores):
            majorities[task] = majority_share(test.predictions.labels)
        elif test.predictions is not None:
            usual[task] = test.predictions.usual_metric().name
        elif MAJORITY in (metrics := rows[job].metrics or {}):
            majorities[task] = metrics[MAJORITY]
    return TestedTasks(kinds, usual, majorities)


def judged_by(tested: TestedTasks, asked: str | None = None) -> StudyMetric:
    """The metric that was asked for, or the one that is usual for all tasks; refuses as `choose_for_study` does."""
    return choose_for_study(
        tested.majorities, asked, kinds=sorted(set(tested.kinds.values())), usual=tested.usual.values()
    )
