"""The comparison: one module on a receiver, against sampled and scratch, at every budget and seed.

All arms of one seed see the same batches and the same test items; their trainings are stacked on one host.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from peftport.core.arms import ARMS, Arm, arm_names
from peftport.core.errors import BadRequest, ModuleRefused
from peftport.core.hashing import rng_for
from peftport.core.progress import Progress, Silent
from peftport.metrics import asked_metric
from peftport.metrics.choice import MetricChoice, check_defined, choose_metric, measures_with
from peftport.modules.module import Module
from peftport.porting import AUTO, porter_named, sampler_named
from peftport.tasks.spec import Predictions
from peftport.techniques import technique_named
from peftport.techniques.base import Parameters
from peftport.training.bound_task import BoundTask, Start
from peftport.training.loop import Checkpoint
from peftport.workflows.answers import REFERENCE, ShownAnswer, at_home, check_shots, few_shot, side_by_side
from peftport.workflows.checking import MethodChoice
from peftport.workflows.distill import NAME as DISTILL
from peftport.workflows.references import ReferenceArm


@dataclass(frozen=True)
class ComparisonPlan:
    """What to compare. ``learning_rate`` None: the technique's own, the same for every arm.

    ``method`` ``auto`` is for whoever calls `run_comparison` to replace by the porter that `checking` chooses; they
    also run ``distill``, and pass the module that it made.
    ``metric`` None: the usual one of the task's kind (`metrics.choice`). ``shots``: the examples in the prompt of the
    bare host, as a further arm, where answers are texts (None: a few).
    """

    budgets: tuple[int, ...] = (0, 10, 40)
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: tuple[Arm, ...] = ARMS
    method: str = "copy"
    sampler: str = "gaussian"
    learning_rate: float | None = None
    metric: str | None = None
    shots: int | None = None

    def __post_init__(self) -> None:
        if self.metric is not None:
            asked_metric(self.metric)
        arm_names(self.arms)
        if self.method not in (AUTO, DISTILL):
            porter_named(self.method)
        sampler_named(self.sampler)
        if not self.budgets or min(self.budgets) < 0 or len(set(self.budgets)) < len(self.budgets):
            raise BadRequest(f"--budgets: expected different numbers of steps from 0 up, got {self.budgets}")
        if not self.seeds or not self.arms:
            raise BadRequest("compare: expected at least one seed and one arm, got none")
        for name, values in (("seeds", self.seeds), ("arms", self.arms)):
            if len(set(values)) < len(values):
                raise BadRequest(f"--{name}: expected each once, got {', '.join(map(str, values))}; drop the copies")


@dataclass(frozen=True)
class ComparisonRow:
    """One run: one arm at one budget with one seed. ``seconds``: its share of training and testing."""

    technique: str
    origin: str
    receiver: str
    arm: str
    budget: int
    seed: int
    measures: Mapping[str, float | None]
    n_items: int
    seconds: float

    def as_row(self) -> dict[str, Any]:
        """The run as a row of a table: a column for each metric."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        columns = (values["measures"] if name == "measures" else {name: value} for name, value in values.items())
        return {name: value for part in columns for name, value in part.items()}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Every run of one comparison, the bare host's test, and per-example correctness for pairing."""

    technique: str
    origin: str
    receiver: str
    task: str
    plan: ComparisonPlan
    learning_rate: float
    bare: Predictions
    rows: list[ComparisonRow]
    scores: dict[tuple[str, int, int], Predictions] = field(repr=False)  # by (arm, budget, seed)
    choice: MethodChoice | None = None  # how `auto` chose the method
    remarks: tuple[str, ...] = ()  # how the task was read, where that was guessed
    few_shot: dict[int, Predictions] = field(default_factory=dict, repr=False)  # by seed, the bare host with examples
    answers: tuple[ShownAnswer, ...] = ()  # of a handful of items, side by side
    references: tuple[ReferenceArm, ...] = ()  # what could be done instead of porting

    @cached_property
    def judged(self) -> MetricChoice:
        """The metric that all arms are judged by."""
        return choose_metric(self.bare, self.plan.metric)

    def as_json(self) -> dict[str, Any]:
        """Everything but the per-example scores."""
        bare = measures_with(self.bare, self.judged.name)
        return {
            "technique": self.technique,
            "origin": self.origin,
            "receiver": self.receiver,
            "task": self.task,
            "plan": asdict(self.plan),
            "learning_rate": self.learning_rate,
            "choice": asdict(self.choice) if self.choice else None,
            "metric": self.judged.as_json(),
            "bare_accuracy": bare.get("accuracy"),
            "bare": bare,
            "rows": [row.as_row() for row in self.rows],
            **self._of_answers(),
            **({"references": [arm.as_json(self.judged.name) for arm in self.references]} if self.references else {}),
        }

    def _of_answers(self) -> dict[str, Any]:
        """What only tasks of prompts and answers have."""
        if not self.few_shot and not self.answers:
            return {}
        shot = [{"seed": seed, **measures_with(test, self.judged.name)} for seed, test in self.few_shot.items()]
        return {"few_shot": shot, "answers": [asdict(answer) for answer in self.answers]}


def run_comparison(
    module: Module,
    bound_task: BoundTask,
    plan: ComparisonPlan,
    progress: Progress | None = None,
    ported: Module | None = None,
) -> Comparison:
    """Run every arm of a module on the host of the bound task, at every budget and seed.

    ``ported`` is the module on that host; None ports it by the plan's method, which must need no further inputs.

    Raises:
        SlotMismatch: the method cannot carry the module to this host.
        TrainingFailed: a training diverged.

    """
    progress = progress or Silent()
    [bare] = bound_task.test(None, [])
    judged = choose_metric(bare, plan.metric).name
    check_defined(judged, bare)
    shots = check_shots(bound_task, plan.shots)
    rate = plan.learning_rate or technique_named(module.spec.kind).learning_rates[bound_task.host.kind]
    keys = [(arm, seed) for arm in plan.arms for seed in plan.seeds]
    if ported is None:
        ported = porter_named(plan.method).port(module, bound_task.host, rng_for(0, "porting"), None)
    starts = _starts(module, bound_task, plan, ported)
    begun = time.perf_counter()
    label = f"{module.spec.kind} on {bound_task.host.name}"
    trained = bound_task.train(
        module.spec,
        [starts[key] for key in keys],
        plan.budgets,
        rate,
        progress,
        f"training {label}",
        budget_bytes=bound_task.spare_bytes(),
    )
    train_seconds = (time.perf_counter() - begun) / max(1, len(keys) * max(plan.budgets))
    begun = time.perf_counter()
    scores = _test(bound_task, module, plan, dict(zip(keys, trained, strict=True)), progress, f"testing {label}")
    test_seconds = (time.perf_counter() - begun) / len(scores)
    rows = [
        _row(module, bound_task, key, test, measures_with(test, judged), train_seconds * key[1] + test_seconds)
        for key, test in scores.items()
    ]
    plan, shot = replace(plan, shots=shots), few_shot(bound_task, shots, plan.seeds, progress)
    return Comparison(
        module.spec.kind, module.host.name, bound_task.host.name, bound_task.task.spec.name, plan, rate, bare, rows,
        scores, remarks=bound_task.remarks_on_bare, few_shot=shot,
        answers=side_by_side(bound_task, {"bare host": bare, **_sides(plan, shot, scores)}),
    )  # fmt: skip


def _row(
    module: Module,
    bound_task: BoundTask,
    key: tuple[str, int, int],
    test: Predictions,
    measures: Mapping[str, float | None],
    seconds: float,
) -> ComparisonRow:
    arm, budget, seed = key
    names = (module.spec.kind, module.host.name, bound_task.host.name)
    return ComparisonRow(*names, arm, budget, seed, measures, len(test), round(seconds, 3))


def _sides(
    plan: ComparisonPlan, shot: Mapping[int, Predictions], scores: Mapping[tuple[str, int, int], Predictions]
) -> dict[str, Predictions]:
    """The tests whose answers are shown, by who answers: of the first seed, at the smallest and the largest budget."""
    first, ends = plan.seeds[0], sorted({min(plan.budgets), max(plan.budgets)})
    sides = {f"bare host, {plan.shots} examples in its prompt": shot[first]} if shot else {}
    kept = [(arm, budget) for arm in plan.arms for budget in ends if arm != "sampled"]
    return sides | {f"{arm}, {budget} steps": scores[arm, budget, first] for arm, budget in kept}


def with_home(
    comparison: Comparison, module: Module, origin: str, bound_task: BoundTask, progress: Progress
) -> Comparison:
    """The comparison with what the module answers on its origin beside the others, where the origin can be had."""
    if not comparison.answers:
        return comparison
    try:
        home = at_home(module, origin, bound_task, progress)
    except (BadRequest, ModuleRefused) as error:
        return replace(comparison, remarks=(*comparison.remarks, f"answers at home are not shown: {error}"))
    shown = side_by_side(bound_task, {f"{module.host.name}, where it was trained": home})
    answers = (*comparison.answers, *(answer for answer in shown if answer.who != REFERENCE))
    return replace(comparison, answers=tuple(sorted(answers, key=lambda answer: answer.item)))


def _starts(
    module: Module, bound_task: BoundTask, plan: ComparisonPlan, ported: Module
) -> dict[tuple[Arm, int], Start]:
    """The start of every (arm, seed). Each arm draws from its own role of the seed."""
    start = bound_task.startable(ported)
    sampler = sampler_named(plan.sampler)
    starts: dict[tuple[Arm, int], Start] = {}
    for seed in plan.seeds:
        for arm in plan.arms:
            if arm == "sampled":
                drawn = sampler.port(ported, bound_task.host, rng_for(seed, "sampling"))
                starts[arm, seed] = Start(bound_task.startable(drawn), seed)
            else:
                starts[arm, seed] = Start(start if arm == "ported" else bound_task.fresh(module.spec, seed), seed)
    return starts


def _test(
    bound_task: BoundTask,
    module: Module,
    plan: ComparisonPlan,
    trained: dict[tuple[Arm, int], dict[int, Checkpoint]],
    progress: Progress,
    title: str,
) -> dict[tuple[str, int, int], Predictions]:
    """Test every (arm, budget, seed); the ported module before training is one module whatever the seed."""
    first = plan.seeds[0]
    jobs: dict[tuple[str, int, int], Parameters] = {}
    for arm in plan.arms:
        for budget in sorted(plan.budgets):
            for seed in plan.seeds:
                if not (arm == "ported" and budget == 0 and seed != first):
                    jobs[arm, budget, seed] = trained[arm, seed][budget].matrices
    tested = dict(zip(jobs, bound_task.test(module.spec, list(jobs.values()), progress, title), strict=True))
    keys: Sequence[tuple[Arm, int, int]] = [
        (arm, budget, seed) for arm in plan.arms for budget in sorted(plan.budgets) for seed in plan.seeds
    ]
    return {key: tested.get(key, tested.get((key[0], key[1], first))) for key in keys}  # type: ignore[misc]
