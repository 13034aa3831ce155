"""Compare one ported module on a receiver with sampled parameters and with training from scratch.

Every arm is trained at every budget with every seed. All arms of one seed see the same batches and the same test items,
and their trainings are stacked on one host.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from peftport.analysis.stats import Interval, paired_difference
from peftport.core.arms import ARMS, BARE, Arm, arm_names
from peftport.core.errors import BadRequest
from peftport.core.hashing import rng_for
from peftport.core.progress import Progress, Silent
from peftport.modules.module import Module
from peftport.porting import AUTO, porter_named, sampler_named
from peftport.porting.base import PortInputs
from peftport.techniques import technique_named
from peftport.techniques.base import Parameters
from peftport.training.bound_task import BoundTask, Start
from peftport.training.evaluation import Scores
from peftport.training.loop import Checkpoint
from peftport.workflows.checking import MethodChoice


@dataclass(frozen=True)
class ComparisonPlan:
    """What to compare.

    Every arm is trained with the same learning rate; None means the technique's default. A ``method`` of ``auto`` is a
    placeholder: the caller of `run_comparison` replaces it by the porter that `checking` chooses.
    """

    budgets: tuple[int, ...] = (0, 10, 40)
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: tuple[Arm, ...] = ARMS
    method: str = "copy"
    sampler: str = "gaussian"
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        arm_names(self.arms)
        if self.method != AUTO:
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
    """One run: one arm at one budget with one seed. ``seconds`` is its share of the time for training and testing."""

    technique: str
    origin: str
    receiver: str
    arm: str
    budget: int
    seed: int
    accuracy: float
    auroc: float | None
    accuracy_at_median: float | None
    n_items: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """Every run of one comparison, the scores of the bare host, and the per-item scores that paired tests need."""

    technique: str
    origin: str
    receiver: str
    task: str
    plan: ComparisonPlan
    learning_rate: float
    bare: Scores
    rows: list[ComparisonRow]
    scores: dict[tuple[str, int, int], Scores] = field(repr=False)  # by (arm, budget, seed)
    choice: MethodChoice | None = None  # how `auto` chose the method

    def mean_correct(self, arm: str, budget: int) -> npt.NDArray[np.float64]:
        """Return the correctness of each of the N test items, averaged over the seeds, (N,)."""
        if arm == BARE:
            return self.bare.correct.astype(np.float64)
        correct = [self.scores[arm, budget, seed].correct for seed in self.plan.seeds]
        return np.asarray(np.mean(correct, axis=0), dtype=np.float64)

    def difference(self, one: str, other: str, budget: int, level: float = 0.95) -> Interval:
        """Return the paired difference in accuracy of two arms over the test items, with the seeds averaged first."""
        rng = rng_for(0, "bootstrap", self.technique, one, other, budget)
        return paired_difference(self.mean_correct(one, budget), self.mean_correct(other, budget), level=level, rng=rng)

    def as_json(self) -> dict[str, Any]:
        """Return everything but the per-item scores as JSON values."""
        return {
            "technique": self.technique,
            "origin": self.origin,
            "receiver": self.receiver,
            "task": self.task,
            "plan": asdict(self.plan),
            "learning_rate": self.learning_rate,
            "choice": asdict(self.choice) if self.choice else None,
            "bare_accuracy": self.bare.accuracy,
            "rows": [asdict(row) for row in self.rows],
        }


def run_comparison(
    module: Module,
    bound: BoundTask,
    plan: ComparisonPlan,
    progress: Progress | None = None,
    inputs: PortInputs | None = None,
) -> Comparison:
    """Port a module to the host of a bound task and run every arm at every budget and seed.

    Raises:
        SlotMismatch: the method cannot carry the module to this host.
        TrainingFailed: a training diverged.

    """
    progress = progress or Silent()
    rate = plan.learning_rate or technique_named(module.spec.kind).learning_rates[bound.host.kind]
    keys = [(arm, seed) for arm in plan.arms for seed in plan.seeds]
    starts = _starts(module, bound, plan, inputs)
    begun = time.perf_counter()
    label = f"{module.spec.kind} on {bound.host.name}"
    trained = bound.train(
        module.spec,
        [starts[key] for key in keys],
        plan.budgets,
        rate,
        progress,
        f"training {label}",
        budget_bytes=bound.spare_bytes(),
    )
    train_seconds = (time.perf_counter() - begun) / max(1, len(keys) * max(plan.budgets))
    begun = time.perf_counter()
    scores = _test(bound, module, plan, dict(zip(keys, trained, strict=True)), progress, f"testing {label}")
    test_seconds = (time.perf_counter() - begun) / len(scores)
    [bare] = bound.test(None, [])
    rows = [
        ComparisonRow(
            technique=module.spec.kind,
            origin=module.host.name,
            receiver=bound.host.name,
            arm=arm,
            budget=budget,
            seed=seed,
            accuracy=s.accuracy,
            auroc=s.auroc,
            accuracy_at_median=s.accuracy_at_median,
            n_items=len(s.labels),
            seconds=round(train_seconds * budget + test_seconds, 3),
        )
        for (arm, budget, seed), s in scores.items()
    ]
    return Comparison(
        module.spec.kind, module.host.name, bound.host.name, bound.task.spec.name, plan, rate, bare, rows, scores
    )


def _starts(
    module: Module, bound: BoundTask, plan: ComparisonPlan, inputs: PortInputs | None
) -> dict[tuple[Arm, int], Start]:
    """Return the start of every (arm, seed). Each arm has its own random stream, derived from the seed."""
    ported = porter_named(plan.method).port(module, bound.host, rng_for(0, "porting"), inputs)
    start = bound.startable(ported)
    sampler = sampler_named(plan.sampler)
    starts: dict[tuple[Arm, int], Start] = {}
    for seed in plan.seeds:
        for arm in plan.arms:
            if arm == "sampled":
                drawn = sampler.port(ported, bound.host, rng_for(seed, "sampling"))
                starts[arm, seed] = Start(bound.startable(drawn), seed)
            else:
                starts[arm, seed] = Start(start if arm == "ported" else bound.fresh(module.spec, seed), seed)
    return starts


def _test(
    bound: BoundTask,
    module: Module,
    plan: ComparisonPlan,
    trained: dict[tuple[Arm, int], dict[int, Checkpoint]],
    progress: Progress,
    title: str,
) -> dict[tuple[str, int, int], Scores]:
    """Test every (arm, budget, seed). At budget 0 the ported module does not depend on the seed and is tested once."""
    first = plan.seeds[0]
    jobs: dict[tuple[str, int, int], Parameters] = {}
    for arm in plan.arms:
        for budget in sorted(plan.budgets):
            for seed in plan.seeds:
                if not (arm == "ported" and budget == 0 and seed != first):
                    jobs[arm, budget, seed] = trained[arm, seed][budget].matrices
    tested = dict(zip(jobs, bound.test(module.spec, list(jobs.values()), progress, title), strict=True))
    keys: Sequence[tuple[Arm, int, int]] = [
        (arm, budget, seed) for arm in plan.arms for budget in sorted(plan.budgets) for seed in plan.seeds
    ]
    return {key: tested.get(key, tested.get((key[0], key[1], first))) for key in keys}  # type: ignore[misc]
