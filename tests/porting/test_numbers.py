"""Copy and resize on numbers as they lie in files: the bytes of the result are those of the same port on tensors."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.made import HEADED, TASK, TRAINING, files_of
from peftport.core.errors import SlotMismatch
from peftport.hosts.host import Host
from peftport.modules.folders import read_module, read_to_carry, write_module
from peftport.modules.module import HEAD, Module, as_tensors, holds_numbers
from peftport.porting import porter_named
from pico import SPECS, pico_host, random_matrices

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SHAPES: dict[str, dict[str, int]] = {
    "same": {}, "wide": {"hidden_size": 32}, "deep": {"num_hidden_layers": 5}, "shallow": {"num_hidden_layers": 1},
}  # fmt: skip
FOREIGN = {"lora": "peft", "adapter": "adapters", "compacter": "adapters", "prefix": "adapters"}


@cache
def _host(shape: str) -> Host:
    return pico_host("bert", view="body", **SHAPES[shape])


def _module(technique: str, dtype: torch.dtype, headed: bool) -> Module:
    host = _host("same")
    matrices = random_matrices(host, SPECS[technique]) | ({HEAD: HEADED} if headed else {})
    cast = {slot: {name: t.to(dtype) for name, t in own.items()} for slot, own in matrices.items()}
    return Module(SPECS[technique], host.fingerprint, cast, TASK, TRAINING)


@settings(max_examples=60, deadline=None)
@given(
    technique=st.sampled_from(sorted(FOREIGN)), dtype=st.sampled_from(DTYPES), to=st.sampled_from(sorted(SHAPES)),
    method=st.sampled_from(["copy", "resize"]), headed=st.booleans(), foreign=st.booleans(),
)  # fmt: skip
def test_a_port_of_numbers_is_that_of_tensors(
    technique: str, dtype: torch.dtype, to: str, method: str, headed: bool, foreign: bool
) -> None:
    """In every number format, to hosts of other widths and depths, into the native format and into others'."""
    host, porter = _host(to), porter_named(method)
    file_format = FOREIGN[technique] if foreign and not headed else "native"
    with TemporaryDirectory() as home:
        write_module(_module(technique, dtype, headed), _host("same"), Path(home) / "module")
        numbers, tensors = read_to_carry(Path(home) / "module"), read_module(Path(home) / "module")
        assert holds_numbers(numbers) and not holds_numbers(tensors)
        said = []
        for name, module in (("numbers", numbers), ("tensors", tensors)):
            try:
                ported = porter.port(module, host, None)  # type: ignore[arg-type]
            except SlotMismatch as error:
                said.append(str(error))
                continue
            assert holds_numbers(ported) == holds_numbers(module)
            write_module(ported, host, Path(home) / name, file_format)  # type: ignore[arg-type]
            said.append(ported.parameters)
        assert said[0] == said[1]
        if isinstance(said[0], int):
            assert files_of(Path(home) / "numbers") == files_of(Path(home) / "tensors")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layers_between_are_torch_s_to_rounding(dtype: torch.dtype) -> None:
    """What lies between two layers is torch's lerp, but for how its products are rounded on this processor."""
    module, host = _module("lora", dtype, headed=False), _host("deep")
    ported = as_tensors(porter_named("resize").port(module, host, None))  # type: ignore[arg-type]
    eps = torch.finfo(dtype).eps
    for layer, share in ((1, 0.25), (2, 0.5), (3, 0.75)):
        for name, made in ported.matrices[f"layers.{layer}.attn_q"].items():
            low, high = (module.matrices[f"layers.{own}.attn_q"][name] for own in (0, 1))
            expected = torch.lerp(low.double(), high.double(), share)
            assert made.dtype == dtype
            assert torch.allclose(made.double(), expected, rtol=2 * eps, atol=2 * eps * float(high.abs().max()))
