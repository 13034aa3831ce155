"""Fused root mean square norms: what is one is found in every family, and computes the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from peftport.hosts.rms_norms import fuse_rms_norms
from pico import CONFIGS, pico_model


class Plain(nn.Module):
    """As transformers spells it out; ``kept`` is what is taken from the gain before it is kept."""

    def __init__(self, width: int, eps: float, kept: float) -> None:
        super().__init__()
        self.weight, self.eps, self.kept = nn.Parameter(torch.randn(width), requires_grad=False), eps, kept

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (self.kept + self.weight.to(x.dtype))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=0, max_size=3), width=st.integers(2, 40),
    eps=st.sampled_from([1e-6, 1e-5, 1e-2]), kept=st.sampled_from([0.0, 1.0]), scale=st.sampled_from([1e-3, 1.0, 50.0]),
    swapped=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_values_and_gradients_are_those_of_the_norm_spelt_out(
    shape: list[int], width: int, eps: float, kept: float, scale: float, swapped: bool, seed: int
) -> None:
    """Against float64, for rows in any arrangement."""
    torch.manual_seed(seed)
    norm = Plain(width, eps, kept)
    x = (scale * torch.randn(*shape, 2, width)).requires_grad_()
    seen = x.mT.contiguous().mT if swapped else x
    grad = torch.randn_like(x)
    exact = x.detach().double().requires_grad_()
    expected = norm(exact)
    expected.backward(grad.double())
    fuse_rms_norms(norm)
    assert "forward" in vars(norm)
    y = norm(seen)
    y.backward(grad)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-6)
    assert x.grad is not None and exact.grad is not None
    assert (x.grad - exact.grad).abs().max() <= 1e-5 * (1 + exact.grad.abs().max())


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_every_root_mean_square_norm_of_a_family_is_found_and_nothing_else(model_type: str) -> None:
    """By their classes' names, which the product does not read."""
    model = pico_model(model_type).requires_grad_(False)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.copy_(torch.rand_like(parameter))
    fuse_rms_norms(model)
    fused = {type(each).__name__ for each in model.modules() if "forward" in vars(each)}
    named = {
        type(each).__name__ for each in model.modules() if type(each).__name__.endswith(("RMSNorm", "T5LayerNorm"))
    }
    assert fused or model_type not in ("t5", "llama", "gemma3_text")
    assert fused == {name for name in named if "Gated" not in name}


@pytest.mark.parametrize("needs_gate", [False, True])
def test_a_norm_that_takes_a_gate_as_well_computes_with_it(needs_gate: bool) -> None:
    """As in Mamba's kind of layers, which give one by name or by place; some norms fail without."""

    class Gated(Plain):
        def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
            if gate is None and not needs_gate:
                return super().forward(x)
            return super().forward(x * gate.to(x.dtype))  # type: ignore[union-attr]

    norm, x, gate = Gated(8, 1e-6, 0.0), torch.randn(3, 8), torch.rand(3, 8)
    before = norm(x, gate)
    fuse_rms_norms(norm)
    assert ("forward" in vars(norm)) is not needs_gate
    assert torch.equal(norm(x, gate), before) and torch.equal(norm(x, gate=gate), before)


def test_other_modules_are_left_alone() -> None:
    """A layer norm, one whose gain is trained, one that computes something else, and inputs in other numbers."""

    class Shifted(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - x.mean(-1, keepdim=True))

    trained = Plain(8, 1e-6, 0.0)
    trained.weight.requires_grad_(True)
    for module in (nn.LayerNorm(8, bias=False).requires_grad_(False), trained, Shifted(8, 1e-6, 0.0)):
        fuse_rms_norms(module)
        assert "forward" not in vars(module)
    norm, x = Plain(8, 1e-6, 0.0), torch.randn(3, 8).bfloat16()
    before = norm(x)
    fuse_rms_norms(norm)
    assert torch.equal(norm(x), before) and norm(x).dtype == torch.bfloat16
