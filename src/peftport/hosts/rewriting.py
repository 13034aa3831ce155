"""Copy a host's folder with some of its tensors changed, one tensor at a time.

The new weight files have the names, the tensors and the metadata of the old ones, so a sharded host stays sharded. A
tensor that does not change is copied as bytes. The layout of such a file is that of `modules.formats.tensors`:

8 bytes: N, little-endian     N bytes: a JSON header     the numbers, exactly as many as the header says
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from safetensors import safe_open

from peftport.core.errors import NotFinite
from peftport.core.libraries import torch
from peftport.hosts.fingerprint import INDEX, weight_files

if TYPE_CHECKING:
    from torch import Tensor

Change: TypeAlias = "Callable[[Tensor], Tensor]"
NUMBERS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # torch's names
# Weights in other formats, which would still be those of the old host, and what describes the old host alone.
OTHER_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".ot", ".npz")
LEFT_OUT = ("README.md", "SOURCE.json", INDEX, "config.json")
CHUNK_BYTES = 1 << 24


def copy_host(
    folder: Path,
    out: Path,
    changes: dict[str, Change],
    dtype: torch.dtype | None = None,
    advance: Callable[[int], None] = lambda tensors: None,
) -> None:
    """Copy a host into an existing folder.

    Args:
        folder: the host's folder.
        out: an empty folder.
        changes: by the name of a tensor in the files, the function that changes it; its result has the same shape.
        dtype: the number format of all tensors of floats; None leaves each in its own.
        advance: called with 1 after each tensor.

    Raises:
        NotFinite: a number is beyond what the number format holds.

    """
    _copy_others(folder, out)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _write_json(out / "config.json", config if dtype is None else _in_dtype(config, dtype))
    sizes = {}
    for file in weight_files(folder):
        sizes[file.name] = _rewrite(file, out / file.name, changes, dtype, advance)
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        index["metadata"] = {**(index.get("metadata") or {}), "total_size": sum(sizes.values())}
        _write_json(out / INDEX, index)


def _copy_others(folder: Path, out: Path) -> None:
    """Copy the files beside the weights, and the folders that sentence-transformers or chat templates have there."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix not in OTHER_WEIGHTS and path.name not in LEFT_OUT and path.name[0] != ".":
            shutil.copyfile(path, out / path.name)
    for inner in _folders(folder):
        if (folder / inner).is_dir():
            shutil.copytree(folder / inner, out / inner)


def _folders(folder: Path) -> list[str]:
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        named = [str(module["path"]) for module in modules]
    except (OSError, ValueError, TypeError, KeyError):
        named = []
    return ["additional_chat_templates", *(name for name in named if name and Path(name).name == name)]


def _rewrite(
    file: Path, out: Path, changes: dict[str, Change], dtype: torch.dtype | None, advance: Callable[[int], None]
) -> int:
    """Write one file of weights; return the number of bytes of its tensors."""
    with file.open("rb") as source, out.open("wb") as target, safe_open(file, framework="pt") as tensors:
        [length] = struct.unpack("<Q", source.read(8))
        header: dict[str, Any] = json.loads(source.read(length))
        metadata = header.pop("__metadata__", None)
        begin, end = 8 + length, 0
        names = sorted(header, key=lambda name: header[name]["data_offsets"])
        new: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
        for name in names:
            old = header[name]
            code, size = _stored(old, dtype)
            new[name] = {"dtype": code, "shape": old["shape"], "data_offsets": [end, end + size]}
            end += size
        raw = json.dumps(new, separators=(",", ":"), ensure_ascii=False).encode()
        raw += b" " * (-len(raw) % 8)
        target.write(struct.pack("<Q", len(raw)) + raw)
        for name in names:
            if name not in changes and new[name]["dtype"] == header[name]["dtype"]:
                first, last = header[name]["data_offsets"]
                _copy_bytes(source, target, begin + first, last - first)
            else:
                tensor: Tensor = tensors.get_tensor(name)
                made = changes[name](tensor) if name in changes else tensor
                assert made.shape == tensor.shape, name
                target.write(_bytes_of(_rounded(name, tensor, made, _dtype(new[name]["dtype"]))))
            advance(1)
    return end


def _stored(old: dict[str, Any], dtype: torch.dtype | None) -> tuple[str, int]:
    """The code of a tensor's new dtype, and its number of bytes."""
    first, last = old["data_offsets"]
    code = old["dtype"]
    if dtype is None or code not in NUMBERS:
        return code, last - first
    new = next(each for each in NUMBERS if _dtype(each) == dtype)
    return new, (last - first) // _dtype(code).itemsize * dtype.itemsize


def _dtype(code: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, NUMBERS[code])
    return found


def _rounded(name: str, old: Tensor, made: Tensor, dtype: torch.dtype) -> Tensor:
    stored = made.to(dtype)
    if bool((~stored.isfinite() & old.isfinite()).any()):
        raise NotFinite(
            f"{name}: expected numbers that {str(dtype).removeprefix('torch.')} holds, got larger ones; use "
            "--dtype float32"
        )
    return stored


def _copy_bytes(source: BinaryIO, target: BinaryIO, begin: int, size: int) -> None:
    source.seek(begin)
    while size:
        part = source.read(min(size, CHUNK_BYTES))
        assert part, "the fingerprint has read the file to its end"
        target.write(part)
        size -= len(part)


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data


def _in_dtype(config: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """A config whose number format is another, also in the configs inside it."""
    name = str(dtype).removeprefix("torch.")
    changed = {key: _in_dtype(value, dtype) if isinstance(value, dict) else value for key, value in config.items()}
    return {key: name if key in ("dtype", "torch_dtype") else value for key, value in changed.items()}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
