"""Products with the stacked matrices of K entries, in the order that suits their shapes.

    y + scale x W^T          x (K, N, D_in), W (K, D_out, D_in), y (K, N, D_out) or a bias (K, 1, D_out)

A technique's matrices are long and thin. A product of eight columns takes a processor up to five times as long as its
transpose of eight rows, from 16 columns on about as long (`benchmarks/thin_products.py`), and autograd asks for such
products at every slot. Here a product whose result is thin is computed as its transpose, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

THIN = 16  # columns


def add_product(y: Tensor | None, x: Tensor, weight: Tensor, scale: float = 1.0) -> Tensor:
    """Return y + scale x W^T, (K, N, D_out), of rows x (K, N, D_in) and W (K, D_out, D_in); without y the product."""
    return _AddProduct.apply(y, x, weight, scale)  # type: ignore[no-untyped-call, no-any-return]


class _AddProduct(Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor | None, x: Tensor, weight: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.scale, ctx.bias = scale, y is not None and y.shape[1] < x.shape[1]
        if y is None:
            return _product(x, weight.mT, scale)
        return torch.baddbmm(y, x, weight.mT, alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_y, of_x, of_weight, _ = ctx.needs_input_grad
        return (
            (grad.sum(1, keepdim=True) if ctx.bias else grad) if of_y else None,
            _product(grad, weight, ctx.scale) if of_x else None,
            _product(grad.mT, x, ctx.scale) if of_weight else None,
            None,
        )


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return scale a b, (K, N, M), of a (K, N, D) and b (K, D, M)."""
    if b.shape[-1] < THIN <= a.shape[-2]:
        return _product(b.mT, a.mT, scale).mT
    result = torch.bmm(a, b)
    return result if scale == 1.0 else result.mul_(scale)
