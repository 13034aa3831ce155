"""The job `evaluate`: test a host on a task, alone or with a module that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peftport.core.errors import SlotMismatch
from peftport.hosts.changes import add_to_weights
from peftport.hosts.fingerprint import Fingerprint
from peftport.hosts.load import fingerprint_of
from peftport.hosts.loading import loading_of
from peftport.metrics.choice import MetricChoice, check_defined, check_measures, choose_metric
from peftport.modules.folders import format_of, read_module
from peftport.modules.module import Module, check_fits, fold_remarks
from peftport.modules.sources import module_folder
from peftport.tasks.spec import Predictions
from peftport.training.bound_task import BoundTask, bind_task
from peftport.workflows.job_inputs import (
    check_same_labels,
    own_readout,
    readout_in,
    resolve_task,
    train_settings,
)
from peftport.workflows.named import check_names
from peftport.workflows.requests import EvaluateRequest


@dataclass(frozen=True, eq=False)
class EvaluatedHost:
    """What a host predicts for the test items of a task, and the metric that it is judged by.

    ``remarks`` say how the task was read, where that was guessed.
    """

    task: str
    scores: Predictions
    judged: MetricChoice
    remarks: tuple[str, ...] = ()


def evaluate_host(request: EvaluateRequest) -> EvaluatedHost:
    """Test a host alone, or with a module that was trained on (or ported to) this host.

    Raises:
        BadRequest: a metric that is unknown, or that these test items do not have.
        SlotMismatch: the module's host is another one.

    """
    check_names(request)
    folder = None if request.module is None else module_folder(request.module)
    progress = request.progress
    loading, task = loading_of(request.load), resolve_task(request.task, request.progress)
    if request.metric is not None:
        check_measures(request.metric, task.spec.predictions.kind)
    notes: tuple[str, ...] = ()
    leave_out, readout = tuple(request.leave_out), request.readout
    native = read_module(folder, None, leave_out) if folder is not None and format_of(folder) == "native" else None
    mark = None
    if native is not None and folder is not None:
        mark = fingerprint_of(str(request.host))
        _check_same_host(native, folder, mark, str(request.host))  # before it is loaded
        check_same_labels(native, task)
        readout = own_readout(native, readout)
    elif folder is not None and readout is None:
        readout = readout_in(folder, leave_out)
    bound = bind_task(
        str(request.host), task, readout, train_settings(request.max_tokens), request.test_items, loading,
        request.generate, mark,
    )  # fmt: skip
    if folder is None:
        [scores] = bound.test(None, [], progress, "testing the bare host")
    else:
        module = native or read_module(folder, bound.host, leave_out)
        _check_its_own(module, folder, bound, str(request.host))
        if module.kept is not None:
            add_to_weights(bound.host, module.kept.outside, parts_vocabularies=module.kept.parts_vocabularies)
        notes = fold_remarks(module)
        [scores] = bound.test(module.spec, [bound.startable(module)], progress, "testing the module")
    judged = choose_metric(scores, request.metric)
    if request.metric is not None:
        check_defined(request.metric, scores)
    remarks = bound.remarks_on_bare if folder is None else (*bound.remarks, *notes)
    return EvaluatedHost(task.spec.name, scores, judged, remarks)


def _check_its_own(module: Module, folder: Path, bound: BoundTask, host: str) -> None:
    """Refuse a module with other labels, of another host, or with matrices that do not fit this host."""
    check_same_labels(module, bound.task)
    _check_same_host(module, folder, bound.host.fingerprint, host)
    check_fits(module, bound.host, "evaluate")


def _check_same_host(module: Module, folder: Path, mark: Fingerprint, host: str) -> None:
    if not module.host.same_host(mark):
        raise SlotMismatch(
            f"{folder}: this module is for host {module.host.name}, got {mark.name}, whose fingerprint differs "
            f"({module.host.told_from(mark)}); port it first: peftport port {folder} --to {host} --out DIR"
        )
