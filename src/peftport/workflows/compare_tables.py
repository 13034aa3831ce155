"""Comparisons as the tables that studies export, and the one analysis of them.

What `compare` and `demo` say in a sentence, in the verdict, in JSON and on their page is read off this analysis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from peftport.analysis.columns import CORRECT, ITEMS, run_columns
from peftport.analysis.measures import Declared, Evidence, curves, gains
from peftport.analysis.measures.differences import differences
from peftport.analysis.stats import Interval
from peftport.analysis.verdict.choice import Contrast
from peftport.analysis.verdict.table import settings_of, verdicts
from peftport.core.arms import BARE, FEW_SHOT, LOGIT_OFFSET, REFERENCES
from peftport.core.errors import UnknownName
from peftport.core.hashing import rng_for
from peftport.core.libraries import pl
from peftport.metrics import metric_named
from peftport.metrics.choice import MetricChoice, measures_with
from peftport.metrics.resampling import resampled
from peftport.tasks.kinds.classification import Scores
from peftport.tasks.spec import Predictions
from peftport.workflows.comparison import Comparison
from peftport.workflows.references import runs_of

CEILING = "ceiling"


@dataclass(frozen=True, eq=False)
class Frames:
    """The tables of comparisons: a row a run, and each run's per-item results; ``tests`` are the tests by run."""

    runs: pl.DataFrame
    correct: pl.DataFrame
    tests: Mapping[str, Predictions] = field(repr=False)


def compare_frames(comparisons: Sequence[Comparison]) -> Frames:
    """The runs of comparisons on one receiver and task as a study's.

    A comparison trains nothing for the origin's full number of steps, so its longest training from scratch stands in as
    the ceiling: shares of the lift are of what those steps give.
    """
    rows: list[dict[str, Any]] = []
    tests: dict[str, Predictions] = {}
    for comparison in comparisons:
        for row, scores in _runs(comparison):
            name = "/".join(str(row[key]) for key in ("technique", "arm", "budget", "seed"))
            rows.append({**row, "run": name, "job": name})
            tests[name] = scores
    bare, judged = comparisons[0].bare, comparisons[0].judged.name
    rows.append(
        {**_row(comparisons[0], BARE_ARM, 0, bare, measures_with(bare, judged)), "run": BARE_ARM, "job": BARE_ARM}
    )
    tests[BARE_ARM] = bare
    for seed, test in comparisons[0].few_shot.items():
        row = _row(comparisons[0], FEW_SHOT, 0, test, measures_with(test, judged))
        rows.append({**row, "seed": seed, "run": f"{FEW_SHOT}/{seed}", "job": f"{FEW_SHOT}/{seed}"})
        tests[f"{FEW_SHOT}/{seed}"] = test
    for arm, budget, of_seed, test in runs_of(comparisons[0].references):
        name = "/".join(str(part) for part in (arm, budget, of_seed) if part is not None)
        row = {**_row(comparisons[0], arm, budget, test, measures_with(test, judged)), "steps": 0, "seed": of_seed}
        rows.append({**row, "run": name, "job": name})
        tests[name] = test
    classes = {name: test for name, test in tests.items() if isinstance(test, Scores)}
    correct = [{"run": name, "correct": test.correct.tolist()} for name, test in classes.items()]
    columns = {**run_columns(bare.kind), judged: pl.Float64}
    return Frames(pl.DataFrame(rows, schema=columns), pl.DataFrame(correct, schema=CORRECT), tests)


BARE_ARM = "bare"  # as tables of runs call the bare host


def _runs(compared: Comparison) -> list[tuple[dict[str, Any], Predictions]]:
    plan, longest = compared.plan, max(compared.plan.budgets)
    known = {(row.arm, row.budget, row.seed): row for row in compared.rows}
    runs = []
    for (arm, budget, seed), scores in compared.scores.items():
        method = {"ported": plan.method, "sampled": plan.sampler}.get(arm)
        place = {"origin": compared.origin, "method": method} if method else {}
        row = known.get((arm, budget, seed))
        measured = measures_with(scores, compared.judged.name) if row is None else row.measures
        run = {**_row(compared, arm, budget, scores, measured), **place, "technique": compared.technique, "seed": seed}
        run |= {"train_seconds": row.seconds if row else None, "test_seconds": 0.0}
        runs.append((run, scores))
        if arm == "scratch" and budget == longest > 0:
            runs.append(({**run, "arm": CEILING}, scores))
    return runs


def _row(
    compared: Comparison, arm: str, budget: int, scores: Predictions, measured: Mapping[str, float | None]
) -> dict[str, Any]:
    row = {"receiver": compared.receiver, "receiver_task": compared.task, "arm": arm, "budget": budget, "steps": budget}
    return {**row, "state": "done", **measured, "n_items": len(scores)}


class ComparisonAnalysis:
    """The one analysis of comparisons on one receiver and task: evidence, and what is read off it."""

    def __init__(self, comparisons: Sequence[Comparison]) -> None:
        """Take comparisons, at least one, whose plans but for the technique are the same."""
        self.comparisons = tuple(comparisons)
        self.first = self.comparisons[0]
        self.frames = compare_frames(self.comparisons)

    @property
    def judged(self) -> MetricChoice:
        """The metric that all is judged by."""
        return self.first.judged

    @cached_property
    def evidence(self) -> Evidence:
        """The runs with their per-item results, or with draws of the items where the metric has none."""
        metric, runs, tests = metric_named(self.judged.name), self.frames.runs, self.frames.tests
        declared = Declared(metric=metric.name)
        if metric.name == "accuracy":
            return Evidence.of(runs, self.frames.correct, declared)
        each = {name: metric.per_item(scores) for name, scores in tests.items()}
        if all(values is not None for values in each.values()):
            runs = runs.with_columns(
                n_items=pl.col("run").replace_strict({run: len(_numbers(v)) for run, v in each.items()})
            )
            rows = [(name, metric.name, _numbers(values)) for name, values in each.items()]
            return Evidence.of(runs, None, declared, items=pl.DataFrame(rows, schema=ITEMS, orient="row"))
        drawn = resampled(metric, list(tests.values()), rng=rng_for(0, "items"))
        return Evidence.of(runs, None, declared, draws=dict(zip(tests, drawn, strict=True)), tests=tests)

    @cached_property
    def gains(self) -> pl.DataFrame:
        """The ported module over each other arm at every budget; no rows where it was not run."""
        return gains(self.evidence, rng=rng_for(0, "gains"))

    @cached_property
    def verdicts(self) -> pl.DataFrame:
        """A row for each comparison that has a ported arm."""
        return verdicts(self.evidence)

    @cached_property
    def curves(self) -> pl.DataFrame:
        """The metric by arm and budget."""
        return curves(self.evidence).filter(pl.col("arm") != CEILING)

    @cached_property
    def by_technique(self) -> dict[str | None, Contrast | None]:
        """Of each technique, the comparison at the smallest budget that its verdict weighs first."""
        smallest = min(self.first.plan.budgets)
        contrasts: dict[str | None, Contrast | None] = {}
        for setting in settings_of(self.evidence):
            at_smallest = [duel for duels in setting.duels.values() for duel in duels if duel.budget == smallest]
            contrasts[setting.names[0]] = at_smallest[0] if at_smallest else None
        return contrasts

    def difference(self, one: str, other: str, budget: int) -> Interval:
        """One arm minus another at a budget, paired over seeds and test items; only comparison.

        Raises:
            UnknownName: an arm that was not run.

        """
        rows = self.evidence.runs.filter(pl.col("state") == "done").with_columns(pl.col("arm").cast(pl.String))
        sides = []
        for name, column in ((one, "row_one"), (other, "row_other")):
            arm = BARE_ARM if name == BARE else name
            own = rows.filter(arm=arm)  # the bare host and reference arms may be the same at all budgets
            at = 0 if arm in (BARE_ARM, *REFERENCES) and not own.filter(budget=budget).height else budget
            side = own.filter(budget=at).select("seed", pl.col("row").alias(column))
            if not side.height:
                raise UnknownName.of(f"arm at {budget} steps", name, [*self.first.plan.arms, BARE])
            sides.append(side.drop("seed") if arm in (BARE_ARM, LOGIT_OFFSET) else side)
        bare = any("seed" not in side.columns for side in sides)
        joined = sides[0].join(sides[1], how="cross") if bare else sides[0].join(sides[1], on="seed")
        both = joined.with_columns(all=pl.lit(0))
        estimates, level = (
            differences(self.evidence, both, ("all",), ("one", "other")).estimates,
            self.evidence.declared.level,
        )
        estimate, margin = float(estimates.estimate[0]), float(estimates.margin(level)[0])
        return Interval(estimate, estimate - margin, estimate + margin, level)


def _numbers(values: npt.NDArray[Any] | None) -> list[float]:
    return [] if values is None else np.asarray(values, dtype=np.float64).tolist()
