"""What people do with a module, each in one call: train, evaluate, port, compare. The command line adds printing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from peftport.analysis.prediction import recorded
from peftport.core.errors import BadRequest, ModuleRefused, SlotMismatch, TaskRefused
from peftport.core.hashing import rng_for
from peftport.core.progress import Progress
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.hosts.loading import Loading
from peftport.hosts.opening import open_host
from peftport.modules.folders import Format, check_holds, format_of, read_module, write_module
from peftport.modules.module import Module, check_fits
from peftport.modules.origin import check_origin, trust_origin
from peftport.porting import AUTO, porter_named
from peftport.store.artifacts import check_free
from peftport.tasks.task import Task
from peftport.techniques import technique_named
from peftport.techniques.base import TechniqueSpec
from peftport.training.bound_task import BoundTask, Start, bind_task
from peftport.training.evaluation import Scores
from peftport.training.loop import TrainSettings
from peftport.workflows.checking import AvailableInputs, MethodChoice, PortCheck, check_port, find_origin, method_checks
from peftport.workflows.checking.choice import choose_method
from peftport.workflows.checking.host_comparison import compare_hosts
from peftport.workflows.comparison import Comparison, ComparisonPlan, run_comparison
from peftport.workflows.distill import NAME as DISTILL
from peftport.workflows.distill import DistillOptions, distill
from peftport.workflows.port_inputs import MOST_TEXTS, open_port_inputs, read_texts


@dataclass(frozen=True, eq=False)
class TrainedModule:
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
) -> TrainedModule:
    """Train a module on a host, test it, and write it to ``out`` if that is given.

    Raises:
        BadRequest: an unknown host or readout, an output folder in use, a format that cannot hold the module.
        TrainingFailed: the loss diverged.

    """
    if out is not None:
        check_free(out)
    if file_format == "peft" and spec.kind != "lora":
        raise ModuleRefused(f"--format peft: expected technique lora, got {spec.kind}; use the native format")
    bench = bind_task(host, task, readout, settings, test_items, loading)
    check_holds(file_format, spec, bench.host, head=bool(bench.readout.head_shapes()))
    rate = learning_rate or technique_named(spec.kind).learning_rates[bench.host.kind]
    start = Start(bench.fresh(spec, seed), seed)
    [checkpoints] = bench.train(spec, [start], [steps], rate, progress, f"training {spec.kind}")
    module = bench.module(spec, checkpoints[steps], seed, rate)
    [bare] = bench.test(None, [], progress, "testing the bare host")
    [scores] = bench.test(spec, [module.matrices], progress, "testing the module")
    if out is not None:
        write_module(module, bench.host, out, file_format)
    return TrainedModule(module, bare, scores)


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
    bench = bind_task(host, task, readout, settings, test_items, loading)
    if module is None:
        return bench.test(None, [], progress, "testing the bare host")[0]
    own = native or read_module(module, bench.host)
    check_same_labels(own, task)
    if not own.host.same_host(bench.host.fingerprint):
        raise SlotMismatch(
            f"{module}: this module is for host {own.host.name}, got {bench.host.name}, whose fingerprint differs "
            f"({own.host.told_from(bench.host.fingerprint)}); "
            f"port it first: peftport port {module} --to {host} --out DIR"
        )
    check_fits(own, bench.host, "evaluate")
    return bench.test(own.spec, [bench.startable(own)], progress, "testing the module")[0]


@dataclass(frozen=True, eq=False)
class PortedModule:
    """A module on its new host, and the format it was written in. ``choice``: how ``auto`` chose the method."""

    module: Module
    file_format: Format
    choice: MethodChoice | None = None


def check_module(
    folder: Path,
    to: str,
    *,
    origin: str | None = None,
    texts: str | None = None,
    progress: Progress | None = None,
) -> PortCheck:
    """What fits, how alike the hosts are, what to expect, and which method to use. Nothing is written.

    Hosts are loaded only where ``texts`` (a .txt file or a task) are given, to compare activations on them.

    Raises:
        ModuleRefused: the folder is broken, or records another origin than the one given.
        SlotMismatch: the receiver has no slot of the module's kind.

    """
    module = open_module(folder, origin)
    read = read_texts(texts) if texts is not None else ()
    receiver = load_host(to) if read else open_host(to)
    found = find_origin(module, origin, loaded=bool(read))
    return check_port(module, found, receiver, texts=read, rng=rng_for(0, "checking"), progress=progress)


@dataclass(frozen=True, eq=False)
class PortOptions:
    """What a port may use besides the module and the hosts.

    Attributes:
        texts: a .txt file or a task, for methods that need texts; None: the task's own.
        task: for methods that need labels.
        as_technique: ``adapter`` carries a Compacter as the adapter that it stands for.
        readout: None: the module's own.
        settings: of reading and training.
        seed: of methods that draw numbers.
        steps: those of ``distill``, which trains.

    """

    texts: str | None = None
    task: Task | None = None
    as_technique: Literal["adapter"] | None = None
    readout: str | None = None
    settings: TrainSettings | None = None
    seed: int = 0
    steps: int = 120


def port_module(
    folder: Path,
    to: str,
    method: str,
    means: PortOptions,
    *,
    origin: str | None = None,
    trusted_origin: str | None = None,
    out: Path | None = None,
    file_format: Format | None = None,
    progress: Progress | None = None,
) -> PortedModule:
    """Port a module folder to another host; written to ``out`` in the format it came in unless told otherwise.

    ``method`` ``auto`` takes what `check_module` would choose with what is given. Hosts are loaded only for methods
    that look at activations or losses.

    Raises:
        ModuleRefused: the folder is broken, or records another origin than the one given.
        SlotMismatch: the module does not fit the receiver by this method.
        BadRequest: ``auto``, and no method is worth it or can.

    """
    if out is not None:
        check_free(out)
    if method not in (AUTO, DISTILL):
        porter_named(method)
    chosen = file_format or format_of(folder)
    named, module = trusted_origin or origin, open_module(folder, origin, trusted_origin)
    choice = None
    if method == AUTO:
        offered = AvailableInputs(means.texts is not None or means.task is not None, means.task is not None)
        choice = choose_for(module, named, to, offered)
        method = choice.method or DISTILL
    found = _distilled(module, named, to, means, progress) if method == DISTILL else None
    landed = found or _carried(method, module, named, to, means, progress)
    if out is not None:
        write_module(landed.module, landed.receiver, out, chosen)
    return PortedModule(landed.module, chosen, choice)


class _Landed(NamedTuple):
    module: Module
    receiver: Host


def _carried(
    method: str, module: Module, origin: str | None, to: str, means: PortOptions, progress: Progress | None
) -> _Landed:
    """By a porter; the task's own texts stand in where it needs some and none are named."""
    porter = porter_named(method)
    with_task = porter.needs == "labels" or (porter.needs == "texts" and means.texts is None)
    task = means.task if with_task else None
    bench = bind_task(to, task, own_readout(module, means), means.settings) if task is not None else None
    receiver = bench.host if bench else (load_host(to) if porter.needs == "texts" else open_host(to))
    found = open_port_inputs(
        porter,
        module,
        receiver,
        origin=origin,
        texts=means.texts,
        bench=bench,
        as_technique=means.as_technique,
        progress=progress,
    )
    return _Landed(porter.port(module, receiver, rng_for(means.seed, "porting"), found), receiver)


def _distilled(module: Module, origin: str | None, to: str, means: PortOptions, progress: Progress | None) -> _Landed:
    if means.task is None:
        raise BadRequest("distill: needs a task for its labels and wording, none given; name it with --task TASK")
    check_same_labels(module, means.task)
    away = bind_task(to, means.task, own_readout(module, means), means.settings)
    return _Landed(distill_to(away, module, origin, means, progress), away.host)


def own_readout(module: Module, means: PortOptions) -> str | None:
    """The readout that is asked for, or that the module was trained with."""
    return means.readout or (module.task.readout if module.task else None)


def distill_to(
    away: BoundTask, module: Module, origin: str | None, means: PortOptions, progress: Progress | None
) -> Module:
    """Distill: the module at home labels texts (the task's own, where none are given), a new one away learns them.

    Raises:
        ModuleRefused: the origin is not the module's own.

    """
    home = bind_task(origin or module.host.name, away.task, own_readout(module, means), means.settings)
    if not module.host.same_host(home.host.fingerprint):
        raise ModuleRefused(
            f"distill: expected a module of {home.host.name}, got one of {module.host.name} with another fingerprint "
            f"({module.host.told_from(home.host.fingerprint)}); name its host with --from"
        )
    read = read_texts(means.texts) if means.texts is not None else away.task.train.texts[:MOST_TEXTS]
    return distill(module, home, away, read, DistillOptions(means.steps, means.seed), progress)


def choose_for(
    module: Module, origin: str | None, to: str, offered: AvailableInputs, *, porters_only: bool = False
) -> MethodChoice:
    """The method that `check_module` would choose, without looking at weights slot by slot.

    Raises:
        BadRequest: it would choose none.

    """
    receiver = open_host(to)
    kin = compare_hosts(module, find_origin(module, origin, loaded=False), receiver)
    methods = method_checks(module, kin, receiver, offered, recorded().ports)
    kept = [one for one in methods if not (porters_only and one.name == DISTILL)]
    choice = choose_method(kept, same_host=kin.same_host)
    if choice.method is None:
        raise BadRequest(f"--method auto: {choice.word}: {choice.why}; or name a method (peftport methods)")
    return choice


def compare_module(
    folder: Path,
    to: str,
    task: Task,
    plan: ComparisonPlan,
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
    named, module = trusted_origin or origin, open_module(folder, origin, trusted_origin)
    check_same_labels(module, task)
    choice = None
    if plan.method == AUTO:
        choice = choose_for(module, named, to, AvailableInputs(texts=True, task=True), porters_only=True)
        plan = replace(plan, method=choice.method or AUTO)
    readout = readout or (module.task.readout if module.task else None)
    bench = bind_task(to, task, readout, settings, test_items, loading)
    given = open_port_inputs(
        porter_named(plan.method), module, bench.host, origin=named, texts=texts, bench=bench, progress=progress
    )
    return replace(run_comparison(module, bench, plan, progress, given), choice=choice)


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
    host = open_host(named)
    module = read_module(folder, host)
    if trusted_origin is not None:
        return trust_origin(module, host)
    check_origin(module, host, str(folder))
    return module


def check_same_labels(module: Module, task: Task) -> None:
    """Refuse a task with other labels than the module was trained for.

    Raises:
        TaskRefused: as said.

    """
    if module.task is not None and module.task.labels != task.spec.labels:
        raise TaskRefused(
            f"{task.spec.name}: this module was trained for the labels {module.task.labels}, got {task.spec.labels}; "
            "give a task with the same labels in the same order (--labels)"
        )
