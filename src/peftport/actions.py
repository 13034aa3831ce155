"""What people do with a module, each in one call: train, evaluate, port, compare. The command line adds printing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peftport.compare import Comparison, Plan, compare
from peftport.errors import ModuleRefused, SlotMismatch, TaskRefused
from peftport.evaluation import Scores
from peftport.hosts.load import Host, load_host
from peftport.hosts.loading import Loading
from peftport.identity import rng_for
from peftport.modules.formats import Format, format_of, read_module, write_module
from peftport.modules.module import Module, check_fits
from peftport.porting import porter_named
from peftport.progress import Progress
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
    if file_format == "peft" and bench.readout.head_shapes():
        raise ModuleRefused(
            "--format peft: expected a readout without a head, got linear, whose head PEFT would lose; use native"
        )
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
    method: str = "copy",
    out: Path | None = None,
    file_format: Format | None = None,
    seed: int = 0,
) -> PortedModule:
    """Port a module folder to another host; written to ``out`` in the format it came in unless told otherwise.

    Raises:
        ModuleRefused: the folder is broken, or records another origin than the one given.
        SlotMismatch: the module does not fit the receiver by this method.

    """
    if out is not None:
        check_free(out)
    porter = porter_named(method)
    given = format_of(folder)
    module = open_module(folder, origin)
    receiver = load_host(to)
    ported = porter.port(module, receiver, rng_for(seed, "porting"))
    chosen = file_format or given
    if out is not None:
        write_module(ported, receiver, out, chosen)
    return PortedModule(ported, chosen)


def compare_module(
    folder: Path,
    to: str,
    task: Task,
    plan: Plan,
    *,
    origin: str | None = None,
    readout: str | None = None,
    settings: TrainSettings | None = None,
    loading: Loading | None = None,
    test_items: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Port a module to a host and compare it with sampled and scratch on a task."""
    module = open_module(folder, origin)
    _check_same_labels(module, task)
    readout = readout or (module.task.readout if module.task else None)
    return compare(module, open_workbench(to, task, readout, settings, test_items, loading), plan, progress)


def open_module(folder: Path, origin: str | None) -> Module:
    """Read a module folder, checking that it is from ``origin`` where that is given.

    Raises:
        ModuleRefused: the module records another host than ``origin``.

    """
    if format_of(folder) == "native" and origin is None:
        return read_module(folder)
    host: Host | None = load_host(origin) if origin else None
    module = read_module(folder, host)
    if host is not None and not module.host.same_host(host.fingerprint):
        raise ModuleRefused(
            f"{folder}: expected a module of {host.name} (--from), got one that records host {module.host.name} with "
            "another fingerprint; leave --from out, or name the right host"
        )
    return module


def _check_same_labels(module: Module, task: Task) -> None:
    if module.task is not None and module.task.labels != task.spec.labels:
        raise TaskRefused(
            f"{task.spec.name}: this module was trained for the labels {module.task.labels}, got {task.spec.labels}; "
            "give a task with the same labels in the same order (--labels)"
        )
