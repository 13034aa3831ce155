"""Read the frozen matrices of a host one at a time, from its memory-mapped files or from memory.

They are read from the files if the host is only opened, is in 8 or 4 bits, or is on an accelerator or several devices.
Nothing is kept, so a method that reads weights needs memory for the largest matrix only.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from peftport.core.errors import HostRefused
from peftport.hosts.fingerprint import weight_files
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot


class HostWeights:
    """The frozen matrices of a host, which may be loaded or only opened. They are returned on the processor."""

    def __init__(self, host: Host) -> None:
        """Index the host's files where its tensors are not in memory.

        Raises:
            HostRefused: they are not in memory, and the host was not loaded from a folder.

        """
        self.host = host
        whole = all(p.is_floating_point() and p.device.type == "cpu" for p in host.base.parameters())
        if not whole and host.folder is None:
            raise HostRefused(
                f"{host.name}: expected weights as numbers on the processor or a folder to read them from, this model "
                "has neither; load it without bits, on the processor"
            )
        self._files = {} if whole or host.folder is None else tensor_files(host.folder)

    def matrix(self, slot: Slot) -> Tensor:
        """Return the matrix (D_out, D_in) of a linear slot, in float32 or wider."""
        module = self.host.slot_module(slot)
        stored: type = getattr(module, "source_cls", type(module))  # for quantised layers, the class that they replace
        weight = self.tensor(f"{slot.path}.weight")
        full = weight if issubclass(stored, nn.Linear) else weight.T
        return full[slot.start : slot.start + slot.out_width]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor in the files, by its name below the base model; None if it is missing."""
        key = self._find(name)
        if key is None:
            return None
        with safe_open(self._files[key], framework="pt") as tensors:
            return tuple(tensors.get_slice(key).get_shape())

    def unknown(self, known: set[str]) -> list[str]:
        """List the tensors in the files that match none of these names below the base model."""
        return [key for key in self._files if not any(part in known for part in endings(modern(key)))]

    def key(self, name: str) -> str | None:
        """Return the name that a parameter below the base model has in the files; None if they have none or several."""
        return self._find(name)

    def embeddings(self) -> Tensor:
        """Return the input embeddings (V, D)."""
        wanted = self.host.model.get_input_embeddings().weight  # type: ignore[operator]
        names = [name for name, p in self.host.base.named_parameters(remove_duplicate=False) if p is wanted]
        for name in names[:-1]:
            if not self._files or self._find(name) is not None:
                return self.tensor(name)
        return self.tensor(names[-1])

    def tensor(self, name: str) -> Tensor:
        """Return a parameter by its name below the base model.

        Raises:
            HostRefused: the files have no tensor of that name, or several.

        """
        if not self._files:
            parameter = self.host.base.get_parameter(name).detach()
            return parameter if parameter.dtype == torch.float64 else parameter.float()
        key = self._find(name)
        if key is None:
            raise HostRefused(
                f"{self.host.name}: expected one tensor named ...{name} in its safetensors files, "
                "found none or several; fetch the host again"
            )
        with safe_open(self._files[key], framework="pt") as tensors:
            tensor: Tensor = tensors.get_tensor(key)
        return tensor.float()

    def _find(self, name: str) -> str | None:
        if name in self._files:
            return name
        keys = [key for key in self._files if key.endswith(f".{name}")]
        return keys[0] if len(keys) == 1 else None


def modern(key: str) -> str:
    """Convert a tensor's name in a file to the name that transformers uses today."""
    return re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", key))


def endings(name: str) -> list[str]:
    """List a dotted name and its endings: ``a.b.c`` gives ``a.b.c``, ``b.c`` and ``c``."""
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def tensor_files(folder: Path) -> dict[str, Path]:
    """Return the file of every tensor of a host, by the tensor's name."""
    index: dict[str, Path] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            index |= dict.fromkeys(tensors.keys(), file)
    return index
