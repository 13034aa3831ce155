"""Open what the requests of several jobs name: a module whose origin is checked, a task, training settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftport.core.errors import BadRequest, ModuleRefused, TaskRefused
from peftport.core.progress import Progress
from peftport.core.request import Place
from peftport.hosts.opening import open_host
from peftport.hosts.task_head import HeadKind
from peftport.modules.folders import format_of, kind_of_saved_head, read_module, read_to_carry
from peftport.modules.head import HEAD_PART, kind_of_head
from peftport.modules.module import Module, as_tensors
from peftport.modules.origin import check_origin, trust_origin
from peftport.modules.sources import module_folder
from peftport.objectives import OBJECTIVES
from peftport.objectives.classifier import NAME as CLASSIFIER
from peftport.porting import PORTERS
from peftport.porting.base import Anchor
from peftport.porting.methods.anchor_ridge import check_anchors
from peftport.tasks import Task, load_task
from peftport.training.bound_task import check_task
from peftport.training.loop import TrainSettings

LARGE_RATE = 1.0


def resolve_task(task: Place | Task, progress: Progress | None = None) -> Task:
    """Return a task that is given as an object, or load the one that is given by its name."""
    return task if isinstance(task, Task) else load_task(str(task), progress=progress)


def train_settings(max_tokens: int, batch_size: int = 16, **later: float | None) -> TrainSettings:
    """Return the settings of training and testing that a request can change; those that are None are left off."""
    asked = {name: value for name, value in later.items() if value is not None}
    return TrainSettings(batch_size=batch_size, max_tokens=max_tokens, **asked)


def too_fast(learning_rate: float | None) -> tuple[str, ...]:
    """Remark on a learning rate that no technique is known to learn with, in sentences."""
    if learning_rate is None or learning_rate < LARGE_RATE:
        return ()
    return (
        f"--learning-rate {learning_rate:g}: training likely diverges at a rate of {LARGE_RATE:g} or more; peftport "
        "techniques lists the usual ones",
    )


def path_of(place: Place | None) -> Path | None:
    """Convert a file or folder name to a path; None stays None."""
    return None if place is None else Path(place)


def name_of(place: Place | None) -> str | None:
    """Convert a path to text; None stays None."""
    return None if place is None else str(place)


def open_module(
    folder: Path, origin: str | None, trusted_origin: str | None = None, leave_out: tuple[str, ...] = ()
) -> Module:
    """Read a module folder; check that its host is ``origin``, or record ``trusted_origin`` as its host unchecked.

    ``leave_out`` names parts that are not read (`read_module`).

    Raises:
        BadRequest: both are given.
        ModuleRefused: the module records a different host from ``origin``.
        SlotMismatch: the module does not fit ``trusted_origin``.

    """
    return as_tensors(open_module_to_carry(folder, origin, trusted_origin, leave_out))


def open_module_to_carry(
    folder: Path, origin: str | None, trusted_origin: str | None = None, leave_out: tuple[str, ...] = ()
) -> Module[Any]:
    """Read a module folder as `open_module` does; its matrices are `RawNumbers` where they can be read without torch.

    Raises:
        BadRequest, ModuleRefused, SlotMismatch: as `open_module`.

    """
    if origin is not None and trusted_origin is not None:
        raise BadRequest(
            f"--from {origin} --trust-origin {trusted_origin}: expected one origin, got two; --from checks the "
            "recorded fingerprint, --trust-origin overrides it"
        )
    named = trusted_origin or origin
    if named is None:
        return read_to_carry(folder, leave_out=leave_out)
    host = open_host(named)
    module = read_to_carry(folder, host, leave_out)
    if trusted_origin is not None:
        return trust_origin(module, host)
    check_origin(module, host, str(folder))
    return module


def open_anchors(
    methods: Sequence[str], module: Module[Any], anchors: Mapping[Place, Place] | None, origin: str | None, to: Place
) -> tuple[Anchor, ...]:
    """Read the pairs of anchors where a method needs them, and refuse those that do not fit. No host is loaded.

    ``origin`` (None: by the name that the module records) and ``to`` are opened to read folders of other libraries,
    which do not describe their hosts.

    Raises:
        BadRequest: there are fewer than two pairs, or one has other settings than the module.
        SlotMismatch: a first module is not on the origin, or a second one not on the receiver.
        ModuleRefused: a folder is broken.

    """
    name = next((name for name in methods if name in PORTERS and PORTERS[name].needs == "anchors"), None)
    if name is None:
        return ()

    def read(place: Place, host: str) -> Module:
        folder = module_folder(place)
        return read_module(folder, None if format_of(folder) == "native" else open_host(host))

    hosts = (origin or module.host.name, str(to))
    opened = [Anchor(*map(read, pair, hosts)) for pair in (anchors or {}).items()]
    check_anchors(name, module, opened)
    check_anchors(name, module, opened, open_host(str(to)))
    return tuple(opened)


def own_readout(module: Module | None, readout: str | None) -> str | None:
    """Return the readout that is asked for, or else the one that the module was trained with.

    Raises:
        ModuleRefused: the module records a readout that does not exist.

    """
    if readout is not None or module is None:
        return readout
    if module.task is None:
        return None if module.head is None else readout_of(kind_of_head(module.file), module.host.name)
    if module.task.readout not in OBJECTIVES:
        raise ModuleRefused(
            f"this module's record of its task: readout: expected one of {', '.join(OBJECTIVES)}, got "
            f"{module.task.readout!r}; its file was altered: fetch the module again, or name the readout (--readout)"
        )
    return module.task.readout


def readout_in(folder: Path, leave_out: tuple[str, ...]) -> str | None:
    """Return the readout of the head in another library's folder; None where it has none, or it is left out.

    Raises:
        ModuleRefused: the head is not for whole texts.

    """
    kind = None if HEAD_PART in leave_out else kind_of_saved_head(folder)
    return None if kind is None else readout_of(kind, folder.name)


def readout_of(kind: HeadKind, what: str) -> str:
    """Return the readout of a head that PEFT saved.

    Raises:
        ModuleRefused: the head is not for whole texts.

    """
    if kind != "sequence":
        raise ModuleRefused(
            f"{what}: expected a head for whole texts (SEQ_CLS), got one for "
            f"{'tokens' if kind == 'token' else 'answers'} in a text, of which there are no tasks here: it can be "
            "ported, and tested with PEFT; to use the rest of the module, leave the head out (--leave-out head) and "
            "name a readout"
        )
    return CLASSIFIER


def check_same_labels(module: Module, task: Task) -> None:
    """Refuse a task whose kind, fields or labels differ from those that the module was trained for.

    Raises:
        TaskRefused: the kind, the fields or the labels differ, or the order of the labels does.

    """
    check_task(module, task.spec)
    if module.task is not None and module.task.labels != task.spec.labels:
        raise TaskRefused(
            f"{task.spec.name}: this module was trained for the labels {module.task.labels}, got {task.spec.labels}; "
            "give a task with the same labels in the same order (--labels)"
        )
