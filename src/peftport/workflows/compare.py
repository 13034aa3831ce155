"""The job `compare`: port a module to a host and compare it there with sampled modules and training from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from peftport.core.arms import FEW_SHOT, LOGIT_OFFSET, arm_names, reference_names
from peftport.core.hashing import rng_for
from peftport.core.progress import Silent
from peftport.hosts.loading import loading_of
from peftport.metrics.choice import choose_metric
from peftport.modules.module import Module, check_all_read, fold_remarks
from peftport.modules.sources import module_folder
from peftport.porting import AUTO, porter_named
from peftport.porting.base import Anchor
from peftport.tasks.kinds.classification import Classification, as_scores
from peftport.training.bound_task import BoundTask, bind_task
from peftport.workflows.check import choose_for
from peftport.workflows.checking import AvailableInputs
from peftport.workflows.comparison import Comparison, ComparisonPlan, run_comparison, with_home
from peftport.workflows.distill import NAME as DISTILL
from peftport.workflows.distill import distill_for
from peftport.workflows.job_inputs import (
    check_same_labels,
    name_of,
    open_anchors,
    open_module,
    own_readout,
    resolve_task,
    too_fast,
    train_settings,
)
from peftport.workflows.named import check_names
from peftport.workflows.port_inputs import cut_remarks, open_port_inputs, unused_remarks
from peftport.workflows.references import ReferenceArm, bind_home, few_shot_of_classes, left_out, logit_offset
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
    reference_names(request.references)
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
    anchors = open_anchors([plan.method], module, request.anchors, origin, to)
    settings = train_settings(request.max_tokens, request.batch_size)
    bound = bind_task(
        to, task, own_readout(module, request.readout), settings, request.test_items, loading, request.generate
    )
    fast = too_fast(request.learning_rate)
    ported, remarks = _ported(request, plan.method, module, bound, anchors)
    references, notes = _references(request, origin or module.host.name, module, bound, plan)
    comparison = run_comparison(module, bound, plan, request.progress, ported)
    idle = unused_remarks([plan.method], module, bound.host, request.texts, request.anchors)
    told = (*comparison.remarks, *remarks, *idle, *notes, *fast)
    comparison = replace(comparison, references=references, choice=choice, remarks=told)
    return with_home(comparison, module, origin or module.host.name, bound, request.progress or Silent())


def _ported(
    request: CompareRequest, method: str, module: Module, bound: BoundTask, anchors: Sequence[Anchor]
) -> tuple[Module, tuple[str, ...]]:
    """Return the module on the receiver, and what to tell users of how it came there."""
    if method == DISTILL:
        made = distill_for(_port_request(request), module, bound)
        steps = f"{DISTILL}: {request.steps} training steps on the receiver, which the budgets do not count"
        return made.module, (steps, *made.remarks, *fold_remarks(module))
    origin, porter = name_of(request.trust_origin or request.from_), porter_named(method)
    inputs = open_port_inputs(
        porter, module, bound.host, origin=origin, texts=name_of(request.texts), bound_task=bound,
        progress=request.progress, max_tokens=request.max_tokens, anchors=anchors, readout=request.readout,
    )  # fmt: skip
    ported = porter.port(module, bound.host, rng_for(0, "porting"), inputs)
    return ported, (*cut_remarks(inputs.shared, request.max_tokens), *fold_remarks(module))


def _references(
    request: CompareRequest, origin: str, module: Module, bound: BoundTask, plan: ComparisonPlan
) -> tuple[tuple[ReferenceArm, ...], tuple[str, ...]]:
    """Test the reference arms that are asked for; also return why some cannot be tested."""
    progress, arms = request.progress or Silent(), []
    names = reference_names(request.references)
    notes = left_out(names, module, bound, plan.budgets, plan.shots)
    able = [name for name in names if name not in notes and isinstance(bound.task.spec, Classification)]
    if FEW_SHOT in able:
        arms.append(few_shot_of_classes(bound, plan.budgets, plan.seeds, progress))
    if LOGIT_OFFSET in able:
        home = bind_home(module, origin, bound, loading_of(request.load))
        [bare] = bound.test(None, [])
        judged = choose_metric(bare, plan.metric).name
        arms.append(logit_offset(module, home, bound, as_scores(bare), request.offset, judged, progress))
    return tuple(arms), tuple(notes.values())


def _port_request(request: CompareRequest) -> PortRequest:
    return PortRequest(
        request.module, request.to, from_=request.from_, trust_origin=request.trust_origin, method=DISTILL,
        texts=request.texts, steps=request.steps, teach=request.teach, keep=request.keep,
        readout=request.readout, max_tokens=request.max_tokens, leave_out=request.leave_out, progress=request.progress,
    )  # fmt: skip


def _plan(request: CompareRequest) -> ComparisonPlan:
    return ComparisonPlan(
        tuple(request.budgets), tuple(range(request.seeds)), arm_names(request.arms), request.method, request.sampler,
        request.learning_rate, request.metric, request.shots,
    )  # fmt: skip
