"""Several methods tried on one module: ported by each, tested on validation items, and one of them kept.

The best on the validation items is held against every other and against the bare receiver by paired bootstrap intervals
at one joint level (Bonferroni over all pairs, since the best is chosen from the data). Of the methods not told apart
from the best, the one named first is kept: who names them puts the simplest first. Test items are looked at once, with
the kept module.
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
from peftport.modules.folders import Format, check_holds
from peftport.modules.module import HEAD, Module
from peftport.porting import AUTO, PORTERS
from peftport.porting.base import PortCache
from peftport.tasks import Task
from peftport.training.bound_task import BoundTask, bind_task
from peftport.training.evaluation import Scores, score_entries
from peftport.workflows.distill import NAME as DISTILL
from peftport.workflows.distill import distill_for
from peftport.workflows.job_inputs import check_same_labels, name_of, own_readout, train_settings
from peftport.workflows.port_inputs import open_port_inputs
from peftport.workflows.requests import PortRequest

LEVEL = 0.95
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """One method. ``behind``: the best's accuracy minus this one's; None for the best and for those that cannot.

    ``refusal``: why it cannot carry this module; None: it did.
    """

    method: str
    refusal: str | None = None
    accuracy: float | None = None
    behind: Interval | None = None

    @property
    def told_apart(self) -> bool:
        """Whether the interval carries that the best is better."""
        return self.behind is not None and self.behind.low > 0


@dataclass(frozen=True)
class Ranking:
    """What the validation items say.

    Attributes:
        chosen: the first named of those not told apart from ``best``, which has the highest accuracy.
        entrants: in the order they were named.
        bare: the bare receiver, and how far it is behind the best.
        items: how many they are.

    """

    chosen: str
    best: str
    entrants: tuple[Candidate, ...]
    bare: Candidate
    items: int

    @property
    def ranked(self) -> list[Candidate]:
        """Those that could, the best first; ties in the order they were named."""
        return sorted((e for e in self.entrants if e.accuracy is not None), key=lambda e: -(e.accuracy or 0.0))

    @property
    def sentence(self) -> str:
        """Which is kept, and what the intervals carry."""
        others = [e for e in self.ranked if e.method != self.best]
        apart = [e.method for e in others if e.told_apart]
        close = [e.method for e in others if not e.told_apart]
        parts = [f"{self.best} has the highest accuracy on {self.items} validation items"]
        if apart:
            parts.append(f"told apart from {', '.join(apart)}")
        if close:
            parts.append(f"not told apart from {', '.join(close)}: {self.chosen} is kept, the first named of these")
        if not self.bare.told_apart:
            parts.append(f"the bare receiver is not told apart from {self.best} either")
        return "; ".join(parts)


@dataclass(frozen=True, eq=False)
class MethodSelection:
    """What came of it: the kept module on the receiver, the ranking, and the test items with it and without."""

    module: Module
    file_format: Format
    ranking: Ranking
    test: Scores
    bare_test: Scores

    @property
    def sentence(self) -> str:
        """What was kept and why, and how it does on the test items."""
        return (
            f"{self.ranking.sentence}. Test accuracy with {self.ranking.chosen}: {self.test.accuracy:.3f}, without: "
            f"{self.bare_test.accuracy:.3f} ({len(self.test.labels)} test items)"
        )

    def as_json(self) -> dict[str, Any]:
        """Everything but the module and the per-item scores."""
        found = self.ranking
        return {
            "chosen": found.chosen,
            "best": found.best,
            "methods": [{**asdict(one), "told_apart": one.told_apart} for one in found.entrants],
            "bare": {**asdict(found.bare), "told_apart": found.bare.told_apart},
            "validation_items": found.items,
            "test_accuracy": self.test.accuracy,
            "bare_test_accuracy": self.bare_test.accuracy,
            "test_items": len(self.test.labels),
            "sentence": self.sentence,
        }


def check_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """Names of methods that can be tried beside one another.

    Raises:
        UnknownName: one is none; BadRequest: one is there twice, or is `auto`.

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
    """Port by each method and keep the one that the validation items of the task carry; also return the receiver.

    ``test_items`` of the request: the first so many of the validation items and of the test items; None: all.

    Raises:
        BadRequest: no task, an unknown method, or none that can carry this module.
        TrainingFailed: `distill` diverged.

    """
    names, progress = request.methods, request.progress or Silent()
    if task is None:
        raise BadRequest(f"--method {','.join(names)}: needs a task to tell methods apart; name it with --task TASK")
    if not len(task.valid):
        raise TaskRefused(f"{task.spec.name}: expected validation items to choose by, got none; add some")
    check_same_labels(module, task)
    readout, settings = own_readout(module, request.readout), train_settings(request.max_tokens)
    bound = bind_task(str(request.to), task, readout, settings, request.test_items)
    check_holds(file_format, module.spec, bound.host, HEAD in module.matrices)
    refusals, ported = _port_all(request, module, bound, progress)
    if not ported:
        reasons = "; ".join(f"{name}: {why}" for name, why in refusals.items())
        raise BadRequest(f"--method {','.join(names)}: expected one that can carry this module, got none ({reasons})")
    correct = {name: _validated(bound, made, progress, name) for name, made in ported.items()}
    ranking = rank(names, refusals, correct, _validated(bound, None, progress, BARE))
    kept = ported[ranking.chosen]
    [test] = bound.test(kept.spec, [bound.startable(kept)], progress, f"testing {ranking.chosen}")
    [bare_test] = bound.test(None, [])
    return MethodSelection(kept, file_format, ranking, test, bare_test), bound.host


def rank(names: Sequence[str], refusals: Mapping[str, str], correct: Mapping[str, Floats], bare: Floats) -> Ranking:
    """Hold the best against the others and the bare receiver; correctness of each validation item by method, (N,)."""
    best = max(correct, key=lambda name: float(correct[name].mean()))  # the first named of equals
    pairs = len(list(combinations((*correct, BARE), 2)))

    def entrant(name: str, own: Floats) -> Candidate:
        rng = rng_for(0, "bootstrap", best, name)
        behind = paired_difference(correct[best], own, level=1 - (1 - LEVEL) / pairs, rng=rng) if name != best else None
        return Candidate(name, None, float(own.mean()), behind)

    entrants = tuple(
        Candidate(name, refusals[name]) if name in refusals else entrant(name, correct[name]) for name in names
    )
    kept = next(one.method for one in entrants if one.accuracy is not None and not one.told_apart)
    return Ranking(kept, best, entrants, entrant(BARE, bare), len(bare))


def _port_all(
    request: PortRequest, module: Module, bound: BoundTask, progress: Progress
) -> tuple[dict[str, str], dict[str, Module]]:
    """Why methods cannot, and what the others made. The origin is read once for all."""
    refusals: dict[str, str] = {}
    ported: dict[str, Module] = {}
    origin, cache = _origin(request.methods, module, request.origin), PortCache()
    for name in request.methods:
        try:
            if name == DISTILL:
                ported[name] = distill_for(request, module, bound)
            else:
                given = open_port_inputs(
                    PORTERS[name], module, bound.host, origin=origin, texts=name_of(request.texts), bench=bound,
                    as_technique=request.as_, progress=progress, shared=cache,
                )  # fmt: skip
                ported[name] = PORTERS[name].port(module, bound.host, rng_for(request.seed, "porting"), given)
        except BadRequest as error:
            refusals[name] = str(error)
    return refusals, ported


def _origin(names: Sequence[str], module: Module, ref: str | None) -> Host | str | None:
    """The origin, loaded or opened as the most demanding method needs; where it is not here, each method says so."""
    needs = {PORTERS[name].needs for name in names if name in PORTERS}
    if not needs & {"weights", "texts"}:
        return ref
    try:
        return (load_host if "texts" in needs else open_host)(ref or module.host.name)
    except BadRequest:
        return ref


def _validated(bound: BoundTask, module: Module | None, progress: Progress, name: str) -> Floats:
    """Correctness of each validation item with the module, or without any, (N,)."""
    rows, labels = bound.valid_split.rows[: bound.test_items], bound.valid_split.targets[: bound.test_items]
    spec = module.spec if module is not None else None
    matrices = [bound.startable(module)] if module is not None else []
    advance = progress.stage(f"validating {name}", 1)
    [scores] = score_entries(bound.host, bound.readout, spec, matrices, rows, labels, advance)
    return scores.correct.astype(np.float64)
