"""The job `port`: carry a module to another host, by one method or by the best of several on validation items."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from peftport.core.errors import BadRequest
from peftport.core.hashing import rng_for
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.hosts.opening import open_host
from peftport.modules.folders import Format, check_holds, format_of, write_module
from peftport.modules.module import Module, fold_remarks
from peftport.modules.sources import module_folder
from peftport.porting import AUTO, PORTERS, porter_named
from peftport.tasks import Task
from peftport.training.bound_task import BoundTask, bind_task
from peftport.workflows.check import choose_for
from peftport.workflows.checking import AvailableInputs, MethodChoice
from peftport.workflows.distill import NAME as DISTILL
from peftport.workflows.distill import distill_for, spec_into
from peftport.workflows.host_prompts import answers_task
from peftport.workflows.job_inputs import (
    check_same_labels,
    name_of,
    open_anchors,
    open_module,
    open_module_to_carry,
    own_readout,
    path_of,
    resolve_task,
    train_settings,
)
from peftport.workflows.method_selection import MethodSelection, check_methods, select_method
from peftport.workflows.named import check_names
from peftport.workflows.port_inputs import cut_remarks, open_port_inputs, unused_remarks
from peftport.workflows.requests import PortRequest


@dataclass(frozen=True, eq=False)
class PortedModule:
    """A module on its new host, and the format that it is written in.

    Attributes:
        choice: how ``auto`` chose the method; None where the user named it.
        selection: how several methods compared; None where only one was used.
        remarks: how the task was read, where that was guessed, and what was cut off texts.

    """

    module: Module[Any]
    file_format: Format
    choice: MethodChoice | None = None
    selection: MethodSelection | None = None
    remarks: tuple[str, ...] = ()


class _Landed(NamedTuple):
    module: Module[Any]
    receiver: Host
    remarks: tuple[str, ...] = ()


def port_module(request: PortRequest) -> PortedModule:
    """Port a module folder to another host, and write it to ``out`` in its own format unless another one is asked for.

    ``auto`` uses the method that `check_module` would choose with the same inputs. Of several methods, the one that the
    validation items of the task favour is kept. Hosts are loaded only for methods that use activations or losses.

    Raises:
        ModuleRefused: the folder is broken, or the module records a different origin from the one that is given.
        SlotMismatch: the module does not fit the receiver by this method.
        BadRequest: ``auto`` finds no method worth using; or there are several methods, and no task is given or none of
            them can carry the module.

    """
    methods = request.methods
    if len(methods) > 1:
        check_methods(methods)
    elif methods[0] not in (AUTO, DISTILL):
        porter_named(methods[0])
    check_names(request)
    spec_into(request)
    out = path_of(request.out)
    task = resolve_task(request.task, request.progress) if request.task is not None else None
    folder = module_folder(request.module)
    file_format = request.format or format_of(folder)
    carries = len(methods) == 1 and methods[0] in PORTERS and porter_named(methods[0]).carries_numbers
    opened = open_module_to_carry if carries else open_module
    module = opened(folder, name_of(request.from_), name_of(request.trust_origin), tuple(request.leave_out))
    if len(methods) > 1:
        selection, receiver = select_method(request, module, task, file_format)
        ported = PortedModule(selection.module, file_format, selection=selection, remarks=selection.remarks)
    else:
        ported, receiver = _port_by_one(request, module, task, file_format)
    if out is not None:
        write_module(ported.module, receiver, out, file_format)
    used = methods if ported.choice is None else (ported.choice.method or DISTILL,)
    idle = unused_remarks(used, module, receiver, request.texts, request.anchors)
    ported = replace(ported, remarks=(*ported.remarks, *idle))
    if ported.choice is None and file_format == format_of(folder) and module.host.same_host(receiver.fingerprint):
        same = f"{folder} was trained on this very host: there is nothing to port, and it can be used as it is"
        ported = replace(ported, remarks=(*ported.remarks, same))
    if ported.module.kept is None or file_format != "peft":
        ported = replace(ported, remarks=(*ported.remarks, *fold_remarks(module)))
    return ported


def _port_by_one(
    request: PortRequest, module: Module[Any], task: Task | None, file_format: Format
) -> tuple[PortedModule, Host]:
    [method], choice = request.methods, None
    if method == AUTO:
        available = AvailableInputs(request.texts is not None or task is not None, task is not None)
        choice = choose_for(module, request.origin, str(request.to), available)
        method = choice.method or DISTILL
    if method == DISTILL:
        landed = _distilled(request, module, task, file_format)
    else:
        landed = _carried(method, request, module, task)
    return PortedModule(landed.module, file_format, choice, remarks=landed.remarks), landed.receiver


def _carried(method: str, request: PortRequest, module: Module[Any], task: Task | None) -> _Landed:
    """Port by a porter. Where it needs texts and none are named, it reads those of the task."""
    porter = porter_named(method)
    anchors = open_anchors(request.methods, module, request.anchors, request.origin, request.to)
    with_task = porter.needs == "labels" or (porter.needs == "texts" and request.texts is None)
    bound = _bind(request, module, task) if task is not None and with_task else None
    if bound is not None:
        receiver = bound.host
    else:
        receiver = (load_host if porter.needs == "texts" else open_host)(str(request.to))
    inputs = open_port_inputs(
        porter, module, receiver, origin=request.origin, texts=name_of(request.texts), bound_task=bound,
        as_technique=request.as_, progress=request.progress, max_tokens=request.max_tokens, anchors=anchors,
        readout=request.readout,
    )  # fmt: skip
    ported = porter.port(module, receiver, rng_for(request.seed, "porting"), inputs)
    idle = task is not None and bound is None and request.methods != (AUTO,)
    beside = " beside --texts" if porter.needs == "texts" else ""
    told = (f"--task is not used by {method}{beside}",) if idle else ()
    cut = cut_remarks(inputs.shared, request.max_tokens)
    return _Landed(ported, receiver, (*_remarks(task, bound), *cut, *told))


def _distilled(request: PortRequest, module: Module, task: Task | None, file_format: Format) -> _Landed:
    if task is None and request.prompts is not None:
        task = answers_task(module)
    if task is None:
        raise BadRequest("distill: needs a task for its labels and wording, none given; name it with --task TASK")
    check_same_labels(module, task)
    bound = _bind(request, module, task)
    spec = spec_into(request)
    if spec is not None:
        check_holds(file_format, spec, bound.host, bound.readout.head_shapes())
    made = distill_for(request, module, bound)
    return _Landed(made.module, bound.host, (*bound.remarks, *made.remarks))


def _remarks(task: Task | None, bound: BoundTask | None) -> tuple[str, ...]:
    """What to tell users of how the task was read; by a porter that reads no task, of the task alone."""
    if bound is not None:
        return bound.remarks
    return () if task is None else task.remarks


def _bind(request: PortRequest, module: Module, task: Task) -> BoundTask:
    """Bind the task to the receiver, with the readout that the module was trained with."""
    return bind_task(str(request.to), task, own_readout(module, request.readout), train_settings(request.max_tokens))
