"""Products of stacked thin matrices: their values and gradients, whatever the order in which they are computed."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peftport.techniques.products import THIN, add_product

sides = st.one_of(st.integers(1, 4), st.integers(THIN - 1, THIN + 1))


@settings(max_examples=40, deadline=None)
@given(
    entries=st.integers(1, 3), rows=sides, inner=sides, outer=sides, added=st.sampled_from(["none", "bias", "rows"]),
    scale=st.sampled_from([1.0, 0.25]), wanted=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_values_and_gradients_are_those_of_the_spelt_out_sum(
    entries: int,
    rows: int,
    inner: int,
    outer: int,
    added: str,
    scale: float,
    wanted: tuple[bool, bool, bool],
    seed: int,
) -> None:
    """In float64, for thin and wide results, with and without what is added, for any choice of what is trained."""
    torch.manual_seed(seed)
    x, weight = torch.randn(entries, rows, inner).double(), torch.randn(entries, outer, inner).double()
    y = None if added == "none" else torch.randn(entries, 1 if added == "bias" else rows, outer).double()
    leaves = [t.requires_grad_() for t, asked in zip((x, weight, y), wanted, strict=True) if asked and t is not None]
    result = add_product(y, x, weight, scale)
    expected = scale * torch.einsum("kni,koi->kno", x, weight) + (0 if y is None else y)
    torch.testing.assert_close(result, expected)
    if leaves:
        grad = torch.randn_like(result)
        torch.testing.assert_close(gradients(result, leaves, grad), gradients(expected, leaves, grad))


def gradients(result: Tensor, leaves: list[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(result, leaves, grad)
