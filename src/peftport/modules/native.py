"""The native files: a folder with ``module.safetensors`` (``slot/matrix`` -> tensor) and ``module.json`` (the card)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as safetensors_load
from safetensors.torch import save as safetensors_save
from torch import Tensor, isfinite

from peftport.errors import ModuleRefused
from peftport.modules.module import Module, ModuleCard
from peftport.techniques.base import Parameters

CARD, TENSORS = "module.json", "module.safetensors"
NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def write_native(module: Module, folder: Path) -> None:
    """Write the two files into an existing folder. Equal modules give equal bytes."""
    flat = {f"{slot}/{name}": t.contiguous() for slot, own in module.matrices.items() for name, t in own.items()}
    flat = dict(sorted(flat.items()))
    raw = safetensors_save(flat)
    card = ModuleCard(
        technique=module.spec,
        host=module.host,
        task=module.task,
        training=module.training,
        ports=module.ports,
        tensors={name: tuple(tensor.shape) for name, tensor in flat.items()},
        sha256=hashlib.sha256(raw).hexdigest(),
    )
    (folder / TENSORS).write_bytes(raw)
    (folder / CARD).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_native(folder: Path) -> Module:
    """Read a module folder.

    Raises:
        ModuleRefused: a file is missing, truncated, altered, or says something this version does not know.

    """
    card = _read_card(folder / CARD)
    flat = read_tensors(folder / TENSORS)
    missing, extra = sorted(card.tensors.keys() - flat.keys()), sorted(flat.keys() - card.tensors.keys())
    if missing:
        raise ModuleRefused(
            f"{folder / TENSORS}: expected the tensor {missing[0]} that {CARD} lists, found none; save it again"
        )
    if extra:
        raise ModuleRefused(f"{folder / TENSORS}: tensor {extra[0]} is not listed in {CARD}; save the module again")
    for name, shape in card.tensors.items():
        if tuple(flat[name].shape) != shape:
            raise ModuleRefused(
                f"{folder / TENSORS}: {name}: expected shape {shape} as in {CARD}, "
                f"got {tuple(flat[name].shape)}; save it again"
            )
    if hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest() != card.sha256:
        raise ModuleRefused(
            f"{folder / TENSORS}: expected the bytes whose sha256 {CARD} records, got others; save it again"
        )
    matrices: Parameters = {}
    for name, tensor in flat.items():
        slot, slash, matrix = name.rpartition("/")
        if not slash:
            raise ModuleRefused(f"{folder / TENSORS}: expected tensors named slot/matrix, got {name}; save it again")
        matrices.setdefault(slot, {})[matrix] = tensor
    return Module(card.technique, card.host, matrices, card.task, card.training, card.ports)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, by name in alphabetical order.

    Raises:
        ModuleRefused: missing, truncated, corrupt, or with a NaN or infinite number in it.

    """
    if not path.is_file():
        raise ModuleRefused(f"{path.parent}: expected {path.name}, found none; give a module folder")
    try:
        flat = safetensors_load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModuleRefused(
            f"{path}: expected a whole safetensors file, got one truncated or corrupt ({error}); save it again"
        ) from error
    for name, tensor in flat.items():
        if tensor.dtype not in NUMBERS:
            got = str(tensor.dtype).removeprefix("torch.")
            raise ModuleRefused(f"{path}: {name}: expected floating-point numbers, got {got}; save it again")
        if not bool(isfinite(tensor).all()):
            raise ModuleRefused(f"{path}: {name}: expected finite numbers, got NaN or infinity; train it again")
    return dict(sorted(flat.items()))  # safetensors gives them in another order every time


def _read_card(path: Path) -> ModuleCard:
    try:
        return ModuleCard.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModuleRefused(
            f"{path}: {where}: {first['msg']}; expected what this version of peftport writes"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModuleRefused(f"{path}: expected a readable module card, got: {error}; save the module again") from error
