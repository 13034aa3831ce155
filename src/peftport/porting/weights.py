"""A host opened for its weights alone: its slots from a model without storage, its tensors from disk one at a time.

`open_host` builds the model on the meta device, so a host of any size costs the memory of its names. What comes back
is a `Host` whose slots, widths and fingerprint are those of the loaded one; it cannot run. `HostWeights` reads a slot's
matrix from the memory-mapped safetensors files, or from memory where the host is loaded, and keeps nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn

from peftport.errors import HostRefused
from peftport.hosts.fingerprint import fingerprint, weight_files
from peftport.hosts.load import AUTO, Host, check_all_layers_used, load_tokenizer, wrap_host
from peftport.hosts.slots import Slot, layout_for
from peftport.hosts.sources import find_host, read_config


def open_host(ref: str) -> Host:
    """Open a host without loading it: for methods that need no activations.

    Raises:
        UnknownName: no such host.
        HostRefused: broken, unsafe, or of no known family.

    """
    source = find_host(ref)
    config = read_config(source.folder)
    layout = layout_for(config["model_type"], source.name)
    try:
        mark = fingerprint(source.folder, source.name, layout.family)
        settings = transformers.AutoConfig.from_pretrained(source.folder, local_files_only=True)
        with torch.device("meta"):
            model = getattr(transformers, AUTO[layout.kind, "body"]).from_config(settings)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise HostRefused(
            f"{source.name}: expected config.json and an index of weights as transformers writes them, "
            f"got: {first}; fetch the host again"
        ) from error
    tokenizer, prefix = load_tokenizer(source), config.get("peftport_text_prefix", "")
    host = wrap_host(source.name, model, tokenizer, layout, mark, source.folder, prefix)
    _check_tensors(host, HostWeights(host))
    return host


def _check_tensors(host: Host, weights: HostWeights) -> None:
    """Refuse files that lack a slot's matrix, hold layers config.json does not know, or shapes it does not say."""
    check_all_layers_used(host.name, host.layout, weights.unknown(set(host.base.state_dict())))
    shapes = {name: tuple(p.shape) for name, p in host.base.named_parameters()}
    needed = {f"{slot.path}.weight" for slot in host.slots.values() if slot.kind == "linear"}
    missing = sorted(name for name in needed if weights.shape(name) is None)
    if missing:
        raise HostRefused(
            f"{host.name}: expected all weights, {len(missing)} tensors are missing (first: {missing[0]}); "
            "fetch the host again"
        )
    for name, expected in shapes.items():
        got = weights.shape(name)
        if got not in (None, expected):
            raise HostRefused(
                f"{host.name}: {name}: expected shape {expected} by config.json, got {got}; fetch the host again"
            )


class HostWeights:
    """The frozen matrices of a host, loaded or only opened."""

    def __init__(self, host: Host) -> None:
        """Index the host's files where its tensors are not in memory."""
        self.host = host
        on_disk = host.device.type == "meta" and host.folder is not None
        self._files = _index(host.folder) if on_disk and host.folder else {}

    def matrix(self, slot: Slot) -> Tensor:
        """A linear slot's matrix (D_out, D_in), float32 or wider."""
        module = self.host.slot_module(slot)
        weight = self.tensor(f"{slot.path}.weight")
        full = weight if isinstance(module, nn.Linear) else weight.T
        return full[slot.start : slot.start + slot.out_width]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor in the files, by its name below the base model; None if it is not there."""
        key = self._find(name)
        if key is None:
            return None
        with safe_open(self._files[key], framework="pt") as tensors:
            return tuple(tensors.get_slice(key).get_shape())

    def unknown(self, known: set[str]) -> list[str]:
        """Tensors in the files that stand for none of these names below the base model."""
        modern = {key: re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", key)) for key in self._files}
        return [key for key, name in modern.items() if not any(part in known for part in _endings(name))]

    def embeddings(self) -> Tensor:
        """The input embeddings (V, D)."""
        wanted = self.host.model.get_input_embeddings().weight  # type: ignore[operator]
        names = [name for name, p in self.host.base.named_parameters(remove_duplicate=False) if p is wanted]
        for name in names[:-1]:
            if not self._files or self._find(name) is not None:
                return self.tensor(name)
        return self.tensor(names[-1])

    def tensor(self, name: str) -> Tensor:
        """A parameter by its name below the base model.

        Raises:
            HostRefused: the files have none of that name, or several.

        """
        if not self._files:
            own = self.host.base.get_parameter(name).detach()
            return own if own.dtype == torch.float64 else own.float()
        key = self._find(name)
        if key is None:
            raise HostRefused(
                f"{self.host.name}: expected one tensor named ...{name} in its safetensors files, "
                "found none or several; fetch the host again"
            )
        with safe_open(self._files[key], framework="pt") as tensors:
            found: Tensor = tensors.get_tensor(key)
        return found.float()

    def _find(self, name: str) -> str | None:
        if name in self._files:
            return name
        keys = [key for key in self._files if key.endswith(f".{name}")]
        return keys[0] if len(keys) == 1 else None


def _endings(name: str) -> list[str]:
    """``a.b.c`` -> ``a.b.c``, ``b.c``, ``c``."""
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def _index(folder: Path) -> dict[str, Path]:
    """Tensor name -> file."""
    index: dict[str, Path] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            index |= dict.fromkeys(tensors.keys(), file)
    return index
