"""The native format: a folder with ``module.safetensors`` (``slot/matrix`` -> tensor) and ``module.json`` (card)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from peftport.core.errors import ModuleRefused
from peftport.core.numbers import RawNumbers, serialized
from peftport.modules.formats.tensors import one_line, parse_numbers, printable, read_bytes, read_text
from peftport.modules.module import Module, ModuleCard, as_tensors

CARD, TENSORS = "module.json", "module.safetensors"


def write_native(module: Module[Any], folder: Path) -> None:
    """Write the two files into an existing folder. Equal modules give equal bytes."""
    flat = {f"{slot}/{name}": t for slot, named in module.matrices.items() for name, t in named.items()}
    flat = dict(sorted(flat.items()))
    raw = serialized(flat)
    card = ModuleCard(
        technique=module.spec,
        host=module.host,
        task=module.task,
        training=module.training,
        ports=module.ports,
        file=module.file,
        tensors={name: tuple(tensor.shape) for name, tensor in flat.items()},
        sha256=hashlib.sha256(raw).hexdigest(),
    )
    (folder / TENSORS).write_bytes(raw)
    absent = {"file"} if module.file is None else None  # keeps the cards of modules trained here as they were
    (folder / CARD).write_text(card.model_dump_json(indent=2, exclude=absent) + "\n", encoding="utf-8")


def read_native(folder: Path) -> Module:
    """Read a module from a folder in the native format, its matrices as tensors.

    Raises:
        ModuleRefused: as `read_numbers`.

    """
    return as_tensors(read_numbers(folder))


def read_numbers(folder: Path) -> Module[RawNumbers]:
    """Read a module from a folder in the native format, its matrices as they lie in the file; torch is not needed.

    Raises:
        ModuleRefused: a file is missing, truncated or altered, or contains something that this version does not know.

    """
    card = _read_card(folder / CARD)
    raw = read_bytes(folder / TENSORS)
    flat = parse_numbers(raw, folder / TENSORS)
    missing, extra = sorted(card.tensors.keys() - flat.keys()), sorted(flat.keys() - card.tensors.keys())
    if missing:
        raise ModuleRefused(
            f"{folder / TENSORS}: expected the tensor {printable(missing[0])} that {CARD} lists, found none; "
            "save it again"
        )
    if extra:
        raise ModuleRefused(
            f"{folder / TENSORS}: tensor {printable(extra[0])} is not listed in {CARD}; save the module again"
        )
    for name, shape in card.tensors.items():
        if tuple(flat[name].shape) != shape:
            raise ModuleRefused(
                f"{folder / TENSORS}: {printable(name)}: expected shape {shape} as in {CARD}, "
                f"got {tuple(flat[name].shape)}; save it again"
            )
    if hashlib.sha256(raw).hexdigest() != card.sha256:
        raise ModuleRefused(
            f"{folder / TENSORS}: expected the bytes whose sha256 {CARD} records, got others; save it again"
        )
    matrices: dict[str, dict[str, RawNumbers]] = {}
    for name, tensor in flat.items():
        slot, slash, matrix = name.rpartition("/")
        if not slash:
            raise ModuleRefused(
                f"{folder / TENSORS}: expected tensors named slot/matrix, got {printable(name)}; save it again"
            )
        matrices.setdefault(slot, {})[matrix] = tensor
    return Module(card.technique, card.host, matrices, card.task, card.training, card.ports, card.file)


def _read_card(path: Path) -> ModuleCard:
    try:
        return ModuleCard.model_validate_json(read_text(path))
    except ValidationError as error:
        raise ModuleRefused(f"{path}: {what_is_wrong(error)}; expected what this version of peftport writes") from error
    except (OSError, ValueError) as error:
        raise ModuleRefused(
            f"{path}: expected a readable module card, got: {one_line(error)}; save the module again"
        ) from error


def what_is_wrong(error: ValidationError) -> str:
    """Describe the first invalid value in a record, and its place."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    return f"{printable(where)}: {printable(first['msg'])}"
