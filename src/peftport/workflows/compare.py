"""The job `compare`: port a module to a host and compare it there with sampled modules and training from scratch."""

from __future__ import annotations

from dataclasses import replace

from peftport.core.arms import arm_names
from peftport.core.hashing import rng_for
from peftport.core.progress import Silent
from peftport.hosts.loading import loading_of
from peftport.modules.module import Module, check_all_read, fold_remarks
from peftport.modules.sources import module_folder
from peftport.porting import AUTO, porter_named
from peftport.training.bound_task import BoundTask, bind_task
from peftport.workflows.check import choose_for
from peftport.workflows.checking import AvailableInputs
from peftport.workflows.comparison import Comparison, ComparisonPlan, run_comparison, with_home
from peftport.workflows.distill import NAME as DISTILL
from peftport.workflows.distill import distill_for
from peftport.workflows.job_inputs import (
    check_same_labels,
    name_of,
    open_module,
    own_readout,
    resolve_task,
    too_fast,
    train_settings,
)
from peftport.workflows.named import check_names
from peftport.workflows.port_inputs import cut_remarks, open_port_inputs
from peftport.workflows.requests import CompareRequest, PortRequest


def compare_module(request: CompareRequest) -> Comparison:
    """Port a module to a host and compare it on a task with sampled parameters and with training from scratch.

    Methods that need texts read them from ``texts``, or else from the task, without its labels.

    Raises:
        BadRequest: the plan is contradictory, a name is unknown, or ``auto`` finds no porter that is worth using.
        SlotMismatch: the method cannot carry the module to this host.
        TrainingFailed: a training diverged.

    """
    plan = _plan(request)
    check_names(request)
    loading = loading_of(request.load)
    task, to = resolve_task(request.task, request.progress), str(request.to)
    module = open_module(
        module_folder(request.module), name_of(request.from_), name_of(request.trust_origin), tuple(request.leave_out)
    )
    check_same_labels(module, task)
    check_all_read(module, "compare")
    origin, choice = name_of(request.trust_origin or request.from_), None
    if plan.method == AUTO:
        choice = choose_for(module, origin, to, AvailableInputs(texts=True, task=True), porters_only=True)
        plan = replace(plan, method=choice.method or AUTO)
    settings = train_settings(request.max_tokens, request.batch_size)
    bound = bind_task(
        to, task, own_readout(module, request.readout), settings, request.test_items, loading, request.generate
    )
    fast = too_fast(request.learning_rate)
    ported, remarks = _ported(request, plan.method, module, bound)
    comparison = run_comparison(module, bound, plan, request.progress, ported)
    comparison = replace(comparison, choice=choice, remarks=(*comparison.remarks, *remarks, *fast))
    return with_home(comparison, module, origin or module.host.name, bound, request.progress or Silent())


def _ported(request: CompareRequest, method: str, module: Module, bound: BoundTask) -> tuple[Module, tuple[str, ...]]:
    """Return the module on the receiver, and what to tell users of how it came there."""
    if method == DISTILL:
        made = distill_for(_port_request(request), module, bound)
        steps = f"{DISTILL}: {request.steps} training steps on the receiver, which the budgets do not count"
        return made.module, (steps, *made.remarks, *fold_remarks(module))
    origin, porter = name_of(request.trust_origin or request.from_), porter_named(method)
    inputs = open_port_inputs(
        porter, module, bound.host, origin=origin, texts=name_of(request.texts), bound_task=bound,
        progress=request.progress, max_tokens=request.max_tokens,
    )  # fmt: skip
    ported = porter.port(module, bound.host, rng_for(0, "porting"), inputs)
    return ported, (*cut_remarks(inputs.shared, request.max_tokens), *fold_remarks(module))


def _port_request(request: CompareRequest) -> PortRequest:
    return PortRequest(
        request.module, request.to, from_=request.from_, trust_origin=request.trust_origin, method=DISTILL,
        texts=request.texts, steps=request.steps, readout=request.readout, max_tokens=request.max_tokens,
        leave_out=request.leave_out, progress=request.progress,
    )  # fmt: skip


def _plan(request: CompareRequest) -> ComparisonPlan:
    return ComparisonPlan(
        tuple(request.budgets), tuple(range(request.seeds)), arm_names(request.arms), request.method, request.sampler,
        request.learning_rate, request.metric, request.shots,
    )  # fmt: skip
