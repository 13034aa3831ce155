"""Read the frozen matrices of a host one at a time, from its memory-mapped files or from memory.

They are read from the files if the host is only opened, computes in fewer bits than 32, or is on an accelerator or
several devices.
Nothing is kept, so a method that reads weights needs memory for the largest matrix only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from peftport.core.errors import HostRefused
from peftport.core.libraries import nn, torch
from peftport.hosts.fingerprint import weight_files
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.core_model_loading import WeightConverter


WIDE = 4  # bytes of a number that was not rounded as it was loaded


@dataclass(frozen=True)
class Stored:
    """Where a tensor of a model lies: the file, and its name there (or the names of those that it is made of)."""

    file: Path
    keys: tuple[str, ...]


class HostWeights:
    """The frozen matrices of a host, which may be loaded or only opened. They are returned on the processor."""

    def __init__(self, host: Host) -> None:
        """Index the host's files where its tensors are not in memory.

        Raises:
            HostRefused: they are not in memory, and the host was not loaded from a folder.

        """
        self.host = host
        here = all(p.is_floating_point() and p.device.type == "cpu" for p in host.base.parameters())
        whole = here and (host.folder is None or all(p.itemsize >= WIDE for p in host.base.parameters()))
        if not here and host.folder is None:
            raise HostRefused(
                f"{host.name}: expected weights as numbers on the processor or a folder to read them from, this model "
                "has neither; load it without bits, on the processor"
            )
        self._files = {} if whole or host.folder is None else stored_tensors(host.folder, host.model)

    def matrix(self, slot: Slot) -> Tensor:
        """Return the matrix (D_out, D_in) of a linear slot, in float32 or wider."""
        module = self.host.slot_module(slot)
        stored: type = getattr(module, "source_cls", type(module))  # for quantised layers, the class that they replace
        weight = self.tensor(f"{slot.path}.weight")
        full = weight if issubclass(stored, nn.Linear) else weight.T
        return full[slot.rows]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor in the files, by its name below the base model; None if it has none there."""
        stored = self._find(name)
        if stored is None or len(stored.keys) > 1:
            return None
        with safe_open(stored.file, framework="pt") as tensors:
            return tuple(tensors.get_slice(stored.keys[0]).get_shape())

    def unknown(self, known: set[str]) -> list[str]:
        """List the tensors in the files that match none of these names below the base model."""
        return [name for name in self._files if not any(part in known for part in endings(name))]

    def key(self, name: str) -> str | None:
        """Return the name that a parameter below the base model has in the files; None if they have none or several."""
        stored = self._find(name)
        return stored.keys[0] if stored is not None and len(stored.keys) == 1 else None

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
            own = self.host.base.get_parameter(name).detach()
            return own if own.dtype == torch.float64 else own.float()
        stored = self._find(name)
        if stored is None or len(stored.keys) > 1:
            raise HostRefused(
                f"{self.host.name}: expected one tensor named ...{name} in its safetensors files, "
                "found none or several; fetch the host again"
            )
        with safe_open(stored.file, framework="pt") as tensors:
            found: Tensor = tensors.get_tensor(stored.keys[0])
        return found.float()

    def _find(self, name: str) -> Stored | None:
        if name in self._files:
            return self._files[name]
        names = [key for key in self._files if key.endswith(f".{name}")]
        return self._files[names[0]] if len(names) == 1 else None


def endings(name: str) -> list[str]:
    """List a dotted name and its endings: ``a.b.c`` gives ``a.b.c``, ``b.c`` and ``c``."""
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def stored_tensors(folder: Path, model: nn.Module) -> dict[str, Stored]:
    """Return where every tensor of a host lies, by the name that transformers gives it in the model today.

    Files have other names where transformers changed those of a model type, and experts one by one where the model has
    them in one tensor.
    """
    # Imported here: a study's driver does without.
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if not isinstance(each, WeightConverter)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    index: dict[str, Stored] = {}
    for key, file in tensor_files(folder).items():
        name, merged = rename_source_key(key, renamings, converters)
        for each in _targets(name, merged, converters):
            before = index[each].keys if each in index else ()
            index[each] = Stored(file, (*before, key))
    return index


def tensor_files(folder: Path) -> dict[str, Path]:
    """Return the file of every tensor of a host, by the tensor's name there."""
    index: dict[str, Path] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="np") as tensors:
            index |= dict.fromkeys(tensors.keys(), file)
    return index


def tensor_names(folder: Path) -> list[list[str]]:
    """The tensors of each file of a host, by the names of both."""
    return sorted([file.name, name] for name, file in tensor_files(folder).items())


def _targets(name: str, merged: str | None, converters: list[WeightConverter]) -> list[str]:
    """The names of all tensors that a converted one is a part of; transformers names only the first."""
    if merged is None:
        return [name]
    [made] = [each.target_patterns for each in converters if merged in each.source_patterns][:1]
    first, *others = made
    return [name, *(name.replace(first, other) for other in others)]
