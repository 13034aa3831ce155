"""Arrays as safetensors files hold them: the code of a number format, a shape and the bits, without torch.

numpy has no bfloat16 and no floats of eight bits, so their bits are kept as whole numbers. `RawNumbers` are never
changed in place, so several may share their bits.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import TensorSpec, safe_open, serialize

from peftport.core.libraries import torch

if TYPE_CHECKING:
    from torch import Tensor

# By the code of the format: numpy's type of the bits, and torch's name of the format.
FORMATS: dict[str, tuple[str, str]] = {
    "F64": ("<f8", "float64"), "F32": ("<f4", "float32"), "F16": ("<f2", "float16"), "BF16": ("<u2", "bfloat16"),
}  # fmt: skip
CODES = {name: code for code, (_, name) in FORMATS.items()}
# For formats that numpy lacks: the bits of the exponent and of the fraction. All ones in the exponent: not finite.
EXPONENTS = {"BF16": (0x7F80, 0x007F), "F8_E5M2": (0x7C, 0x03)}
NAN_ALONE = {"F8_E4M3": 0x7F}  # without infinity: this pattern is NaN
AT_ONCE = 1 << 22  # numbers that are looked at at a time


@dataclass(frozen=True, eq=False)
class RawNumbers:
    """An array: ``bits`` are its numbers, or, for a format that numpy lacks, their bits as whole numbers."""

    code: str
    bits: npt.NDArray[Any] = field(repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of all axes, as of the tensor that is stored."""
        return self.bits.shape

    @property
    def dtype(self) -> str:
        """The format as torch calls it."""
        return FORMATS[self.code][1]

    def not_finite(self) -> str:
        """Say which numbers that are not finite there are: NaN, infinity, or an empty text."""
        return not_finite(self.code, self.bits.reshape(-1))

    def wide(self) -> npt.NDArray[Any]:
        """The numbers in a format that numpy has, which holds them exactly."""
        if self.code != "BF16":
            return self.bits
        return np.asarray(self.bits.astype(np.uint32) << 16).view(np.float32)

    def like(self, numbers: npt.NDArray[Any]) -> RawNumbers:
        """Other numbers in this format, rounded to the nearest, ties to even; too large ones become infinite."""
        with np.errstate(over="ignore"):
            if self.code != "BF16":
                return RawNumbers(self.code, numbers.astype(self.bits.dtype))
            raw = numbers.astype(np.float32).view(np.uint32)
        return RawNumbers(self.code, np.asarray((raw + 0x7FFF + ((raw >> 16) & 1)) >> 16, dtype=np.uint16))

    def tensor(self) -> Tensor:
        """The same numbers as a tensor of torch's."""
        if self.code != "BF16":
            return torch.from_numpy(self.bits.copy())
        return torch.from_numpy(self.bits.view(np.int16).copy()).view(torch.bfloat16)


def numbers_of(tensor: Tensor | RawNumbers) -> RawNumbers:
    """The numbers of a tensor, whose memory they share where they can."""
    if isinstance(tensor, RawNumbers):
        return tensor
    code, own = CODES[str(tensor.dtype).removeprefix("torch.")], tensor.detach().cpu().contiguous()
    return RawNumbers(code, own.view(torch.int16).numpy().view(np.uint16) if code == "BF16" else own.numpy())


def tensor_of(array: Tensor | RawNumbers) -> Tensor:
    """The tensor of an array that may be one already."""
    return array.tensor() if isinstance(array, RawNumbers) else array


def is_finite(array: Tensor | RawNumbers) -> bool:
    """Whether all numbers of an array are finite."""
    return not array.not_finite() if isinstance(array, RawNumbers) else bool(array.isfinite().all())


def size_of(array: Tensor | RawNumbers) -> int:
    """How many numbers an array has."""
    return prod(array.shape)


def not_finite(code: str, flat: npt.NDArray[Any]) -> str:
    """Say which numbers that are not finite a flat array of bits has: NaN, infinity, or an empty text."""
    found = {_fault(code, flat[begin : begin + AT_ONCE]) for begin in range(0, len(flat), AT_ONCE)}
    return next((fault for fault in ("NaN", "infinity") if fault in found), "")


def _fault(code: str, bits: npt.NDArray[Any]) -> str:
    if bits.dtype.kind == "f":
        if np.isfinite(bits).all():
            return ""
        return "NaN" if np.isnan(bits).any() else "infinity"
    if code in NAN_ALONE:
        return "NaN" if ((bits & 0x7F) == NAN_ALONE[code]).any() else ""
    if code not in EXPONENTS:
        return ""
    exponent, fraction = EXPONENTS[code]
    wrong = bits[(bits & exponent) == exponent]
    return "" if not len(wrong) else "NaN" if (wrong & fraction).any() else "infinity"


@dataclass(frozen=True)
class TensorInFile:
    """A tensor in a safetensors file: its name, the code of its format, its shape, and its bytes there."""

    name: str
    code: str
    shape: tuple[int, ...]
    raw: memoryview = field(repr=False)

    def not_finite(self) -> str:
        """Say which numbers that are not finite it has: NaN, infinity, or an empty text."""
        kind = FORMATS[self.code][0] if self.code in FORMATS else "u1"
        return not_finite(self.code, np.frombuffer(self.raw, dtype=kind))


def stored_in(file: Path) -> Iterator[TensorInFile]:
    """Yield every tensor of a safetensors file, which stays on the disk: its pages are read as they are used.

    Raises:
        SafetensorError, OSError: it cannot be read, or is truncated or corrupt.

    """
    with safe_open(file, framework="np"):  # checks the header, and that the file is whole
        pass
    with file.open("rb") as opened:
        size = struct.unpack("<Q", opened.read(8))[0]
        header: dict[str, Any] = json.loads(opened.read(size))
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as whole:
            for name, told in header.items():
                if name != "__metadata__":
                    begin, end = (8 + size + offset for offset in told["data_offsets"])
                    with whole[begin:end] as raw:
                        yield TensorInFile(name, told["dtype"], tuple(told["shape"]), raw)


def serialized(arrays: Mapping[str, Tensor | RawNumbers], metadata: dict[str, str] | None = None) -> bytes:
    """Return the bytes of a safetensors file of these arrays."""
    held = {name: numbers_of(array) for name, array in arrays.items()}
    kept = {name: np.ascontiguousarray(numbers.bits) for name, numbers in held.items()}
    specs = {
        name: TensorSpec(
            dtype=numbers.dtype, shape=numbers.shape, data_ptr=kept[name].ctypes.data, data_len=kept[name].nbytes
        )
        for name, numbers in held.items()
    }
    return bytes(serialize(specs, metadata=metadata))
