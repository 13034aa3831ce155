"""Root mean square norms of a frozen host, with fewer ways through memory.

    y = r x w,                         r = (mean(x^2) + eps)^(-1/2)       Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4
    dx = r (w g - r^2 x mean(w g x))   w a gain that is not trained, g the gradient of y

transformers spells these norms out, and autograd then passes nine times through their inputs on the way back. torch's
one pass for layer norms computes the same but for a mean over the row, which is put back:

    layer norm with mean 0:            r (w g - mean(w g) - r^2 x mean(w g x))

What is such a norm is found out by trying it, since every family has a class of its own and some keep w - 1.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

TRIED_SCALES = (1e-3, 1.0, 30.0)  # of inputs: small ones show eps


def fuse_rms_norms(base: nn.Module) -> None:
    """Make every root mean square norm below a frozen base model compute as above where its input is in float32."""
    for norm in base.modules():
        found = _gain_and_eps(norm)
        if found is not None:
            norm.forward = partial(_forward, type(norm).forward, norm, *found)


class _RmsNorm(Function):
    """Rows x (N, D), a gain (D,) and eps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        width = x.shape[-1]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(width).add_(eps).rsqrt_()  # (N, 1)
        ctx.save_for_backward(x, scale)
        ctx.gain = gain
        y: Tensor = x * scale
        return y.mul_(gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, scale = ctx.saved_tensors
        width, zero = x.shape[-1], torch.zeros_like(scale)
        grad = grad.contiguous()
        of_x: Tensor = torch.ops.aten.native_layer_norm_backward(
            grad, x, [width], zero, scale, ctx.gain, None, [True, False, False]
        )[0]
        of_x += torch.mv(grad, ctx.gain).div_(width).unsqueeze(-1).mul_(scale)
        return of_x, None, None


def _forward(plain: Any, norm: nn.Module, gain: Tensor, eps: float, x: Tensor, *more: Any, **named: Any) -> Tensor:
    if x.dtype != torch.float32 or x.device.type != "cpu" or more or named:  # more: such as a gate, which changes y
        return plain(norm, x, *more, **named)  # type: ignore[no-any-return]
    rows = x.reshape(-1, x.shape[-1])
    y: Tensor = _RmsNorm.apply(rows, gain, eps)  # type: ignore[no-untyped-call]
    return y.view(x.shape)


def _gain_and_eps(norm: nn.Module) -> tuple[Tensor, float] | None:
    """Return the gain (D,) and eps of a root mean square norm, None for anything else."""
    parameters = dict(norm.named_parameters())
    weight, eps = parameters.get("weight"), getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if (
        len(parameters) != 1
        or weight is None
        or weight.dim() != 1
        or weight.requires_grad
        or not isinstance(eps, float)
    ):
        return None
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or isinstance(norm, nn.LayerNorm):
        return None
    unit = torch.linspace(-1, 1, 3 * len(weight)).sin().view(3, -1) + 0.25  # rows that have a mean
    for gain in (weight.detach(), 1 + weight.detach()):
        if all(_computes(norm, gain, eps, scale * unit) for scale in TRIED_SCALES):
            return gain, eps
    return None


@torch.no_grad()
def _computes(norm: nn.Module, gain: Tensor, eps: float, x: Tensor) -> bool:
    try:
        y = norm(x)
    except Exception:  # it takes something else, such as a gate, and fails in its own way
        return False
    expected = x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * gain
    return isinstance(y, Tensor) and y.shape == x.shape and torch.allclose(y, expected, rtol=1e-5, atol=1e-6)
