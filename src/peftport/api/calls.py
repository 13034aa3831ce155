"""The commands as functions. An option ``--test-items`` is the keyword ``test_items``; ``--from`` and ``--as``, which

Python reserves, are ``from_`` and ``as_``. A task is what the command line takes, or what `load_task` returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from peftport.api.results import Checked, Compared, Demonstrated, Evaluated, Ported, Trained
from peftport.core.arms import ARMS, arm_names
from peftport.core.errors import BadRequest
from peftport.core.progress import Progress
from peftport.hosts.loading import loading_of
from peftport.modules.folders import Format
from peftport.report.compared import comparison_page
from peftport.store.artifacts import write_text
from peftport.tasks import Task, load_task
from peftport.techniques import make_spec
from peftport.training.loop import TrainSettings
from peftport.workflows import actions
from peftport.workflows.comparison import ComparisonPlan
from peftport.workflows.demo import DemoSettings, run_demo
from peftport.workflows.method_selection import port_by_selection

Place = str | Path


def train(
    host: Place,
    task: Place | Task,
    technique: str = "lora",
    *,
    out: Place | None = None,
    set: Mapping[str, Any] | None = None,
    steps: int = 120,
    seed: int = 0,
    learning_rate: float | None = None,
    batch_size: int = 16,
    max_tokens: int = 128,
    readout: str | None = None,
    test_items: int | None = None,
    format: Format = "native",
    load: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a module on a host, test it, and write it to ``out`` if that is given.

    Args:
        host: a local folder, a hub id ``org/name[@revision]``, or an offline host's name.
        task: a built-in task, a file, a hub data set, or a `Task`.
        technique: ``lora``, ``adapter``, ``compacter`` or ``prefix``.
        out: the new module's folder.
        set: settings of the technique, such as ``{"rank": 4}``.
        steps: training steps.
        seed: of initialisation and data order.
        learning_rate: None: the technique's own.
        batch_size: texts a step.
        max_tokens: texts are cut to this many tokens.
        readout: ``label_tokens``, ``prototype`` or ``linear``; None: by the host's kind.
        test_items: test on the first so many test items only.
        format: ``native``, ``peft`` or ``adapters``.
        load: how to load the host, such as ``{"device": "auto", "dtype": "bfloat16"}``.
        progress: told how far it is.

    Raises:
        BadRequest: an unknown name, a setting out of range, an output folder in use.
        TrainingFailed: the loss diverged.

    """
    data = _task(task)
    found = actions.train_module(
        str(host), data, make_spec(technique, dict(set or {})), out=_path(out), steps=steps, seed=seed,
        learning_rate=learning_rate, readout=readout, settings=_settings(batch_size, max_tokens),
        test_items=test_items, file_format=format, loading=loading_of(load), progress=progress,
    )  # fmt: skip
    return Trained(data.spec.name, _path(out), found.module, found.bare, found.scores)


def evaluate(
    host: Place,
    task: Place | Task,
    *,
    module: Place | None = None,
    max_tokens: int = 128,
    readout: str | None = None,
    test_items: int | None = None,
    load: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Evaluated:
    """Test a host alone, or with a module folder that was trained on (or ported to) this host.

    Raises:
        SlotMismatch: the module's host is another one.

    """
    data = _task(task)
    scores = actions.evaluate_host(
        str(host), data, module=_path(module), readout=readout, settings=_settings(16, max_tokens),
        test_items=test_items, loading=loading_of(load), progress=progress,
    )  # fmt: skip
    return Evaluated(str(host), data.spec.name, _path(module), scores)


def port(
    module: Place,
    to: Place,
    *,
    out: Place | None = None,
    from_: Place | None = None,
    trust_origin: Place | None = None,
    method: str | Sequence[str] = "copy",
    format: Format | None = None,
    seed: int = 0,
    texts: Place | None = None,
    task: Place | Task | None = None,
    as_: Literal["adapter"] | None = None,
    steps: int = 120,
    readout: str | None = None,
    max_tokens: int = 128,
    test_items: int | None = None,
    progress: Progress | None = None,
) -> Ported:
    """Port a module folder to another host; written to ``out`` in the format it came in, or in ``format``.

    Args:
        module: a module folder: native, PEFT or adapters.
        to: the receiver.
        out: the ported module's folder; None: nothing is written.
        from_: the origin: needed for a PEFT or adapters folder, checked where recorded.
        trust_origin: the origin, whatever fingerprint the module records.
        method: how (docs/porting.md); ``auto``: as `check` chooses; several, the simplest first: the one that the
            validation items of ``task`` carry.
        format: ``native``, ``peft`` or ``adapters``.
        seed: of methods that draw numbers.
        texts: a .txt file or a task, for methods that need unlabelled texts.
        task: labelled items, for methods that need labels, and to choose between several.
        as_: ``adapter``: carry a Compacter as an adapter, exactly.
        steps: training steps of ``distill``; no other method trains.
        readout: None: the module's own.
        max_tokens: texts of the task are cut to this many tokens.
        test_items: with several methods: the first so many validation and test items only.
        progress: told how far it is.

    Raises:
        ModuleRefused: the folder is broken, or records another origin than the one given.
        SlotMismatch: the module does not fit the receiver by this method.

    """
    data, settings = _task(task) if task is not None else None, _settings(16, max_tokens)
    means = actions.PortOptions(_name(texts), data, as_, readout, settings, seed, steps)
    names = tuple(method.split(",")) if isinstance(method, str) else tuple(method)
    if len(names) > 1:
        tried = port_by_selection(
            Path(module), str(to), names, means, origin=_name(from_), trusted_origin=_name(trust_origin),
            out=_path(out), file_format=format, test_items=test_items, progress=progress,
        )  # fmt: skip
        return Ported(_path(out), tried.module, tried.file_format, trial=tried)
    found = actions.port_module(
        Path(module), str(to), names[0], means, origin=_name(from_), trusted_origin=_name(trust_origin),
        out=_path(out), file_format=format, progress=progress,
    )  # fmt: skip
    return Ported(_path(out), found.module, found.file_format, choice=found.choice)


def check(
    module: Place,
    to: Place,
    *,
    from_: Place | None = None,
    texts: Place | None = None,
    progress: Progress | None = None,
) -> Checked:
    """What fits, what does not, how alike the hosts are, what to expect of a port, and which method to use.

    Args:
        module: a module folder: native, PEFT or adapters.
        to: the receiver.
        from_: the origin: needed for a PEFT or adapters folder, checked where recorded.
        texts: a .txt file or a task: both hosts are loaded, and the activations of their layers compared.
        progress: told how far it is.

    Raises:
        ModuleRefused: the folder is broken, or records another origin than the one given.
        SlotMismatch: the receiver has no slot of the module's kind.

    """
    return Checked(
        actions.check_module(Path(module), str(to), origin=_name(from_), texts=_name(texts), progress=progress)
    )


def compare(
    module: Place,
    to: Place,
    task: Place | Task,
    *,
    from_: Place | None = None,
    trust_origin: Place | None = None,
    budgets: Sequence[int] = (0, 10, 40),
    seeds: int = 3,
    arms: Sequence[str] = ARMS,
    method: str = "copy",
    sampler: str = "gaussian",
    texts: Place | None = None,
    learning_rate: float | None = None,
    batch_size: int = 16,
    max_tokens: int = 128,
    readout: str | None = None,
    test_items: int | None = 500,
    load: Mapping[str, Any] | None = None,
    out: Place | None = None,
    progress: Progress | None = None,
) -> Compared:
    """Compare the ported module with sampled parameters and with training from scratch, on your data.

    Args:
        module: a module folder.
        to: the receiver.
        task: the data to compare on, with the labels that the module was trained for.
        from_: the origin, as for `port`.
        trust_origin: the origin, as for `port`.
        budgets: steps of further training before each test.
        seeds: how many seeds: 0, 1, ...
        arms: which arms.
        method: how to port; ``auto``: as `check` chooses.
        sampler: ``gaussian``, ``permutation``, ``spectrum`` or ``norm_matched``.
        texts: for methods that need texts; None: the task's own without their labels.
        learning_rate: of every arm; None: the technique's own.
        batch_size: texts a step.
        max_tokens: texts are cut to this many tokens.
        readout: None: the module's own.
        test_items: test on the first so many test items only; None: all.
        load: how to load the receiver, as for `train`.
        out: also write a page (HTML); replaced if it exists.
        progress: told how far it is.

    """
    if seeds < 1:
        raise BadRequest(f"seeds: expected at least 1, got {seeds}")
    plan = ComparisonPlan(tuple(budgets), tuple(range(seeds)), arm_names(arms), method, sampler, learning_rate)
    found = actions.compare_module(
        Path(module), str(to), _task(task), plan, origin=_name(from_), trusted_origin=_name(trust_origin),
        readout=readout, settings=_settings(batch_size, max_tokens), test_items=test_items, texts=_name(texts),
        loading=loading_of(load), progress=progress,
    )  # fmt: skip
    if out is not None:
        write_text(Path(out), comparison_page(found, f"peftport.compare({str(module)!r}, {str(to)!r}, ...)"))
    return Compared(found)


def demo(settings: DemoSettings | None = None, progress: Progress | None = None) -> Demonstrated:
    """Four techniques, three arms, two real hosts, real reviews; a few minutes."""
    return Demonstrated(run_demo(settings, progress))


def _task(task: Place | Task) -> Task:
    return task if isinstance(task, Task) else load_task(str(task))


def _settings(batch_size: int, max_tokens: int) -> TrainSettings:
    for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens)):
        if value < 1:
            raise BadRequest(f"{name}: expected at least 1, got {value}")
    return TrainSettings(batch_size=batch_size, max_tokens=max_tokens)


def _path(place: Place | None) -> Path | None:
    return None if place is None else Path(place)


def _name(place: Place | None) -> str | None:
    return None if place is None else str(place)
