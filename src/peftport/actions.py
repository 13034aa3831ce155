"""What people do with a module, each in one call: train, evaluate, port, compare. The command line adds printing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peftport.comparison import Comparison, Plan, compare
from peftport.errors import BadRequest, ModuleRefused, SlotMismatch, TaskRefused
from peftport.evaluation import Scores
from peftport.gather import MOST_TEXTS, gather, read_texts
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.hosts.loading import Loading
from peftport.hosts.opening import open_host
from peftport.identity import rng_for
from peftport.modules.formats import Format, check_holds, format_of, read_module, write_module
from peftport.modules.module import Module, check_fits
from peftport.modules.origin import check_origin, trust_origin
from peftport.porting import porter_named
from peftport.progress import Progress
from peftport.refresh import NAME as DISTILL
from peftport.refresh import Refresh, refresh
from peftport.store.artifacts import check_free
from peftport.tasks.task import Task
from peftport.techniques import technique_named
from peftport.techniques.base import TechniqueSpec
from peftport.training import TrainSettings
from peftport.workbench import Start, open_workbench


@dataclass(frozen=True, eq=False)
class Trained:
    """A module just trained, and the host's test without and with it."""

    module: Module
    bare: Scores
    scores: Scores


def train_module(
    host: str,
    task: Task,
    spec: TechniqueSpec,
    *,
    out: Path | None = None,
    steps: int = 120,
    seed: int = 0,
    learning_rate: float | None = None,
    readout: str | None = None,
    settings: TrainSettings | None = None,
    loading: Loading | None = None,
    test_items: int | None = None,
    file_format: Format = "native",
    progress: Progress | None = None,
) -> Trained:
    """Train a module on a host, test it, and write it to ``out`` if that is given.

    Raises:
        BadRequest: an unknown host or readout, an output folder in use, a format that cannot hold the module.
        TrainingFailed: the loss diverged.

    """
    if out is not None:
        check_free(out)
    if file_format == "peft" and spec.kind != "lora":
        raise ModuleRefused(f"--format peft: expected technique lora, got {spec.kind}; use the native format")
    bench = open_workbench(host, task, readout, settings, test_items, loading)
    check_holds(file_format, spec, bench.host, head=bool(bench.readout.head_shapes()))
    rate = learning_rate or technique_named(spec.kind).learning_rates[bench.host.kind]
    start = Start(bench.fresh(spec, seed), seed)
    [checkpoints] = bench.train(spec, [start], [steps], rate, progress, f"training {spec.kind}")
    module = bench.module(spec, checkpoints[steps], seed, rate)
    [bare] = bench.test(None, [], progress, "testing the bare host")
    [scores] = bench.test(spec, [module.matrices], progress, "testing the module")
    if out is not None:
        write_module(module, bench.host, out, file_format)
    return Trained(module, bare, scores)


def evaluate_host(
    host: str,
    task: Task,
    *,
    module: Path | None = None,
    readout: str | None = None,
    settings: TrainSettings | None = None,
    loading: Loading | None = None,
    test_items: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Test a host alone, or with a module that was trained on (or ported to) this host.

    Raises:
        SlotMismatch: the module's host is another one.

    """
    native = read_module(module) if module is not None and format_of(module) == "native" else None
    readout = readout or (native.task.readout if native and native.task else None)
    bench = open_workbench(host, task, readout, settings, test_items, loading)
    if module is None:
        return bench.test(None, [], progress, "testing the bare host")[0]
    own = native or read_module(module, bench.host)
    _check_same_labels(own, task)
    if not own.host.same_host(bench.host.fingerprint):
        raise SlotMismatch(
            f"{module}: this module is for host {own.host.name}, got {bench.host.name}, whose fingerprint differs; "
            f"port it first: peftport port {module} --to {host} --out DIR"
        )
    check_fits(own, bench.host, "evaluate")
    return bench.test(own.spec, [bench.startable(own)], progress, "testing the module")[0]


@dataclass(frozen=True, eq=False)
class PortedModule:
    """A module on its new host, and the format it was written in."""

    module: Module
    file_format: Format


def port_module(
    folder: Path,
    to: str,
    *,
    origin: str | None = None,
    trusted_origin: str | None = None,
    method: str = "copy",
    out: Path | None = None,
    file_format: Format | None = None,
    seed: int = 0,
    texts: str | None = None,
    task: Task | None = None,
    as_technique: Literal["adapter"] | None = None,
    readout: str | None = None,
    settings: TrainSettings | None = None,
    steps: int = 120,
    progress: Progress | None = None,
) -> PortedModule:
    """Port a module folder to another host; written to ``out`` in the format it came in unless told otherwise.

    ``texts`` (a .txt file or a task) are for methods that need texts, ``task`` for those that need labels. Hosts are
    loaded only for methods that look at activations or losses. ``steps`` are those of ``distill``, which trains.

    Raises:
        ModuleRefused: the folder is broken, or records another origin than the one given.
        SlotMismatch: the module does not fit the receiver by this method.

    """
    if out is not None:
        check_free(out)
    chosen = file_format or format_of(folder)
    module = open_module(folder, origin, trusted_origin)
    if method == DISTILL:
        home = origin or module.host.name
        ported, receiver = _distilled(module, home, to, texts, task, Refresh(steps, seed), readout, settings, progress)
    else:
        porter = porter_named(method)
        bench = open_workbench(to, task, readout, settings) if porter.needs == "labels" and task is not None else None
        receiver = bench.host if bench else (load_host(to) if porter.needs == "texts" else open_host(to))
        found = gather(
            porter,
            module,
            receiver,
            origin=origin,
            texts=texts,
            bench=bench,
            as_technique=as_technique,
            progress=progress,
        )
        ported = porter.port(module, receiver, rng_for(seed, "porting"), found)
    if out is not None:
        write_module(ported, receiver, out, chosen)
    return PortedModule(ported, chosen)


def _distilled(
    module: Module,
    origin: str,
    to: str,
    texts: str | None,
    task: Task | None,
    how: Refresh,
    readout: str | None,
    settings: TrainSettings | None,
    progress: Progress | None,
) -> tuple[Module, Host]:
    """Distill: the module at home labels texts (the task's own, where none are given), a new one away learns them."""
    if task is None:
        raise BadRequest("distill: needs a task for its labels and wording, none given; name it with --task TASK")
    readout = readout or (module.task.readout if module.task else None)
    _check_same_labels(module, task)
    home = open_workbench(origin, task, readout, settings)
    if not module.host.same_host(home.host.fingerprint):
        raise ModuleRefused(
            f"distill: expected a module of {home.host.name}, got one of {module.host.name} with another fingerprint; "
            "name its host with --from"
        )
    away = open_workbench(to, task, readout, settings)
    read = read_texts(texts) if texts is not None else task.train.texts[:MOST_TEXTS]
    return refresh(module, home, away, read, how, progress), away.host


def compare_module(
    folder: Path,
    to: str,
    task: Task,
    plan: Plan,
    *,
    origin: str | None = None,
    trusted_origin: str | None = None,
    readout: str | None = None,
    settings: TrainSettings | None = None,
    loading: Loading | None = None,
    test_items: int | None = None,
    texts: str | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Port a module to a host and compare it with sampled and scratch on a task.

    Methods that need texts read those of ``texts`` (a .txt file or a task), or the task's own without their labels.
    """
    module = open_module(folder, origin, trusted_origin)
    _check_same_labels(module, task)
    readout = readout or (module.task.readout if module.task else None)
    bench = open_workbench(to, task, readout, settings, test_items, loading)
    given = gather(
        porter_named(plan.method), module, bench.host, origin=origin, texts=texts, bench=bench, progress=progress
    )
    return compare(module, bench, plan, progress, given)


def open_module(folder: Path, origin: str | None, trusted_origin: str | None = None) -> Module:
    """Read a module folder, checking that it is from ``origin``, or taking it for one of ``trusted_origin``.

    Raises:
        BadRequest: both are given.
        ModuleRefused: the module records another host than ``origin``.
        SlotMismatch: the module cannot be one of ``trusted_origin``.

    """
    if origin is not None and trusted_origin is not None:
        raise BadRequest(
            f"--from {origin} --trust-origin {trusted_origin}: expected one origin, got two; --from checks the "
            "recorded fingerprint, --trust-origin overrides it"
        )
    named = trusted_origin or origin
    if named is None:
        return read_module(folder)
    host = load_host(named)
    module = read_module(folder, host)
    if trusted_origin is not None:
        return trust_origin(module, host)
    check_origin(module, host, str(folder))
    return module


def _check_same_labels(module: Module, task: Task) -> None:
    if module.task is not None and module.task.labels != task.spec.labels:
        raise TaskRefused(
            f"{task.spec.name}: this module was trained for the labels {module.task.labels}, got {task.spec.labels}; "
            "give a task with the same labels in the same order (--labels)"
        )
