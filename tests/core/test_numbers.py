"""Arrays without torch: the same numbers, bytes and refusals as torch has."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save, save_file

from peftport.core.numbers import FORMATS, is_finite, numbers_of, serialized, stored_in, tensor_of

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ODD = [0.0, -0.0, 1.0, -1.5, 3.0e38, 1e-40, 65504.0, 1 / 3, float("nan"), float("inf"), float("-inf")]
arrays = st.builds(
    lambda dtype, shape, seed, odd: _drawn(dtype, tuple(shape), seed, odd),
    st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3), st.integers(0, 99), st.sampled_from([None, *ODD]),
)  # fmt: skip


def _drawn(dtype: torch.dtype, shape: tuple[int, ...], seed: int, odd: float | None) -> torch.Tensor:
    tensor = torch.from_numpy(np.asarray(np.random.default_rng(seed).normal(size=shape))).to(dtype)
    if odd is not None and tensor.numel():
        tensor.view(-1)[seed % tensor.numel()] = odd
    return tensor


@settings(max_examples=200, deadline=None)
@given(tensor=arrays)
def test_numbers_are_the_tensor_s(tensor: torch.Tensor) -> None:
    numbers = numbers_of(tensor)
    again = tensor_of(numbers)
    assert (numbers.shape, numbers.dtype) == (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
    assert again.dtype == tensor.dtype and save({"t": again}) == save({"t": tensor})
    assert is_finite(numbers) == is_finite(tensor)
    wide = torch.from_numpy(np.array(numbers.wide()))
    assert torch.equal(wide.nan_to_num(7), tensor.to(wide.dtype).nan_to_num(7))


@settings(max_examples=100, deadline=None)
@given(tensor=arrays, dtype=st.sampled_from(DTYPES))
def test_rounding_is_torch_s(tensor: torch.Tensor, dtype: torch.dtype) -> None:
    """To the nearest, ties to even, from float32."""
    wide = tensor.float()
    if not bool(wide.isfinite().all()):
        return
    rounded = numbers_of(torch.zeros(0, dtype=dtype)).like(wide.numpy())
    assert torch.equal(tensor_of(rounded), wide.to(dtype))


@settings(max_examples=50, deadline=None)
@given(drawn=st.lists(arrays, min_size=1, max_size=5), metadata=st.sampled_from([None, {"format": "pt"}]))
def test_files_are_those_of_safetensors(drawn: list[torch.Tensor], metadata: dict[str, str] | None) -> None:
    named = {f"t{i}": tensor for i, tensor in enumerate(drawn)}
    raw = save(named, metadata=metadata)
    assert serialized(named, metadata) == raw
    assert serialized({name: numbers_of(tensor) for name, tensor in named.items()}, metadata) == raw
    assert load(raw).keys() == named.keys()


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64, torch.bool])
@pytest.mark.parametrize("fault", ["", "NaN", "infinity"])
def test_what_lies_in_a_file_is_read_where_it_lies(dtype: torch.dtype, fault: str, tmp_path: Path) -> None:
    """Names, shapes and bytes as torch reads them; NaN goes before infinity, which some formats have not."""
    tensor = (torch.arange(6).reshape(2, 3) % 2).to(dtype)
    if dtype.is_floating_point and fault:
        tensor = tensor.float()
        tensor[1, 2] = float("nan") if fault == "NaN" else float("-inf")
        tensor = tensor.to(dtype)
    save_file({"a": tensor, "b": torch.zeros(0)}, tmp_path / "file.safetensors")
    found = {}
    for stored in stored_in(tmp_path / "file.safetensors"):
        found[stored.name] = (stored.shape, hashlib.sha256(stored.raw).hexdigest(), stored.not_finite())
    raw = tensor.view(torch.uint8).numpy().tobytes()
    expected = "" if not dtype.is_floating_point else fault
    if expected == "infinity" and dtype == torch.float8_e4m3fn:
        expected = "NaN" if bool(tensor.float().isnan().any()) else ""
    assert found["a"] == ((2, 3), hashlib.sha256(raw).hexdigest(), expected)
    assert found["b"] == ((0,), hashlib.sha256(b"").hexdigest(), "")


def test_the_formats_are_those_of_modules() -> None:
    assert {name for _, name in FORMATS.values()} == {str(dtype).removeprefix("torch.") for dtype in DTYPES}
