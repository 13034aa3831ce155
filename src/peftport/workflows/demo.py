"""The job `demo`: compare four techniques x {ported, sampled, scratch} x budgets on real hosts and real reviews.

The origin is all-MiniLM-L6-v2, the receiver is sre (a MiniLM that was tuned further: a real minor update), and the task
is Rotten Tomatoes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

from peftport.analysis.verdict.choice import COPY
from peftport.core.hashing import rng_for
from peftport.core.progress import Progress, Silent
from peftport.hosts.loading import Loading, loading_of
from peftport.metrics.choice import check_defined
from peftport.modules.module import Module
from peftport.porting import porter_named
from peftport.tasks import load_task
from peftport.tasks.kinds.classification import as_scores
from peftport.techniques import TECHNIQUES, make_spec
from peftport.training.bound_task import BoundTask, Start, bind_task
from peftport.training.loop import TrainSettings
from peftport.training.threads import beside_others
from peftport.workflows.comparison import Comparison, ComparisonPlan, run_comparison

if TYPE_CHECKING:
    from peftport.workflows.compare_tables import ComparisonAnalysis

ORIGIN, RECEIVER, TASK = "all-MiniLM-L6-v2", "sre", "rotten_tomatoes"


@dataclass(frozen=True)
class DemoSettings:
    """The size of the demonstration."""

    origin: str = ORIGIN
    receiver: str = RECEIVER
    task: str = TASK
    origin_steps: int = 60
    budgets: tuple[int, ...] = (0, 10, 20)
    seeds: tuple[int, ...] = (0, 1)
    test_items: int = 200
    max_tokens: int = 64


@dataclass(frozen=True, eq=False)
class Demo:
    """The results: one comparison for each technique, and the accuracy of each module on its origin."""

    settings: DemoSettings
    comparisons: list[Comparison]
    origin_accuracy: dict[str, float]
    origin_bare: float
    seconds: float
    remarks: tuple[str, ...] = ()  # how the task and its texts were read, on either host

    @cached_property
    def analysis(self) -> ComparisonAnalysis:
        """The one analysis of all techniques."""
        from peftport.workflows.compare_tables import ComparisonAnalysis  # imports polars, which no refusal needs

        return ComparisonAnalysis(self.comparisons)

    def as_json(self) -> dict[str, Any]:
        """Return the rows of all techniques, and the settings and versions they were measured with."""
        return {
            "rows": [row.as_row() for comparison in self.comparisons for row in comparison.rows],
            "bare_accuracy": as_scores(self.comparisons[0].bare).accuracy,
            "origin_bare_accuracy": self.origin_bare,
            "origin_accuracy": self.origin_accuracy,
            "settings": asdict(self.settings),
            "learning_rates": {c.technique: c.learning_rate for c in self.comparisons},
            "seconds": round(self.seconds, 1),
        }


def run_demo(
    settings: DemoSettings | None = None,
    progress: Progress | None = None,
    metric: str | None = None,
    load: Mapping[str, Any] | None = None,
) -> Demo:
    """Train a module of each technique on the origin, then compare each on the receiver, judged by ``metric``.

    What comes of a technique is told as soon as it is found.

    Raises:
        BadRequest: a host or the task is not installed, or the metric is unknown or not defined for the test items.

    """
    settings, progress = settings or DemoSettings(), progress or Silent()
    plan = ComparisonPlan(settings.budgets, settings.seeds, metric=metric)
    with beside_others() as busy:
        return _run(settings, plan, progress, loading_of(load), busy)


def _run(
    settings: DemoSettings, plan: ComparisonPlan, progress: Progress, loading: Loading | None, busy: str | None
) -> Demo:
    begun = time.perf_counter()
    task = load_task(settings.task, progress=progress)
    progress.tell(
        f"A module of each technique is trained on {settings.origin} to tell good film reviews from bad ones, then "
        f"copied to {settings.receiver}, an update of that host, and compared there."
    )
    if busy is not None:
        progress.tell(busy)
    training = TrainSettings(max_tokens=settings.max_tokens)
    home = bind_task(settings.origin, task, settings=training, test_items=settings.test_items, loading=loading)
    away = bind_task(settings.receiver, task, settings=training, test_items=settings.test_items, loading=loading)
    [home_bare] = home.test(None, [], progress, f"testing {settings.origin} alone")
    if plan.metric is not None:
        check_defined(plan.metric, home_bare)
    comparisons: list[Comparison] = []
    accuracy: dict[str, float] = {}
    for technique in TECHNIQUES.values():
        spec = make_spec(technique.name)
        rate = technique.learning_rates[home.host.kind]
        start = Start(home.fresh(spec, 0), 0)
        title = f"training {technique.name} on {settings.origin}"
        [kept] = home.train(spec, [start], [settings.origin_steps], rate, progress, title)
        module = home.module(spec, kept[settings.origin_steps], 0, rate)
        accuracy[technique.name] = as_scores(home.test(spec, [module.matrices])[0]).accuracy
        if not comparisons:
            progress.tell(_first_row(module, home, away, accuracy[technique.name], as_scores(home_bare).accuracy))
        comparisons.append(run_comparison(module, away, plan, progress))
        progress.tell(_told(comparisons[-1], accuracy[technique.name]))
    remarks = tuple(dict.fromkeys((*home.remarks, *away.remarks)))
    return Demo(settings, comparisons, accuracy, as_scores(home_bare).accuracy, time.perf_counter() - begun, remarks)


def _first_row(module: Module, home: BoundTask, away: BoundTask, at_home: float, home_alone: float) -> str:
    """What copying does for the first technique, told before the receiver's trainings, and what it means."""
    ported = porter_named(COPY).port(module, away.host, rng_for(0, "porting"), None)
    [copied] = away.test(module.spec, [away.startable(ported)])
    [bare] = away.test(None, [])
    with_copy, alone = as_scores(copied).accuracy, as_scores(bare).accuracy
    kept = f"{with_copy - alone:+.3f} without any training there" if with_copy > alone else "nothing gained there"
    return (
        f"First answer: {module.spec.kind} scores {at_home:.3f} on {home.host.name}, which alone scores "
        f"{home_alone:.3f}. Copied to {away.host.name} it scores {with_copy:.3f}, {away.host.name} alone {alone:.3f}: "
        f"{kept}. Now it is compared with random parameters and with training from scratch ({len(copied)} test items)."
    )


def _told(comparison: Comparison, at_home: float) -> str:
    """What was found for one technique, before any training on the receiver."""
    least = min(comparison.plan.budgets)
    of_arm = {
        arm: [
            as_scores(test).accuracy
            for (each, budget, _), test in comparison.scores.items()
            if (each, budget) == (arm, least)
        ]
        for arm in comparison.plan.arms
    }
    arms = ", ".join(f"{arm} {fmean(accuracies):.3f}" for arm, accuracies in of_arm.items())
    bare = as_scores(comparison.bare).accuracy
    where = f"on {comparison.receiver} after {least} steps"
    return f"{comparison.technique}: accuracy {at_home:.3f} at home; {where}: {arms}, bare {bare:.3f}"
