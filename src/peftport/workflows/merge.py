"""The job `merge`: fold a module into the weights of its host, and write the result as a whole model.

Weights are read, changed and written one tensor at a time; neither the host nor the result is ever in memory whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from peftport.core.errors import BadRequest, HostRefused, SlotMismatch
from peftport.core.libraries import nn, safetensors_torch, torch
from peftport.core.progress import Silent
from peftport.hosts.host import Host
from peftport.hosts.opening import open_host
from peftport.hosts.rewriting import Change, copy_host
from peftport.hosts.slots import Slot
from peftport.hosts.sources import hub_name
from peftport.hosts.weights import HostWeights, tensor_files
from peftport.modules.folders import read_module
from peftport.modules.head import is_linear
from peftport.modules.module import Module, check_all_read, check_fits
from peftport.modules.readme import README, card, card_facts
from peftport.modules.sources import module_folder
from peftport.store.artifacts import new_folder
from peftport.techniques import technique_named
from peftport.techniques.base import SHARED, Technique, TechniqueSpec
from peftport.workflows.merge_requests import MergeRequest
from peftport.workflows.named import check_names

if TYPE_CHECKING:
    from torch import Tensor

HEAD_FILE = "readout.safetensors"


@dataclass(frozen=True, eq=False)
class MergedModel:
    """A whole model with a module folded in.

    Attributes:
        host: the name of the host.
        module: the module that was folded.
        files: the names of the files of weights.
        changed: how many tensors of how many were changed.
        rounding: the norm of what rounding to the number format changed, relative to the norm of the whole update.
        readout: what the module has of a head or a linear readout, in words; it lies beside the weights in `HEAD_FILE`.

    """

    host: str
    module: Module
    files: tuple[str, ...]
    changed: int
    tensors: int
    rounding: float
    readout: str


def merge_module(request: MergeRequest) -> MergedModel:
    """Fold a module into the weights of its host.

    Raises:
        SlotMismatch: the module is of another host.
        BadRequest: the module's technique cannot be folded into weights, or two of its slots share one matrix.
        NotFinite: the new weights are beyond what the number format holds.

    """
    check_names(request)
    out, folder = Path(request.out), module_folder(request.module)
    host = open_host(str(request.host))
    module = read_module(folder, host)
    _check(module, host, folder, str(request.host))
    return _merged(module, host, folder, out, request)


def _check(module: Module, host: Host, folder: Path, ref: str) -> None:
    technique = technique_named(module.spec.kind)
    if technique.cannot_fold:
        raise BadRequest(
            f"{folder}: expected a module that can be folded into weights, such as a lora, got a {module.spec.kind}: "
            f"{technique.cannot_fold}; use it beside its host: peftport.attach({ref!r}, {str(folder)!r}) in Python, or "
            "write it for the library adapters (peftport port --format adapters)"
        )
    if not module.host.same_host(host.fingerprint):
        raise SlotMismatch(
            f"{folder}: expected a module of {host.name}, got one of {module.host.name} "
            f"({module.host.told_from(host.fingerprint)}); port it first: peftport port {folder} --to {ref} --out DIR"
        )
    check_fits(module, host, "merge")
    check_all_read(module, "merge")


def _merged(module: Module, host: Host, folder: Path, out: Path, request: MergeRequest) -> MergedModel:
    assert host.folder is not None, "an opened host has a folder"
    dtype = None if request.dtype is None else getattr(torch, request.dtype)
    lost, changes = Rounding(), {}
    for key, parts in _by_tensor(module, host).items():
        changes[key] = Fold(module, parts, dtype, lost)
    files = tensor_files(host.folder)
    advance = (request.progress or Silent()).stage(f"writing {out.name}", len(files))
    with new_folder(out) as new:
        copy_host(host.folder, new, dict[str, Change](changes), dtype, advance)
        if module.head is not None:
            safetensors_torch.save_file(
                {name: tensor.contiguous() for name, tensor in module.head.items()}, new / HEAD_FILE
            )
        merged = MergedModel(
            host.name, module, tuple(dict.fromkeys(file.name for file in files.values())), len(changes), len(files),
            lost.share, _readout(module),
        )  # fmt: skip
        (new / README).write_text(_card(merged, folder, host, str(request.host)), encoding="utf-8")
    return merged


@dataclass(frozen=True)
class FoldedPart:
    """A slot whose map a tensor is a part of: its weight, transposed where the file has it so, or its bias."""

    slot: Slot
    bias: bool
    transposed: bool


@dataclass
class Rounding:
    """Sums of squares over all changed numbers: of the update, and of what rounding changed in it."""

    update: float = 0.0
    lost: float = 0.0

    @property
    def share(self) -> float:
        """The norm of what was lost, relative to that of the update."""
        return float((self.lost / self.update) ** 0.5) if self.update else 0.0


@dataclass(frozen=True, eq=False)
class Fold:
    """The change of one tensor of the files: the matrices of a module at one or several slots, folded in float64."""

    module: Module
    parts: Sequence[FoldedPart]
    dtype: torch.dtype | None
    rounding: Rounding = field(repr=False)

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return the tensor with the module folded in, in the number format that is written."""
        technique: Technique[TechniqueSpec] = technique_named(self.module.spec.kind)
        exact = tensor.to(torch.float64, copy=True)
        for part in self.parts:
            fold = technique.folded_bias if part.bias else technique.folded
            whole = exact.T if part.transposed else exact
            rows = part.slot.rows
            own, shared = self.module.matrices[part.slot.name], self.module.matrices.get(SHARED, {})
            whole[rows] = fold(self.module.spec, part.slot, own, shared, whole[rows].clone())
        stored = exact.to(self.dtype or tensor.dtype)
        self.rounding.update += float((exact - tensor.double()).square().sum())
        self.rounding.lost += float((stored.double() - exact).square().sum())
        return stored


def _by_tensor(module: Module, host: Host) -> dict[str, list[FoldedPart]]:
    """The slots of the module by the tensor of the files that they change.

    Raises:
        BadRequest: several slots of one kind share a tensor, so that each would need it changed in its own way.
        HostRefused: the files have no single tensor for a slot.

    """
    weights, found = HostWeights(host), dict[str, list[FoldedPart]]()
    taken: dict[tuple[str, str, int], str] = {}
    for slot in technique_named(module.spec.kind).slots(module.spec, host.slots).values():
        owner = host.slot_module(slot)
        before = taken.setdefault((slot.path, slot.site, slot.start), slot.name)
        for name, parameter in owner.named_parameters(recurse=False):
            key = weights.key(f"{slot.path}.{name}")
            if key is None:
                raise HostRefused(
                    f"{host.name}: {slot.name}: expected one tensor named ...{slot.path}.{name} in the host's files, "
                    "found none or several; save the host anew with transformers, and merge with that"
                )
            if before != slot.name:
                raise BadRequest(
                    f"{host.name}: expected a matrix of its own at every slot, got {key} at both {before} and "
                    f"{slot.name}, where the module changes it differently; use the module beside its host "
                    "(peftport.attach)"
                )
            transposed = parameter.dim() == 2 and not isinstance(owner, nn.Linear)  # GPT-2's Conv1D
            found.setdefault(key, []).append(FoldedPart(slot, parameter.dim() == 1, transposed))
    return {key: parts for key, parts in found.items() if not all(part.bias for part in parts) or _has_bias(module)}


def _has_bias(module: Module) -> bool:
    """Whether the technique changes biases, as some do."""
    return type(technique_named(module.spec.kind)).folded_bias is not Technique.folded_bias


def _readout(module: Module) -> str:
    """What a module has of a head or a linear readout, in words; empty without one."""
    if module.head is None:
        return ""
    if not is_linear(module.head):
        layers = dict.fromkeys(name.rpartition(".")[0] for name in module.head)
        return f"head ({', '.join(layers)})"
    return f"linear readout for {', '.join(module.task.labels if module.task else ()) or 'a number'}"


def _card(merged: MergedModel, folder: Path, host: Host, ref: str) -> str:
    """The model card: what was folded into what, under whose license."""
    module, of_host, of_module = merged.module, card_facts(host.folder), card_facts(folder)
    trained = f" It was trained for the task {module.task.name}." if module.task else ""
    ported = "".join(f" Ported from {port.origin.name} by {port.method}." for port in module.ports)
    readout = f"`{HEAD_FILE}` has the module's {merged.readout}, which transformers does not read from there."
    return card(
        of_host,
        {"base_model": hub_name(ref), "tags": ["merged", "peftport"]},
        f"{host.name} with a {module.spec.kind} folded in",
        (
            f"These are the weights of {host.name} with a module of {module.parameters:,} parameters folded in by "
            f"peftport: {merged.changed} of {merged.tensors} tensors differ.{trained}{ported}",
            readout if merged.readout else "",
            f"License of the base model: {of_host.license}. License of the module: {of_module.license}.",
        ),
    )
