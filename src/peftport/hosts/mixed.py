"""Mixed precision: the products of frozen matrices in bfloat16, all else in float32.

    y = bfloat16(bfloat16(x) W^T + b)          W in bfloat16; x, b and what y is added to in float32

Micikevicius et al. 2018, arXiv 1710.03740, as far as frozen matrices go: what is trained, its gradients and its
optimiser are in float32, and so are the residual stream, norms, softmax and losses. The input of a frozen product is
not kept for the backward pass, which needs W alone. Scores of tokens, which are few, are computed in float32.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from peftport.hosts.slots import Slot, linear_paths

# Maps whose outputs go through an activation function or are added up, so that no layer meets two formats where it
# needs one: they need not be widened.
NARROW_OUTPUTS = ("ffn_gate", "ffn_in", "ffn_gate_in", "ffn_out", "attn_o", "cross_o")


def multiply_in_bfloat16(base: nn.Module, slots: Iterable[Slot] = ()) -> None:
    """Keep the frozen linear maps below a base model in bfloat16, and make them multiply as above."""
    narrow = {slot.path for slot in slots if slot.site in NARROW_OUTPUTS}
    for path in linear_paths(base):
        layer: Any = base.get_submodule(path)
        if layer.weight.dtype == torch.float32:  # a layer that others share is met once
            layer.weight = nn.Parameter(layer.weight.detach().to(torch.bfloat16), requires_grad=False)
            output = torch.bfloat16 if path in narrow else torch.float32
            layer.forward = partial(_forward, layer, isinstance(layer, nn.Linear), output)


class _NarrowProduct(Function):
    """x W^T + b of rows x (N, D_in), W (D_out, D_in) in bfloat16 and b in float32, rounded to bfloat16.

    So is the gradient of x.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, narrow: Tensor, weight: Tensor, bias: Tensor | None, output: torch.dtype
    ) -> Tensor:
        ctx.weight, ctx.input = weight, x.dtype
        return _product(narrow, weight, bias).to(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        [grad] = grads
        return torch.matmul(grad.to(torch.bfloat16), ctx.weight).to(ctx.input), None, None, None, None


def _forward(layer: Any, lies_out_in: bool, output: torch.dtype, x: Tensor) -> Tensor:
    weight = layer.weight if lies_out_in else layer.weight.mT
    rows, narrow = x.reshape(-1, x.shape[-1]), _rounded(x).reshape(-1, x.shape[-1])
    y: Tensor = _NarrowProduct.apply(rows, narrow, weight, layer.bias, output)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], y.shape[-1])


class _Last(threading.local):
    """The last input that was rounded, its version, and what it became."""

    input: weakref.ref[Tensor] | None = None
    version = 0
    rounded: Tensor


_last = _Last()


def _rounded(x: Tensor) -> Tensor:
    """Return x in bfloat16: once for maps that follow one another and read the same, as queries and keys do."""
    if x.is_inference():  # it has no version
        return x.to(torch.bfloat16)
    if _last.input is None or _last.input() is not x or _last.version != x._version:
        _last.rounded = x.detach().to(torch.bfloat16)
        _last.input, _last.version = weakref.ref(x), x._version
    return _last.rounded


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.device.type == "cpu" and _sums_in_float32():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
    product = torch.matmul(x, weight.mT)
    return product if bias is None else product.add_(bias)


@cache
def _sums_in_float32() -> bool:
    """Whether a product and its bias can be one operation here: x W^T + b is then rounded once."""
    try:
        one = torch.ones(1, 1, dtype=torch.bfloat16)
        torch.ops.mkldnn._linear_pointwise(one, one, torch.ones(1), "none", [], "")
    except (AttributeError, NotImplementedError, RuntimeError):  # no such units, or another build of torch
        return False
    return True
