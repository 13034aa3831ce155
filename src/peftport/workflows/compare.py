"""The job `compare`: port a module to a host and compare it there with sampled modules and training from scratch."""

from __future__ import annotations

from dataclasses import replace

from peftport.core.arms import arm_names
from peftport.core.progress import Silent
from peftport.hosts.loading import loading_of
from peftport.modules.module import check_all_read, fold_remarks
from peftport.modules.sources import module_folder
from peftport.porting import AUTO, porter_named
from peftport.training.bound_task import bind_task
from peftport.workflows.check import choose_for
from peftport.workflows.checking import AvailableInputs
from peftport.workflows.comparison import Comparison, ComparisonPlan, run_comparison, with_home
from peftport.workflows.job_inputs import (
    check_same_labels,
    name_of,
    open_module,
    own_readout,
    resolve_task,
    train_settings,
)
from peftport.workflows.port_inputs import open_port_inputs
from peftport.workflows.requests import CompareRequest


def compare_module(request: CompareRequest) -> Comparison:
    """Port a module to a host and compare it on a task with sampled parameters and with training from scratch.

    Methods that need texts read them from ``texts``, or else from the task, without its labels.

    Raises:
        BadRequest: the plan is contradictory, a name is unknown, or ``auto`` finds no porter that is worth using.
        SlotMismatch: the method cannot carry the module to this host.
        TrainingFailed: a training diverged.

    """
    plan, loading = _plan(request), loading_of(request.load)
    task, to = resolve_task(request.task), str(request.to)
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
    inputs = open_port_inputs(
        porter_named(plan.method), module, bound.host, origin=origin, texts=name_of(request.texts), bound_task=bound,
        progress=request.progress,
    )  # fmt: skip
    found = run_comparison(module, bound, plan, request.progress, inputs)
    found = replace(found, choice=choice, remarks=(*found.remarks, *fold_remarks(module)))
    return with_home(found, module, origin or module.host.name, bound, request.progress or Silent())


def _plan(request: CompareRequest) -> ComparisonPlan:
    return ComparisonPlan(
        tuple(request.budgets), tuple(range(request.seeds)), arm_names(request.arms), request.method, request.sampler,
        request.learning_rate, request.metric, request.shots,
    )  # fmt: skip
