"""Reference arms of a comparison: what a user could do instead of porting. They are no ports, and nothing is trained.

few_shot: the bare receiver with as many labels as training has read. For classes, a text h is scored by its cosine to
the mean of each class over the labelled examples (the nearest class mean, as in Snell et al. 2017, arXiv 1703.05175):

    score_c = cos(h, mean of the examples of class c) / 0.05          h: the mean of the last hidden states

The examples at a budget of b steps are the training items of the first b batches of that seed: those that the arms
have learnt from at that budget, so all arms have the same labels. A class without an example has the lowest score.
Where answers are texts, examples stand in the prompt instead (workflows.answers).

logit_offset: both hosts at test time (proxy tuning, Liu et al. 2024, arXiv 2401.08565; arXiv 2512.03056):

    score_c = score_c(receiver) + b (score_c(origin with the module) - score_c(origin))

Ours: scores of the classes are offset, and not those of the vocabulary, so that the tokenizers may differ. b is 1, or
the factor that does best on validation items; test items choose nothing. Where the readout has a head, the receiver
alone has none for the task, and with b = 1 the arm is the module on its origin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from peftport.analysis.prediction.predict import as_range
from peftport.core.arms import FEW_SHOT, LOGIT_OFFSET
from peftport.core.errors import BadRequest, ModuleRefused, NotFinite, TaskRefused, UnknownName
from peftport.core.libraries import F, torch, without_gradients
from peftport.core.progress import Progress
from peftport.hosts.loading import Loading
from peftport.metrics import metric_named
from peftport.metrics.choice import measures_with
from peftport.modules.module import Module
from peftport.objectives import bind_objective
from peftport.objectives.base import Row, mean_pooled
from peftport.objectives.prototype import TEMPERATURE
from peftport.tasks.kinds.classification import Classification, Scores, as_scores
from peftport.training.bound_task import BoundTask, bind_task
from peftport.training.evaluation import TOKENS_AT_ONCE, batches_of_tokens
from peftport.training.loop import batches
from peftport.workflows.options import VALIDATION

if TYPE_CHECKING:
    from torch import Tensor

FACTORS = (1.0, 0.5, 0.25, 2.0, 4.0, 0.0)  # of `logit_offset`; of those that do equally well, the first
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ReferenceArm:
    """One reference arm: its tests, and what it costs.

    ``tests`` are by budget and seed; a test without a seed is one for all seeds and budgets, and is under budget 0.

    Raises:
        NotFinite: a score is no number, so that nothing can be read from it.

    """

    name: str
    title: str
    cost: str
    tests: Mapping[tuple[int, int | None], Scores] = field(repr=False)

    def __post_init__(self) -> None:
        for test in self.tests.values():
            wrong = int((~np.isfinite(test.values).all(1)).sum())
            if wrong:
                raise NotFinite(
                    f"reference arm {self.name}: expected finite scores, got NaN or infinity for {wrong} of "
                    f"{len(test)} items; use another host, or leave the arm out"
                )

    def as_json(self, metric: str) -> dict[str, Any]:
        """Return everything but the per-item scores."""
        rows = [
            {"budget": budget, "seed": seed, **measures_with(test, metric)}
            for (budget, seed), test in self.tests.items()
        ]
        return {"name": self.name, "title": self.title, "cost": self.cost, "rows": rows}


def left_out(
    names: Sequence[str], module: Module, bound_task: BoundTask, budgets: Sequence[int], shots: int | None
) -> dict[str, str]:
    """Return the reference arms that cannot be tested like this, each with a sentence that says why."""
    notes = _reasons(module, bound_task, budgets, shots)
    return {name: f"reference arm {name} is left out: {notes[name]}" for name in names if name in notes}


def _reasons(module: Module, bound_task: BoundTask, budgets: Sequence[int], shots: int | None) -> dict[str, str]:
    spec = bound_task.task.spec
    if isinstance(spec, Classification):
        unread = "it has as many labels as training reads, and no budget is over 0"
        reasons = {} if max(budgets) else {FEW_SHOT: unread}
        if bound_task.readout.head_shapes() and module.head is None:
            reasons[LOGIT_OFFSET] = (
                f"the module has no head, and readout {bound_task.readout.name} scores nothing without one, on either "
                "host"
            )
        return reasons
    notes = {
        LOGIT_OFFSET: f"it offsets the scores of classes, and {spec.name} is of kind {spec.kind}; where texts are "
        "generated, the two hosts would need one vocabulary"
    }
    if spec.kind != "completion":
        notes[FEW_SHOT] = f"it takes the means of classes, and {spec.name} is of kind {spec.kind}"
    elif shots == 0:
        notes[FEW_SHOT] = "--shots 0 leaves the examples in the prompt out"
    return notes


# --- few_shot ---------------------------------------------------------------------------------------------------------


def few_shot_of_classes(
    bound_task: BoundTask, budgets: Sequence[int], seeds: Sequence[int], progress: Progress
) -> ReferenceArm:
    """Test the bare host by the means of classes, with the labels that each budget and seed reads."""
    steps = sorted(set(budgets) - {0})
    items = {(budget, seed): labelled_items(bound_task, budget, seed) for budget in steps for seed in seeds}
    reader = bind_objective("linear", bound_task.host, bound_task.task.spec, bound_task.settings.max_tokens)
    learnt, targets = bound_task.learnt, np.asarray(bound_task.learnt.targets)
    used = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *items.values()]))
    advance = progress.stage(f"reading labelled examples on {bound_task.host.name}", len(used) + len(bound_task.tested))
    seen = np.full(len(learnt), -1)
    seen[used] = np.arange(len(used))
    features = _features(bound_task, reader.encode([learnt.examples[place] for place in used]), advance)
    tested = _features(bound_task, reader.encode(bound_task.tested.examples), advance)
    classes, right = len(bound_task.task.spec.labels), bound_task.tested.targets
    tests: dict[tuple[int, int | None], Scores] = {
        (budget, seed): Scores(_class_scores(tested, features[seen[picks]], targets[picks], classes), right)
        for (budget, seed), picks in items.items()
    }
    counts = {budget: [len(items[budget, seed]) for seed in seeds] for budget in steps}
    labels = ", ".join(f"{as_range(count)} labels at {budget} steps" for budget, count in counts.items())
    labels = labels or "no budget with labels"
    cost = f"{labels}; each example is read once, and nothing is trained"
    return ReferenceArm(FEW_SHOT, "the bare host by the means of labelled examples", cost, tests)


def labelled_items(bound_task: BoundTask, budget: int, seed: int) -> npt.NDArray[np.int64]:
    """Return which training items the arms of a seed have learnt from after so many steps, each once, in order."""
    picks = islice(batches(bound_task.train_split.rows, bound_task.settings.batch_size, seed), budget)
    return np.unique(np.concatenate(list(picks)))


@without_gradients
def _features(bound_task: BoundTask, rows: Sequence[Row], advance: Any) -> Tensor:
    """The mean of the last hidden states of N rows on the bare host, of length 1, (N, D)."""
    if not rows:
        return torch.zeros(0, bound_task.host.width)
    picks = list(batches_of_tokens(rows, 1, TOKENS_AT_ONCE))
    parts = []
    for pick in picks:
        parts.append(F.normalize(mean_pooled(bound_task.host, [rows[i] for i in pick], 0), dim=-1).cpu())
        advance(len(pick))
    back = torch.from_numpy(np.argsort(np.concatenate(picks), kind="stable"))
    return torch.cat(parts)[back]


def _class_scores(texts: Tensor, examples: Tensor, labels: npt.NDArray[np.int64], classes: int) -> Floats:
    """Cosines to the mean of each class over the temperature, (N, C); the lowest where a class has no example."""
    scores = torch.full((len(texts), classes), -1 / TEMPERATURE, dtype=texts.dtype)
    for label in np.unique(labels):
        mean = F.normalize(examples[torch.from_numpy(labels == label)].mean(0), dim=0)  # (D,)
        scores[:, int(label)] = texts @ mean / TEMPERATURE
    return scores.float().numpy()


# --- logit_offset -----------------------------------------------------------------------------------------------------


def bind_home(module: Module, origin: str, bound_task: BoundTask, loading: Loading | None = None) -> BoundTask:
    """Bind the task to the origin, which `logit_offset` needs at test time.

    Raises:
        BadRequest: the origin cannot be had, or it is another host than the module's.

    """
    try:
        home = bind_task(
            origin, bound_task.task, bound_task.readout.name, bound_task.settings, bound_task.test_items, loading
        )
    except UnknownName as error:
        raise BadRequest(
            f"--references {LOGIT_OFFSET}: needs the origin host {origin!r} at test time, which is not found here; "
            "name its folder with --from HOST, or leave the arm out"
        ) from error
    if not module.host.same_host(home.host.fingerprint):
        raise ModuleRefused(
            f"--references {LOGIT_OFFSET}: {origin}: {module.host.told_from(home.host.fingerprint)}; name the module's "
            "own host with --from"
        )
    return home


def logit_offset(
    module: Module,
    home: BoundTask,
    away: BoundTask,
    bare: Scores,
    factor: float | str,
    metric: str,
    progress: Progress,
) -> ReferenceArm:
    """Test the receiver with the offset that the module makes on its origin. ``bare``: the receiver alone.

    Raises:
        TaskRefused: the factor is to be chosen on validation items, and there are none.

    """
    chosen, labels = (float(factor), "no label") if factor != VALIDATION else (
        _chosen(module, home, away, metric, progress), f"{len(away.valid_split)} validation labels for the factor"
    )  # fmt: skip
    offset = _offset(module, home, progress, valid=False)
    tests: dict[tuple[int, int | None], Scores] = {(0, None): _added(bare, offset, chosen)}
    cost = (
        f"{labels}; {home.host.name} and {away.host.name} both in memory, and three passes for each text at test time "
        f"({home.host.name} with the module and without, {away.host.name})"
    )
    headed = bool(away.readout.head_shapes())
    headless = " (the receiver alone has no head, so the module's scores decide)" if headed else ""
    title = f"the receiver offset by what the module changes on {home.host.name}{headless}, factor {chosen:g}"
    return ReferenceArm(LOGIT_OFFSET, title, cost, tests)


def _chosen(module: Module, home: BoundTask, away: BoundTask, metric: str, progress: Progress) -> float:
    """The factor that does best on validation items; of equals, the first of `FACTORS`."""
    if not len(away.task.valid):
        raise TaskRefused(
            f"--offset {VALIDATION}: {away.task.spec.name}: expected validation items to choose by, got none; give a "
            "number, such as --offset 1"
        )
    [bare] = away.validate(None, [])
    offset, judged = _offset(module, home, progress, valid=True), metric_named(metric)
    sign = 1.0 if judged.higher_is_better else -1.0

    def value(factor: float) -> float:
        found = judged.aggregate(_added(as_scores(bare), offset, factor))
        return -np.inf if found is None else sign * found

    return max(FACTORS, key=value)


def _offset(module: Module, home: BoundTask, progress: Progress, *, valid: bool) -> npt.NDArray[np.float64]:
    """What the module changes in the scores of the origin, (N, C)."""
    predict = home.validate if valid else home.test
    [own] = predict(module.spec, [home.startable(module)], progress, f"asking the module on {home.host.name}")
    [alone] = predict(None, [])
    return as_scores(own).values.astype(np.float64) - as_scores(alone).values.astype(np.float64)


def _added(bare: Scores, offset: npt.NDArray[np.float64], factor: float) -> Scores:
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number then is refused by the arm
        values = bare.values.astype(np.float64) + factor * offset
        return Scores(values.astype(np.float32), bare.targets)


def runs_of(arms: Sequence[ReferenceArm]) -> Iterator[tuple[str, int, int | None, Scores]]:
    """Yield name, budget, seed and test of every run of reference arms."""
    for arm in arms:
        for (budget, seed), test in arm.tests.items():
            yield arm.name, budget, seed, test
