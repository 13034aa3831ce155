"""The job `train`: train a module on a host, test it there, and write it to a folder."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from peftport.analysis.stats import paired_difference
from peftport.core.errors import ModuleRefused
from peftport.core.hashing import rng_for
from peftport.hosts.loading import loading_of
from peftport.metrics import metric_named
from peftport.metrics.choice import check_defined
from peftport.modules.folders import check_holds, write_module
from peftport.modules.module import HomeTest, Module, TrainingRecord
from peftport.tasks.spec import Predictions
from peftport.techniques import make_spec, technique_named
from peftport.training.bound_task import Start, bind_task
from peftport.workflows.job_inputs import path_of, resolve_task, too_fast, train_settings
from peftport.workflows.named import check_names
from peftport.workflows.requests import TrainRequest

LEVEL = 0.95  # of the interval of what a module gains at home


@dataclass(frozen=True, eq=False)
class TrainedModule:
    """A trained module, and what the host predicts on the task without it (``bare``) and with it (``scores``).

    ``remarks`` say how the task was read, where that was guessed.
    """

    task: str
    module: Module
    bare: Predictions
    scores: Predictions
    remarks: tuple[str, ...] = ()


def train_module(request: TrainRequest) -> TrainedModule:
    """Train a module on a host, test it, and write it to ``out`` if that is given.

    Raises:
        BadRequest: a name is unknown, a setting is out of range, the output folder is in use, the format cannot hold
            the module, or the test items do not have the metric.
        TrainingFailed: the loss diverged.

    """
    spec = make_spec(request.technique, dict(request.set or {}))
    check_names(request)
    out = path_of(request.out)
    if request.format == "peft" and spec.kind != "lora":
        raise ModuleRefused(f"--format peft: expected technique lora, got {spec.kind}; use the native format")
    loading = loading_of(request.load)
    settings = train_settings(
        request.max_tokens, request.batch_size, norm_penalty=request.norm_penalty, drop_ffn=request.drop_ffn,
        mask_ffn=request.mask_ffn,
    )  # fmt: skip
    task = resolve_task(request.task, request.progress)
    bound = bind_task(str(request.host), task, request.readout, settings, request.test_items, loading, request.generate)
    check_holds(request.format, spec, bound.host, head=bound.readout.head_shapes())
    settings.perturbation.check(bound.host)
    technique = technique_named(spec.kind)
    rate = request.learning_rate or technique.learning_rates[bound.host.kind]
    start, progress = Start(bound.fresh(spec, request.seed), request.seed), request.progress
    [bare] = bound.test(None, [], progress, "testing the bare host")
    if request.metric is not None:
        check_defined(request.metric, bare)  # before the training
    [checkpoints] = bound.train(spec, [start], [request.steps], rate, progress, f"training {spec.kind}")
    module = bound.module(spec, checkpoints[request.steps], request.seed, rate)
    [scores] = bound.test(spec, [module.matrices], progress, "testing the module")
    module = replace(module, training=_with_home(module.training, bare, scores))
    if out is not None:
        write_module(module, bound.host, out, request.format)
    doubts = technique.doubts(spec, technique.slots(spec, bound.host.slots))
    remarks = (*bound.remarks_on_bare, *doubts, *too_fast(rate))
    return TrainedModule(task.spec.name, module, bare, scores, remarks)


def _with_home(training: TrainingRecord | None, bare: Predictions, scores: Predictions) -> TrainingRecord | None:
    """The record with what the module gains at home, where the usual metric of its task has a value for each item."""
    metric = metric_named(scores.usual_metric().name)
    before, after = metric.per_item(bare), metric.per_item(scores)
    if training is None or before is None or after is None or not len(after):
        return training
    sign = 1.0 if metric.higher_is_better else -1.0
    one, other = (sign * np.asarray(values, dtype=np.float64) for values in (after, before))
    gain = paired_difference(one, other, level=LEVEL, rng=rng_for(training.seed, "home"))
    home = HomeTest(
        metric=metric.name, items=len(one), bare=float(sign * other.mean()), score=float(sign * one.mean()),
        gain=gain.estimate, low=gain.low, high=gain.high,
    )  # fmt: skip
    return training.model_copy(update={"home": home})
