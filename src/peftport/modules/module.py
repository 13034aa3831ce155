"""The module: the trained matrices of one technique on one host, with the records of its task, training and ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer
from typing_extensions import TypeVar

from peftport.core.errors import ModuleRefused, SlotMismatch, TrainingFailed
from peftport.core.libraries import torch
from peftport.core.numbers import RawNumbers, size_of, tensor_of
from peftport.core.scale import Scale
from peftport.hosts.fingerprint import Fingerprint
from peftport.hosts.host import Host
from peftport.modules.head import HEAD_PART, is_linear, layers_on
from peftport.modules.kept import FOLDED, Kept
from peftport.modules.record import Closed as Closed
from peftport.modules.record import FileRecord
from peftport.techniques import AnySpec, technique_named
from peftport.techniques.base import SHARED, Parameters, Shapes, TechniqueSpec

if TYPE_CHECKING:
    from torch import Tensor

A = TypeVar("A", bound="Tensor | RawNumbers", default="Tensor")
B = TypeVar("B", bound="Tensor | RawNumbers", default="Tensor")
HEAD = "readout"  # the pseudo-slot of a head (modules.head)


class TaskRecord(Closed):
    """The task that a module was trained for: its name, labels and digest, and the readout.

    ``scale`` is that of the numbers of a regression, by which its head is read. Files contain ``kind``, ``fields`` and
    ``scale`` only where they differ from those of a classification of single texts, so that the files of such modules
    are the same as before these fields existed.
    """

    name: str
    labels: tuple[str, ...]
    digest: str
    readout: str
    kind: str = "classification"
    fields: tuple[str, ...] = ("text",)
    scale: Scale | None = None

    @model_serializer(mode="wrap")
    def _without_defaults(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = written(self)
        unsaid = {"kind": "classification", "fields": ("text",), "scale": None}
        return {key: value for key, value in values.items() if key not in unsaid or getattr(self, key) != unsaid[key]}


class HomeTest(Closed):
    """What a module scored at home, on the test items of its task, beside its bare host, and by how much it is better.

    ``low`` and ``high`` bound the gain at 95 % over items. Higher is better in ``gain``, whatever the metric.
    """

    metric: str
    items: int
    bare: float
    score: float
    gain: float
    low: float
    high: float


class TrainingRecord(Closed):
    """How a module was trained. Together with the host and the task, this record reproduces the training.

    ``home`` is what it scored at home, where that was tested; files of modules that were not tested lack it, as those
    of modules that were trained without a norm penalty and on an undisturbed host lack these settings.
    """

    seed: int
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    max_grad_norm: float
    max_tokens: int
    final_loss: float | None = None
    home: HomeTest | None = None
    norm_penalty: float = 0.0
    drop_ffn: float = 0.0
    mask_ffn: float = 0.0

    @model_serializer(mode="wrap")
    def _without_what_is_not(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = written(self)
        later = ("home", "norm_penalty", "drop_ffn", "mask_ffn")
        return {key: value for key, value in values.items() if key not in later or value}


class PortRecord(Closed):
    """One port: the method, the host that the module came from, the settings, and what was done at each slot."""

    method: str
    origin: Fingerprint
    receiver: Fingerprint
    settings: dict[str, str | int | float | bool] = {}
    slots: dict[str, str] = {}


@dataclass(frozen=True, eq=False)
class Module(Generic[A]):
    """The matrices of one technique on one host, ``matrices[slot][name]``, without the stacking dimension K.

    They are tensors of torch's or, where torch is not needed, `RawNumbers` as they lie in a file.

    Besides slots there are the pseudo-slots ``shared`` (Compacter's rule) and ``readout`` (a head). ``file`` records
    what another library's file contained that the matrices do not show, so that it can be written back. ``unscaled``
    holds the B of the file at slots where its scale was multiplied into the B here and cannot be divided out exactly.
    ``kept`` is the PEFT file of a module that is more than a plain LoRA, which the matrices here stand for on its host.
    """

    spec: TechniqueSpec
    host: Fingerprint
    matrices: dict[str, dict[str, A]]
    task: TaskRecord | None = None
    training: TrainingRecord | None = None
    ports: tuple[PortRecord, ...] = ()
    file: FileRecord | None = None
    unscaled: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Kept | None = None

    @property
    def parameters(self) -> int:
        """The total number of parameters in the module."""
        return sum(size_of(array) for matrices in self.matrices.values() for array in matrices.values())

    @property
    def head(self) -> dict[str, A] | None:
        """The tensors of the module's head by name (modules.head), or None if it has none."""
        return self.matrices.get(HEAD)

    def with_matrices(self, matrices: dict[str, dict[str, B]], **changes: Any) -> Module[B]:
        """Return a copy of the module with other matrices, and with ``changes`` to its other fields."""
        return replace(self, matrices=matrices, **changes)  # type: ignore[arg-type, return-value]


def holds_numbers(module: Module[Any]) -> bool:
    """Return whether the matrices of a module are `RawNumbers`."""
    return any(isinstance(array, RawNumbers) for named in module.matrices.values() for array in named.values())


def as_tensors(module: Module[Any]) -> Module:
    """Return a module whose matrices are tensors, the module itself where they are."""
    if not holds_numbers(module):
        return module
    return module.with_matrices(
        {slot: {name: tensor_of(array) for name, array in named.items()} for slot, named in module.matrices.items()}
    )


def fresh_module(host: Host, spec: TechniqueSpec, seed: int) -> Module:
    """Return an untrained module, initialised from the seed."""
    technique = technique_named(spec.kind)
    slots = technique.slots(spec, host.slots)
    start = technique.start(spec, slots, seed)
    return Module(spec, host.fingerprint, unstack(technique.materialise(spec, slots, stack([start])), 0))


def stack(modules: list[Parameters], dtype: torch.dtype | None = None) -> Parameters:
    """Stack the matrices of K modules with equal slots and shapes: every tensor becomes (K, ...)."""
    first = modules[0]
    return {
        slot: {name: torch.stack([m[slot][name].to(dtype) for m in modules]) for name in named}
        for slot, named in first.items()
    }


def in_host_dtype(host: Host, matrices: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Cast matrices to the dtype and device of the host; those of a readout keep their dtype."""
    return {
        slot: {name: t.to(host.device, t.dtype if slot == HEAD else host.dtype) for name, t in named.items()}
        for slot, named in matrices.items()
    }


def without_parts(module: Module[A], names: tuple[str, ...], where: object) -> Module[A]:
    """Return a module without the parts of these names, of which ``head`` is the only one that there may be.

    Raises:
        ModuleRefused: the module has no such part.

    """
    for name in names:
        if name != HEAD_PART or module.head is None:
            has = HEAD_PART if module.head is not None else "nothing that could be left out"
            raise ModuleRefused(f"{where}: --leave-out {name}: expected {has}; leave that name out")
    if not names:
        return module
    return module.with_matrices({slot: own for slot, own in module.matrices.items() if slot != HEAD}, task=None)


def unfolded(module: Module[A]) -> Module[A]:
    """Return a module whose history does not say that its file was folded, as that file is written as it was."""
    return replace(module, ports=tuple(port for port in module.ports if not port.method.startswith(FOLDED)))


def fold_remarks(module: Module[Any]) -> tuple[str, ...]:
    """Return what to tell users of the folding of a file, in a line."""
    return tuple(
        f"{module.host.name}: {port.method} into a LoRA of rank {port.settings['rank']}; the largest error at a linear "
        f"map is {port.settings['largest_error']:.2%} of its update"
        for port in module.ports
        if port.method.startswith(FOLDED)
    )


def check_all_read(module: Module[Any], what: str) -> None:
    """Refuse a module that changes weights which its matrices do not have.

    Raises:
        ModuleRefused: it does.

    """
    outside = module.kept.outside_modules if module.kept is not None else ()
    if outside:
        raise ModuleRefused(
            f"{what}: expected a module on the linear maps of the layers, the one from {module.host.name} changes "
            f"{', '.join(outside[:3])}{' and others' if len(outside) > 3 else ''} too; leave them out "
            f"(--leave-out {','.join(name.rpartition('.')[2] for name in outside[:3])}), or port it by `copy`"
        )


def unstack(matrices: Mapping[str, Mapping[str, Tensor]], entry: int) -> Parameters:
    """Take the matrices of one entry out of a stack, as detached copies in float32."""
    return {
        slot: {name: tensor[entry].detach().to("cpu", torch.float32).clone() for name, tensor in named.items()}
        for slot, named in matrices.items()
    }


def check_finite(matrices: Parameters, where: str) -> None:
    """Refuse matrices that contain NaN or infinity.

    Raises:
        TrainingFailed: a matrix is not finite.

    """
    for slot, named in matrices.items():
        for name, tensor in named.items():
            if not bool(torch.isfinite(tensor).all()):
                raise TrainingFailed(f"{where}: {slot}.{name} is no longer finite; lower the learning rate")


def check_fits(module: Module[Any], host: Host, method: str = "copy") -> None:
    """Refuse a module whose slots or shapes differ from those of the host.

    Raises:
        SlotMismatch: the family, depth or width differs, or the matrices are not those of the technique; the message
            names the first slot that differs.

    """
    technique = technique_named(module.spec.kind)
    slots = technique.slots(module.spec, host.slots)
    for name, slot in slots.items():
        if name not in module.matrices or module.host.family != host.layout.family:
            has = "is of another family" if name in module.matrices else "has nothing there"
            raise SlotMismatch(
                f"{name}: {host.name} has this slot, the {technique.name} from {module.host.name} {has} "
                f"(its host has {module.host.layers} layers, family {module.host.family}; {host.name} has "
                f"{host.fingerprint.layers}, family {host.layout.family}); `{method}` needs equal slots"
            )
        _check_shapes(module, host, name, technique.shapes(module.spec, slot), method)
    _check_shapes(module, host, SHARED, technique.shared_shapes(module.spec), method)
    if module.head is not None:
        _check_shapes(module, host, HEAD, _head_shapes(module, module.head, host, method), method)
    extra = [name for name in module.matrices if name not in slots and name not in (SHARED, HEAD)]
    if extra:
        raise SlotMismatch(
            f"{extra[0]}: the {technique.name} from {module.host.name} has this slot, {host.name} has not "
            f"({len(extra)} such slots); `{method}` needs equal slots"
        )


def _head_shapes(module: Module[Any], head: Mapping[str, Any], host: Host, method: str) -> Shapes:
    if not is_linear(head):
        return layers_on(host, head, module.file, method).shapes
    labels = module.task.labels if module.task else ()
    outputs = len(labels) or (size_of(head["bias"]) if "bias" in head else 1)
    return {"weight": (outputs, host.width), "bias": (outputs,)}


def _check_shapes(module: Module[Any], host: Host, slot: str, shapes: Shapes, method: str) -> None:
    matrices, kind = module.matrices.get(slot, {}), module.spec.kind
    if matrices.keys() != shapes.keys():
        raise SlotMismatch(
            f"{slot}: expected the matrices {', '.join(shapes) or '(none)'} of {kind}, the module from "
            f"{module.host.name} for {host.name} has {', '.join(matrices) or '(none)'} there; train or save it again"
        )
    for matrix, shape in shapes.items():
        actual = tuple(matrices[matrix].shape)
        if actual != tuple(shape):
            raise SlotMismatch(
                f"{slot}: this {kind}'s {matrix} is {actual} (host {module.host.name}, width {module.host.width}), "
                f"{host.name} (width {host.width}) takes {tuple(shape)} there; `{method}` needs equal widths; "
                "peftport methods lists those that do not"
            )


class ModuleCard(Closed):
    """The content of ``module.json``: everything about a module except its matrices."""

    format: Literal["peftport-module"] = "peftport-module"
    version: Literal[1] = 1
    technique: AnySpec
    host: Fingerprint
    task: TaskRecord | None = None
    training: TrainingRecord | None = None
    ports: tuple[PortRecord, ...] = ()
    file: FileRecord | None = None
    tensors: dict[str, tuple[int, ...]]
    sha256: str
