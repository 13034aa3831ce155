"""The job `evaluate`: test a host on a task, alone or with a module that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peftport.core.errors import SlotMismatch
from peftport.hosts.loading import loading_of
from peftport.metrics import asked_metric
from peftport.metrics.choice import MetricChoice, check_defined, check_measures, choose_metric
from peftport.modules.folders import format_of, read_module
from peftport.modules.module import Module, check_fits
from peftport.tasks.spec import Predictions
from peftport.training.bound_task import BoundTask, bind_task
from peftport.workflows.job_inputs import check_same_labels, own_readout, path_of, resolve_task, train_settings
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
    if request.metric is not None:
        asked_metric(request.metric)
    folder, progress = path_of(request.module), request.progress
    loading, task = loading_of(request.load), resolve_task(request.task)
    if request.metric is not None:
        check_measures(request.metric, task.spec.predictions.kind)
    native = read_module(folder) if folder is not None and format_of(folder) == "native" else None
    if native is not None:
        check_same_labels(native, task)
    bound = bind_task(
        str(request.host), task, own_readout(native, request.readout), train_settings(request.max_tokens),
        request.test_items, loading, request.generate,
    )  # fmt: skip
    if folder is None:
        [scores] = bound.test(None, [], progress, "testing the bare host")
    else:
        module = native or read_module(folder, bound.host)
        _check_its_own(module, folder, bound, str(request.host))
        [scores] = bound.test(module.spec, [bound.startable(module)], progress, "testing the module")
    judged = choose_metric(scores, request.metric)
    if request.metric is not None:
        check_defined(request.metric, scores)
    return EvaluatedHost(task.spec.name, scores, judged, bound.remarks_on_bare if folder is None else bound.remarks)


def _check_its_own(module: Module, folder: Path, bound: BoundTask, host: str) -> None:
    """Refuse a module with other labels, of another host, or with matrices that do not fit this host."""
    check_same_labels(module, bound.task)
    if not module.host.same_host(bound.host.fingerprint):
        raise SlotMismatch(
            f"{folder}: this module is for host {module.host.name}, got {bound.host.name}, whose fingerprint differs "
            f"({module.host.told_from(bound.host.fingerprint)}); "
            f"port it first: peftport port {folder} --to {host} --out DIR"
        )
    check_fits(module, bound.host, "evaluate")
