"""Mixed precision: the products of frozen matrices in bfloat16, all else in float32.

    y = float32(bfloat16(x) W^T) + b          W in bfloat16, b and what adds up in the residual stream in float32

Micikevicius et al. 2018, arXiv 1710.03740, as far as frozen matrices go: what is trained, its gradients and its
optimiser are in float32, and so are norms, softmax, attention and losses. The input of a frozen product is not kept for
the backward pass, which needs W alone. Scores of tokens, which are few, are computed in float32.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from peftport.hosts.slots import linear_paths


def multiply_in_bfloat16(base: nn.Module) -> None:
    """Keep the frozen linear maps below a base model in bfloat16, and make them multiply as above."""
    for path in linear_paths(base):
        layer: Any = base.get_submodule(path)
        if layer.weight.dtype == torch.float32:  # a layer that others share is met once
            layer.weight = nn.Parameter(layer.weight.detach().to(torch.bfloat16), requires_grad=False)
            layer.forward = partial(_forward, layer, isinstance(layer, nn.Linear))
            layer.register_forward_pre_hook(_widened)


def _widened(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Give a layer its input in float32 where the model casts it to the weights' dtype, as T5 does before one map."""
    return None if inputs[0].dtype == torch.float32 else (inputs[0].to(torch.float32), *inputs[1:])


class _NarrowProduct(Function):
    """x @ W for W (D_in, D_out) in bfloat16, with inputs, outputs and gradients in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        return torch.matmul(x.to(torch.bfloat16), weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        [grad] = grads
        return torch.matmul(grad.to(torch.bfloat16), ctx.weight.mT).to(torch.float32), None


def _forward(layer: Any, lies_out_in: bool, x: Tensor) -> Tensor:
    product: Tensor = _NarrowProduct.apply(x, layer.weight.mT if lies_out_in else layer.weight)  # type: ignore[no-untyped-call]
    wide = product.to(torch.float32)
    return wide if layer.bias is None else wide.add_(layer.bias)
