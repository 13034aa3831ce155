"""The tensors of a PEFT folder: in one safetensors file, or in several with an index of which is where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peftport.core.errors import ModuleRefused
from peftport.modules.formats.peft.config import read_object
from peftport.modules.formats.peft.names import empty_tensor
from peftport.modules.formats.tensors import printable, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, TENSORS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
INDEX = f"{TENSORS}.index.json"


def tensors_in(folder: Path) -> dict[str, Tensor]:
    """Read every tensor of a PEFT folder.

    Raises:
        ModuleRefused: the weights are pickled, or a file is missing, broken or has a tensor without numbers.

    """
    if (folder / TENSORS).is_file() or not (folder / INDEX).is_file():
        if not (folder / TENSORS).is_file() and (folder / PICKLED).is_file():
            raise ModuleRefused(
                f"{folder / PICKLED}: expected {TENSORS}, got pickled weights, which are never loaded; save as "
                "safetensors"
            )
        flat = read_tensors(folder / TENSORS)
    else:
        flat = _sharded(folder)
    for key, tensor in flat.items():
        if not tensor.numel():
            raise empty_tensor(folder / TENSORS, key)
    return flat


def _sharded(folder: Path) -> dict[str, Tensor]:
    found = read_object(folder / INDEX, "an index of tensors").get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise ModuleRefused(f"{folder / INDEX}: expected a weight_map of tensors to files; save the adapter again")
    flat: dict[str, Tensor] = {}
    for file in sorted(set(found.values())):
        if Path(file).name != file:
            raise ModuleRefused(
                f"{folder / INDEX}: expected file names inside the folder, got {printable(file)}; refused for safety"
            )
        flat |= read_tensors(folder / file)
    if flat.keys() != found.keys():
        first = sorted(flat.keys() ^ found.keys())[0]
        raise ModuleRefused(
            f"{folder / INDEX}: expected the tensors that it lists, {printable(first)} is in only one of the index and "
            "the files; save the adapter again"
        )
    return dict(sorted(flat.items()))
