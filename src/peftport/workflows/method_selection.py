"""Try several porting methods on one module: port by each, test on validation items, and keep one of them.

The method that does best on the validation items is compared with every other one and with the bare receiver by paired
bootstrap intervals at one joint level (Bonferroni over all pairs, since the best is chosen from the data). What is
measured is the task's usual metric where that has a value for each item, else the first that has.
Among the methods that cannot be distinguished from the best, the one named first is kept, so users name the simplest
first. The test items are used once, with the module that is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from peftport.analysis.stats import Interval, paired_difference
from peftport.core.arms import BARE
from peftport.core.errors import BadRequest, TaskRefused, UnknownName
from peftport.core.hashing import rng_for
from peftport.core.progress import Progress, Silent
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.hosts.opening import open_host
from peftport.metrics import metric_named, metrics_of
from peftport.metrics.base import Metric
from peftport.modules.folders import Format, check_holds
from peftport.modules.module import Module
from peftport.porting import AUTO, PORTERS
from peftport.porting.base import Anchor, PortCache
from peftport.tasks import Task
from peftport.tasks.spec import Predictions
from peftport.training.bound_task import BoundTask, bind_task
from peftport.workflows.distill import NAME as DISTILL
from peftport.workflows.distill import distill_for
from peftport.workflows.job_inputs import check_same_labels, name_of, open_anchors, own_readout, train_settings
from peftport.workflows.port_inputs import cut_remarks, open_port_inputs
from peftport.workflows.requests import PortRequest

LEVEL = 0.95
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """One method that was tried.

    ``value`` is the metric on the validation items. ``behind`` is by how much the best method is better; it is None for
    the best and for methods that cannot carry the module. ``refusal`` says why a method cannot carry it, and is None
    where it did.
    """

    method: str
    refusal: str | None = None
    value: float | None = None
    behind: Interval | None = None

    @property
    def told_apart(self) -> bool:
        """Whether the interval shows that the best method is better than this one."""
        return self.behind is not None and self.behind.low > 0


@dataclass(frozen=True)
class Ranking:
    """How the methods compare on the validation items.

    Attributes:
        chosen: the first named of the methods that cannot be distinguished from ``best``.
        candidates: all methods, in the order they were named.
        bare: the bare receiver, and how far it is behind the best method.
        items: the number of validation items.
        metric: the name of the metric that was measured.

    """

    chosen: str
    best: str
    candidates: tuple[Candidate, ...]
    bare: Candidate
    items: int
    metric: str = "accuracy"

    @property
    def ranked(self) -> list[Candidate]:
        """The methods that carried the module, the best first; ties are in the order they were named."""
        sign = -1 if metric_named(self.metric).higher_is_better else 1
        return sorted((e for e in self.candidates if e.value is not None), key=lambda e: sign * (e.value or 0.0))

    @property
    def sentence(self) -> str:
        """Say in one sentence which method is kept, and what the intervals show."""
        others = [e for e in self.ranked if e.method != self.best]
        apart = [e.method for e in others if e.told_apart]
        close = [e.method for e in others if not e.told_apart]
        metric = metric_named(self.metric)
        most = "highest" if metric.higher_is_better else "lowest"
        parts = [f"{self.best} has the {most} {metric.title} on {self.items} validation items"]
        if apart:
            parts.append(f"told apart from {', '.join(apart)}")
        if close:
            parts.append(f"not told apart from {', '.join(close)}: {self.chosen} is kept, the first named of these")
        if not self.bare.told_apart:
            parts.append(f"the bare receiver is not told apart from {self.best} either")
        return "; ".join(parts)


@dataclass(frozen=True, eq=False)
class MethodSelection:
    """The result: the module that is kept, the ranking, and the test scores with the module and without it.

    ``remarks``: what to tell users of how the task and its texts were read.
    """

    module: Module
    file_format: Format
    ranking: Ranking
    test: Predictions
    bare_test: Predictions
    remarks: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """Say which method was kept and why, and how its module performs on the test items."""
        metric = metric_named(self.ranking.metric)
        return (
            f"{self.ranking.sentence}. Test {metric.title} with {self.ranking.chosen}: "
            f"{metric.aggregate(self.test):.3f}, without: {metric.aggregate(self.bare_test):.3f} "
            f"({len(self.test)} test items)"
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything but the module and the per-item scores as JSON values; a measure by its metric's name."""
        ranking = self.ranking
        metric = metric_named(ranking.metric)
        return {
            "chosen": ranking.chosen,
            "best": ranking.best,
            "methods": [_as_json(candidate, metric.name) for candidate in ranking.candidates],
            "bare": _as_json(ranking.bare, metric.name),
            "validation_items": ranking.items,
            f"test_{metric.name}": metric.aggregate(self.test),
            f"bare_test_{metric.name}": metric.aggregate(self.bare_test),
            "test_items": len(self.test),
            "sentence": self.sentence,
        }


def _as_json(candidate: Candidate, metric: str) -> dict[str, Any]:
    values = {metric if name == "value" else name: value for name, value in asdict(candidate).items()}
    return values | {"told_apart": candidate.told_apart}


def check_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """Check and return the names of methods that are to be tried on one module.

    Raises:
        UnknownName: a name is not a method.
        BadRequest: a name is given twice, or is `auto`.

    """
    for name in methods:
        if name == AUTO:
            raise BadRequest("--method auto: expected it alone, got it among others; name methods, or auto alone")
        if name != DISTILL and name not in PORTERS:
            raise UnknownName.of("method", name, (*PORTERS, DISTILL))
    if len(set(methods)) < len(methods):
        raise BadRequest(f"--method: expected each once, got {','.join(methods)}; drop the copies")
    return tuple(methods)


def select_method(
    request: PortRequest, module: Module, task: Task | None, file_format: Format
) -> tuple[MethodSelection, Host]:
    """Port by each method and keep the one that the validation items favour; also return the receiver.

    ``test_items`` of the request limits the validation items and the test items to the first so many; None uses all.

    Raises:
        BadRequest: there is no task, a method is unknown, or no method can carry this module.
        TrainingFailed: `distill` diverged.

    """
    names, progress = request.methods, request.progress or Silent()
    if task is None:
        raise BadRequest(f"--method {','.join(names)}: needs a task to tell methods apart; name it with --task TASK")
    if not len(task.valid):
        raise TaskRefused(f"{task.spec.name}: expected validation items to choose by, got none; add some")
    check_same_labels(module, task)
    anchors = open_anchors(names, module, request.anchors, request.origin, request.to)
    readout, settings = own_readout(module, request.readout), train_settings(request.max_tokens)
    bound = bind_task(str(request.to), task, readout, settings, request.test_items, generate=request.generate)
    check_holds(file_format, module.spec, bound.host, module.head or ())
    refusals, ported, remarks = _port_all(request, module, bound, anchors, progress)
    if not ported:
        reasons = "; ".join(f"{name}: {why}" for name, why in refusals.items())
        raise BadRequest(f"--method {','.join(names)}: expected one that can carry this module, got none ({reasons})")
    [bare] = bound.validate(None, [], progress, f"validating {BARE}")
    metric = metric_by_items(bare)
    values = {name: _validated(bound, made, metric, progress, name) for name, made in ported.items()}
    ranking = rank(names, refusals, values, _values(metric, bare), metric)
    kept = ported[ranking.chosen]
    [test] = bound.test(kept.spec, [bound.startable(kept)], progress, f"testing {ranking.chosen}")
    [bare_test] = bound.test(None, [])
    return MethodSelection(kept, file_format, ranking, test, bare_test, (*bound.remarks, *remarks)), bound.host


def metric_by_items(test: Predictions) -> Metric:
    """The usual metric of a test, or else the first of its kind, that has a value for each item."""
    names = [test.usual_metric().name, *metrics_of(test.kind)]
    return next(metric_named(name) for name in names if metric_named(name).per_item(test) is not None)


def rank(
    names: Sequence[str],
    refusals: Mapping[str, str],
    values: Mapping[str, Floats],
    bare: Floats,
    metric: Metric | None = None,
) -> Ranking:
    """Compare the best method with the others and the bare receiver.

    ``values`` holds the metric (None: accuracy) of each of the N validation items by method, (N,).
    """
    metric = metric or metric_named("accuracy")
    sign = 1.0 if metric.higher_is_better else -1.0
    best = max(values, key=lambda name: sign * float(values[name].mean()))  # among equals, the first that was named
    pairs = len(list(combinations((*values, BARE), 2)))

    def candidate(name: str, scores: Floats) -> Candidate:
        rng = rng_for(0, "bootstrap", best, name)
        ahead, level = sign * values[best], 1 - (1 - LEVEL) / pairs
        behind = paired_difference(ahead, sign * scores, level=level, rng=rng) if name != best else None
        return Candidate(name, None, float(scores.mean()), behind)

    candidates = tuple(
        Candidate(name, refusals[name]) if name in refusals else candidate(name, values[name]) for name in names
    )
    kept = next(entry.method for entry in candidates if entry.value is not None and not entry.told_apart)
    return Ranking(kept, best, candidates, candidate(BARE, bare), len(bare), metric.name)


def _port_all(
    request: PortRequest, module: Module, bound: BoundTask, anchors: Sequence[Anchor], progress: Progress
) -> tuple[dict[str, str], dict[str, Module], tuple[str, ...]]:
    """Port by every method. The origin is read only once.

    Returns why some cannot, the modules of the others, and what to tell users of how texts were read.
    """
    refusals: dict[str, str] = {}
    remarks: tuple[str, ...] = ()
    ported: dict[str, Module] = {}
    origin, cache = _origin(request.methods, module, request.origin), PortCache()
    for name in request.methods:
        try:
            if name == DISTILL:
                ported[name], remarks = distill_for(request, module, bound)
            else:
                inputs = open_port_inputs(
                    PORTERS[name], module, bound.host, origin=origin, texts=name_of(request.texts), bound_task=bound,
                    as_technique=request.as_, progress=progress, shared=cache, max_tokens=request.max_tokens,
                    anchors=anchors, readout=request.readout,
                )  # fmt: skip
                ported[name] = PORTERS[name].port(module, bound.host, rng_for(request.seed, "porting"), inputs)
        except BadRequest as error:
            refusals[name] = str(error)
    return refusals, ported, (*remarks, *cut_remarks(cache, request.max_tokens))


def _origin(names: Sequence[str], module: Module, ref: str | None) -> Host | str | None:
    """Load or open the origin as the most demanding method needs it; where it is missing, each method reports that."""
    needs = {PORTERS[name].needs for name in names if name in PORTERS}
    if not needs & {"weights", "texts"}:
        return ref
    try:
        return (load_host if "texts" in needs else open_host)(ref or module.host.name)
    except BadRequest:
        return ref


def _validated(bound: BoundTask, module: Module, metric: Metric, progress: Progress, name: str) -> Floats:
    """Return the metric of each of the N validation items with the module, (N,)."""
    [test] = bound.validate(module.spec, [bound.startable(module)], progress, f"validating {name}")
    return _values(metric, test)


def _values(metric: Metric, test: Predictions) -> Floats:
    return np.asarray(metric.per_item(test), dtype=np.float64)
