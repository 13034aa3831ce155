"""Test many modules at once, and compare each with the bare host, with training from scratch, and with itself at home.

Modules of one technique with the same settings are stacked: the engine multiplies the host's matrices once for the rows
of all of them. If a stack fails, as when one module's numbers are not finite, its modules are tested one at a time, so
that only the one at fault has no result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from peftport.analysis.stats import Interval
from peftport.analysis.verdict.choice import Word
from peftport.core.arms import BARE, Arm
from peftport.core.errors import PeftportError
from peftport.metrics import metric_named
from peftport.metrics.choice import MetricChoice, choose_metric
from peftport.modules.module import Module
from peftport.tasks.spec import Predictions
from peftport.techniques import technique_named
from peftport.techniques.base import Parameters
from peftport.training.bound_task import BoundTask, Start
from peftport.training.loop import Checkpoint, same_structure
from peftport.workflows.comparison import Comparison, ComparisonPlan
from peftport.workflows.upgrading.pair import HostPair

Trained = dict[int, Checkpoint]
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class PortToMeasure:
    """A module before and after its port, and the method it was ported by."""

    module: Module
    ported: Module
    method: str
    readout: str | None


@dataclass(frozen=True, eq=False)
class Measured:
    """What tests say of one ported module.

    Attributes:
        judged: the metric.
        items: how many test items were judged.
        home: the metric of the module on the old host.
        bare: that of the new host alone.
        ported: that of the new host with the ported module, at the smallest budget.
        gain: ``ported`` minus ``bare``.
        change: ``ported`` minus ``home``, on the same items.
        word: the verdict, by the rules of `peftport compare`.
        sentence: the verdict in words.

    """

    judged: MetricChoice
    items: int
    home: float | None
    bare: float | None
    ported: float | None
    gain: Interval
    change: Interval
    word: Word
    sentence: str


def measure(pair: HostPair, ports: Sequence[PortToMeasure]) -> list[Measured | PeftportError]:
    """Test modules of one readout on both hosts; the result of each is its measures, or the error that it ended in.

    Raises:
        BadRequest: the test items do not have the metric.

    """
    readout, plan = ports[0].readout, _plan(pair)
    pair.bare(readout)  # first, so that a metric that these items do not have ends the work before it begins
    old, new = pair.bound(False, readout), pair.bound(True, readout)
    home = stacked(old, [port.module for port in ports], lambda group: _tested(pair, old, group))
    tests = stacked(new, [port.ported for port in ports], lambda group: _arms(pair, new, group, plan))
    found: list[Measured | PeftportError] = []
    for port, at_home, scores in zip(ports, home, tests, strict=True):
        failed = next((each for each in (at_home, scores) if isinstance(each, PeftportError)), None)
        if failed is not None:
            found.append(failed)
        elif not isinstance(at_home, PeftportError) and not isinstance(scores, PeftportError):
            found.append(_measured(pair, port, new, plan, at_home, scores))
    return found


def stacked(
    bound: BoundTask, modules: Sequence[Module], run: Callable[[list[Module]], list[R]]
) -> list[R | PeftportError]:
    """Run groups of modules that can be stacked; where a group fails, each of its modules alone."""
    found: dict[int, R | PeftportError] = {}
    for group in _alike(modules):
        try:
            found |= dict(zip(group, run([modules[i] for i in group]), strict=True))
        except PeftportError:
            for index in group:
                try:
                    [found[index]] = run([modules[index]])
                except PeftportError as error:
                    found[index] = error
    return [found[i] for i in range(len(modules))]


def _alike(modules: Sequence[Module]) -> list[list[int]]:
    """Group the indices of modules whose matrices can be stacked."""
    groups: list[list[int]] = []
    for index, module in enumerate(modules):
        for group in groups:
            first = modules[group[0]]
            if first.spec == module.spec and same_structure(first.matrices, module.matrices):
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def _plan(pair: HostPair) -> ComparisonPlan:
    request = pair.request
    budgets = tuple(sorted(request.budgets))
    arms: tuple[Arm, ...] = ("ported", "scratch") if max(budgets) else ("ported",)
    return ComparisonPlan(budgets, tuple(range(request.seeds)), arms, metric=request.metric, shots=0)


def _tested(pair: HostPair, bound: BoundTask, modules: list[Module]) -> list[Predictions]:
    title = f"testing {len(modules)} x {modules[0].spec.kind} on {bound.host.name}"
    return bound.test(modules[0].spec, [bound.startable(module) for module in modules], pair.progress, title)


def _arms(
    pair: HostPair, bound: BoundTask, modules: list[Module], plan: ComparisonPlan
) -> list[dict[tuple[str, int, int], Predictions]]:
    """What each module predicts at every budget and seed, and what training from scratch does, which all share."""
    spec, starts = modules[0].spec, [bound.startable(module) for module in modules]
    if not max(plan.budgets):
        tests = _tested(pair, bound, modules)
        return [{("ported", 0, seed): test for seed in plan.seeds} for test in tests]
    trained = _trained(pair, bound, modules, [Start(start, seed) for start in starts for seed in plan.seeds], plan)
    keys = [(i, budget, seed) for i in range(len(modules)) for seed in plan.seeds for budget in plan.budgets]
    at = {(i, seed): trained[i * len(plan.seeds) + n] for i in range(len(modules)) for n, seed in enumerate(plan.seeds)}
    matrices: list[Parameters] = [at[i, seed][budget].matrices for i, budget, seed in keys]
    tested = dict(zip(keys, bound.test(spec, matrices, pair.progress, "testing what was trained"), strict=True))
    scratch = pair.cache.cached(
        ("scratch", spec.model_dump_json(), bound.readout.name), lambda: _scratch(pair, bound, modules, plan)
    )
    return [
        {("ported", budget, seed): test for (i, budget, seed), test in tested.items() if i == number} | scratch
        for number in range(len(modules))
    ]


def _scratch(
    pair: HostPair, bound: BoundTask, modules: list[Module], plan: ComparisonPlan
) -> dict[tuple[str, int, int], Predictions]:
    spec = modules[0].spec
    trained = _trained(pair, bound, modules, [Start(bound.fresh(spec, seed), seed) for seed in plan.seeds], plan)
    keys = [(budget, n) for n in range(len(plan.seeds)) for budget in plan.budgets]
    tests = bound.test(spec, [trained[n][budget].matrices for budget, n in keys], pair.progress, "testing scratch")
    return {("scratch", budget, plan.seeds[n]): test for (budget, n), test in zip(keys, tests, strict=True)}


def _trained(
    pair: HostPair, bound: BoundTask, modules: list[Module], starts: list[Start], plan: ComparisonPlan
) -> list[Trained]:
    spec = modules[0].spec
    return bound.train(
        spec, starts, plan.budgets, _rate(bound, modules[0]), pair.progress,
        f"training {spec.kind} on {bound.host.name}", budget_bytes=bound.spare_bytes(),
    )  # fmt: skip


def _rate(bound: BoundTask, module: Module) -> float:
    return technique_named(module.spec.kind).learning_rates[bound.host.kind]


def _measured(
    pair: HostPair,
    port: PortToMeasure,
    new: BoundTask,
    plan: ComparisonPlan,
    home: Predictions,
    scores: dict[tuple[str, int, int], Predictions],
) -> Measured:
    from peftport.workflows.compare_tables import ComparisonAnalysis  # imports polars, which no refusal needs

    bare = pair.bare(port.readout)
    comparison = Comparison(
        port.ported.spec.kind, port.module.host.name, new.host.name, new.task.spec.name,
        replace(plan, method=port.method), _rate(new, port.ported), bare, [], scores,
    )  # fmt: skip
    analysis, budget = ComparisonAnalysis([comparison]), min(plan.budgets)
    beside_home = ComparisonAnalysis([replace(comparison, bare=home)])
    verdict = analysis.verdicts.row(0, named=True)
    judged = choose_metric(bare, plan.metric)
    metric = metric_named(judged.name)
    first = scores["ported", budget, plan.seeds[0]]
    return Measured(
        judged, judged.items(bare), metric.aggregate(home), metric.aggregate(bare), metric.aggregate(first),
        analysis.difference("ported", BARE, budget), beside_home.difference("ported", BARE, budget),
        verdict["verdict"], verdict["sentence"],
    )  # fmt: skip
