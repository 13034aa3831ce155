"""Read safetensors files from untrusted sources: sizes are limited before reading, tensors checked before use.

The layout of such a file:

8 bytes: N, little-endian     N bytes: a JSON header     the numbers, exactly as many as the header says
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, deserialize

from peftport.core.errors import ModuleRefused, first_line
from peftport.core.numbers import FORMATS, RawNumbers, is_finite

if TYPE_CHECKING:
    from torch import Tensor

# What torch calls other formats that a file may have.
OTHERS = {
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
MOST_BYTES = 8 * 2**30  # far larger than any module, and small enough for today's machines
MOST_HEADER_BYTES = 100_000_000  # the limit of the format itself
MOST_TEXT_BYTES = 64 * 2**20


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file, by name in alphabetical order.

    Raises:
        ModuleRefused: the file is missing, too large, truncated or corrupt, or contains NaN or infinity.

    """
    return {name: numbers.tensor() for name, numbers in parse_numbers(read_bytes(path), path).items()}


def read_bytes(path: Path) -> bytes:
    """Read the bytes of a safetensors file, after checking that its size and header length are possible.

    Raises:
        ModuleRefused: the file is missing, unreadable or too large, or its header is longer than the file.

    """
    if not path.is_file():
        raise ModuleRefused(f"{path.parent}: expected {path.name}, found none; give a module folder")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MOST_BYTES:
                raise ModuleRefused(
                    f"{path}: expected at most {MOST_BYTES} bytes, got {size}; no module is that large, save it again"
                )
            start = file.read(8)
            header = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if header > min(size - 8, MOST_HEADER_BYTES):
                raise ModuleRefused(
                    f"{path}: expected a whole safetensors file, got one truncated or corrupt "
                    f"(its header claims {header} bytes, the file has {size}); save it again"
                )
            return start + file.read()
    except OSError as error:
        raise ModuleRefused(f"{path}: expected a readable file, got: {error}; save the module again") from error


def parse_numbers(raw: bytes, path: Path) -> dict[str, RawNumbers]:
    """Parse the bytes of a safetensors file into arrays, by name in alphabetical order.

    Raises:
        ModuleRefused: the file is truncated or corrupt, or contains NaN or infinity.

    """
    try:
        flat = dict(deserialize(raw))  # type: ignore[no-untyped-call]
        held = {name: _numbers(told) for name, told in sorted(flat.items())}  # safetensors has no order of its own
    except (SafetensorError, ValueError, KeyError, OverflowError, RuntimeError) as error:
        raise ModuleRefused(
            f"{path}: expected a whole safetensors file, got one truncated or corrupt "
            f"({one_line(error)}); save it again"
        ) from error
    for name, numbers in held.items():
        if numbers is None:
            code = flat[name]["dtype"]
            raise ModuleRefused(
                f"{path}: {printable(name)}: expected numbers in float16, bfloat16, float32 or float64, got "
                f"{OTHERS.get(code, code)}; save it in one of them"
            )
        if not is_finite(numbers):
            raise ModuleRefused(
                f"{path}: {printable(name)}: expected finite numbers, got NaN or infinity; train it again"
            )
    return {name: numbers for name, numbers in held.items() if numbers is not None}


def _numbers(told: Mapping[str, Any]) -> RawNumbers | None:
    """The array that a file holds; None where its format is none of numbers."""
    if told["dtype"] not in FORMATS:
        return None
    bits = np.frombuffer(told["data"], dtype=FORMATS[told["dtype"]][0])
    return RawNumbers(told["dtype"], bits.reshape(told["shape"]))


def read_text(path: Path) -> str:
    """Read a small text file.

    Raises:
        OSError, UnicodeDecodeError: as in `Path.read_text`.
        ValueError: the file is larger than any configuration.

    """
    size = path.stat().st_size
    if size > MOST_TEXT_BYTES:
        raise ValueError(f"{size} bytes, expected at most {MOST_TEXT_BYTES}")
    return path.read_text(encoding="utf-8")


def printable(text: str) -> str:
    """Return a name from an untrusted file as one short printable line."""
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= 200 else f"{shown[:200]}..."


def one_line(error: BaseException) -> str:
    """Return the message of another library's error as one short line."""
    return printable(first_line(error))
