"""Multiply by frozen 4-bit matrices on the processor, with the same numbers on every processor and for every width.

The layers of bitsandbytes (as of 0.50) behave differently on different processors. With AVX512-BF16, the first product
that needs no gradient repacks the matrix permanently: from then on the layer computes in bfloat16 whatever dtype was
asked for, gives no gradients, and accepts only numbers of rows that 32 divides. With AVX512, rows that are not whole
blocks get the scales of other rows. Therefore, on the processor, a matrix is unpacked here, block by block, for each
product and each gradient, and the unpacked matrix is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import linear, pad

from peftport.core.errors import HostRefused


def multiply_by_blocks(model: nn.Module) -> Callable[[], None]:
    """Make the 4-bit layers of a model on the processor multiply in this way. Returns a function that undoes it.

    Raises:
        HostRefused: bitsandbytes has already repacked one of the layers for this processor.

    """
    layers = dict(_layers(model))
    for name, layer in layers.items():
        if getattr(layer.weight.quant_state, "packing_format_for_cpu", False):
            raise HostRefused(
                f"{name}: expected a 4-bit matrix as it was loaded, got one that bitsandbytes has packed in bfloat16 "
                "for this processor at its first product; load the model anew, and attach before running it"
            )
    before = {name: vars(layer).get("forward") for name, layer in layers.items()}
    for layer in layers.values():
        layer.forward = partial(_forward, layer)

    def undo() -> None:
        for name, layer in layers.items():
            del layer.forward
            if before[name] is not None:
                layer.forward = before[name]

    return undo


def unpacked(weight: Any, dtype: torch.dtype) -> Tensor:
    """Unpack a 4-bit matrix to numbers (D_out, D_in): its levels times the scale of each block."""
    from bitsandbytes.functional import dequantize_4bit  # imported here because only hosts in 4 bits need it

    state = weight.quant_state
    rows, count = copy(state), state.shape.numel()
    blocks = -(-count // state.blocksize)
    rows.shape, rows.dtype = (blocks, state.blocksize), dtype  # one block in a row: all kernels agree on this
    codes = weight.data.view(torch.uint8).view(-1)  # two numbers in each byte
    codes = pad(codes, (0, blocks * state.blocksize // 2 - len(codes)))
    numbers: Tensor = dequantize_4bit(codes, rows)
    return numbers.view(-1)[:count].view(state.shape)


class _Product(Function):
    """Compute x @ W.T + b; W is unpacked again for the gradient instead of being kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return linear(x, unpacked(weight, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        [grad] = grads
        return grad @ unpacked(ctx.weight, grad.dtype), None, None


def _forward(layer: Any, x: Tensor) -> Tensor:
    dtype = layer.compute_dtype or x.dtype
    bias = None if layer.bias is None else layer.bias.to(dtype)
    product: Tensor = _Product.apply(x.to(dtype), layer.weight, bias)  # type: ignore[no-untyped-call]
    return product.to(x.dtype)


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, layer in model.named_modules():
        weight: Any = getattr(layer, "weight", None)
        if getattr(weight, "quant_state", None) is not None and weight.device.type == "cpu":
            yield name, layer
