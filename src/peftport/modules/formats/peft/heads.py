"""Read and write the head that PEFT saves with a LoRA: whole layers of the trained model, its ``modules_to_save``.

What the file has not of a head is the host's own, as BERT's pooler, which PEFT leaves frozen: the layer behind reads
what it gives, so both travel together. A layer that is in neither was drawn at random before the training and is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftport.core.errors import ModuleRefused, SlotMismatch
from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.hosts.task_head import HeadKind, host_tensor, rows_of, task_head
from peftport.modules.formats.peft.config import read_object
from peftport.modules.formats.peft.names import HEADS, whole_weight
from peftport.modules.formats.tensors import printable
from peftport.modules.head import OF_TASK_TYPE, is_linear, kind_in, kind_of_head, kind_of_task_type
from peftport.modules.module import Module
from peftport.modules.record import FileRecord

if TYPE_CHECKING:
    from torch import Tensor

SAVE = "save it with PEFT's modules_to_save"


def head_in(
    flat: Mapping[str, Tensor], said: Mapping[str, Any], host: Host, where: Path, *, others: bool = False
) -> dict[str, Tensor] | None:
    """Return the whole head in the order of its layers, in float32; None for a file without one.

    ``others``: whether whole weights of other modules are the caller's to deal with; else they are refused.

    Raises:
        ModuleRefused: a part of the head is neither in the file nor in the host, or a tensor is none of a head.
        SlotMismatch: a tensor has the wrong shape for this host.

    """
    saved = whole_weights(flat)
    if not saved:
        if kind_of_task_type(said.get("task_type")) and said.get("modules_to_save"):
            raise ModuleRefused(
                f"{where}: expected the head that task_type {said['task_type']} trains, found none; {SAVE}, or set "
                "task_type and modules_to_save to null to port the rest"
            )
        return None
    kind = kind_in(said)
    outputs = rows_of(saved, host, kind)
    layers = task_head(host, kind, outputs or 2)
    if others and outputs is None:
        return None
    for name in saved:
        if name not in layers.shapes and not others:
            raise ModuleRefused(
                f"{where}: {printable(name)}: expected LoRAs and the layers of a head ({', '.join(layers.layers)}), "
                "got a whole weight of another module, which would be lost; to port the rest, leave it out "
                f"(--leave-out {printable(name.rpartition('.')[0])})"
            )
    head: dict[str, Tensor] = {}
    for name, shape in layers.shapes.items():
        tensor = saved[name].to(torch.float32) if name in saved else host_tensor(host, name, layers.prefix)
        if tensor is None:
            module = name.rpartition(".")[0]
            raise ModuleRefused(
                f"{where}: expected the whole head ({', '.join(layers.layers)}), got one without {printable(name)}, "
                f"which {host.name} has not either: it was drawn at random before the training and is lost; train it "
                f"again with modules_to_save that names {module.split('.')[-2 if layers.in_body(name) else 0]!r}, or "
                "leave the head out (--leave-out head)"
            )
        if tuple(tensor.shape) != shape:
            raise SlotMismatch(
                f"{where}: {printable(name)} is {tuple(tensor.shape)}, {host.name} takes {shape} there; give the host "
                "it was trained on (--from)"
            )
        head[name] = tensor
    return head


def saved_kind(config: Path) -> HeadKind | None:
    """Return what the head that a configuration says is saved gives outputs for; None where it says none is."""
    said = read_object(config, "a PEFT configuration")
    saved = _names(said.get("modules_to_save"))
    return kind_in(said) if any(name.split(".")[-1] in HEADS - {"lm_head"} for name in saved) else None


def whole_weights(flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the whole weights of modules in a file, by their names in the trained model.

    Copies of what a module was before the training (``original_module``) are left out where the trained one is there.
    """
    found = {key: whole_weight(key) for key in flat}
    trained = {own.name: flat[key] for key, own in found.items() if own is not None and not own.before}
    before = {own.name: flat[key] for key, own in found.items() if own is not None and own.before}
    return {**before, **trained}


def written_head(module: Module, host: Host) -> dict[str, Tensor]:
    """Return the tensors of a module's head that its file needs: those that the host itself has are left out."""
    head = module.head
    if head is None or is_linear(head):
        return {}
    kind = kind_of_head(module.file)
    layers = task_head(host, kind, rows_of(head, host, kind) or 2)

    def is_own(name: str, tensor: Tensor) -> bool:
        own = host_tensor(host, name, layers.prefix) if layers.in_body(name) else None
        return own is not None and torch.equal(own, tensor.float())

    return {name: tensor for name, tensor in head.items() if not is_own(name, tensor)}


def settings_with_head(config: dict[str, Any], names: list[str], file: FileRecord | None) -> dict[str, Any]:
    """Return the settings of a PEFT configuration by which PEFT reads these tensors of a head."""
    kept = _names(config.get("modules_to_save"))
    missing = {_saved_module(name) for name in names if not any(_saves(own, name) for own in kept)}
    task_type = config.get("task_type")
    if file is None or kind_of_task_type(task_type) is None:
        mapped = {kind: name for name, kind in OF_TASK_TYPE.items()}
        task_type = mapped[kind_of_head(file)] if not config.get("auto_mapping") else task_type
    return {"modules_to_save": [*kept, *sorted(missing)], "task_type": task_type}


def _names(value: object) -> list[str]:
    """Return the names in a setting that should be a list of names, or one of them."""
    listed = value if isinstance(value, list) else [value]
    return [each for each in listed if isinstance(each, str)]


def _saves(module: str, name: str) -> bool:
    """Return whether PEFT saves a tensor with modules whose names end like this."""
    parts = name.split(".")
    return any(".".join(parts[:end]).endswith(module) for end in range(1, len(parts)))


def _saved_module(name: str) -> str:
    """Return the name by which PEFT saves the layer of a tensor: ``pooler`` of a body, or the whole layer of a head."""
    parts = name.split(".")
    return "pooler" if "pooler" in parts else parts[0]
