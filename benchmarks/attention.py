"""Torch's attention kernel against attention spelt out in matrix products and a softmax, at these texts' lengths.

    OMP_NUM_THREADS=1 PYTHONPATH=src python benchmarks/attention.py     prints median milliseconds, forward and backward

Spelt out in float32 by torch's own way back, and in bfloat16: weights, values and all products of the way back are
rounded, the scores q k^T either as well or not. `errors` are those of the output and of the gradients of q, k and v
against float64, relative to their norms, with scores of a standard deviation of 1 and of 9.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from peftport.hosts.allocation import keep_freed_memory

SHAPES = ((16, 12, 32, 32), (16, 12, 48, 32), (16, 12, 64, 32), (128, 12, 40, 32), (128, 12, 50, 32), (128, 6, 50, 64))
Attention = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # texts, heads, tokens, head width


def kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Torch's own."""
    return nn.functional.scaled_dot_product_attention(q, k, v, mask)


def spelt_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + mask) v."""
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5 + mask, -1) @ v


def narrow(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The same in bfloat16, scores too."""
    return _Narrow.apply(q, k, v, mask, False)  # type: ignore[no-any-return, no-untyped-call]


def narrow_but_scores(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The same in bfloat16, scores in float32."""
    return _Narrow.apply(q, k, v, mask, True)  # type: ignore[no-any-return, no-untyped-call]


def _rounded(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16, memory_format=torch.contiguous_format)


class _Narrow(Function):
    """P = softmax(c q k^T + mask) and P v; P is kept for the way back, in bfloat16."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, wide_scores: bool) -> Tensor:
        ctx.scale = q.shape[-1] ** -0.5
        query, key, value = _rounded(q * ctx.scale), _rounded(k), _rounded(v)
        scores = (q * ctx.scale) @ k.mT if wide_scores else (query @ key.mT).to(q.dtype)
        weights = _rounded(torch.softmax(scores + mask, -1))
        ctx.save_for_backward(query, key, value, weights)
        return (weights @ value).to(q.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights = ctx.saved_tensors
        [grad] = grads
        wide, grad = grad.dtype, _rounded(grad)
        of_weights = (grad @ value.mT).to(wide)
        of_scores = _rounded(torch._softmax_backward_data(of_weights, weights.to(wide), -1, wide))
        of_query, of_key = (of_scores @ key).to(wide) * ctx.scale, (of_scores.mT @ query).to(wide)
        return of_query, of_key, (weights.mT @ grad).to(wide), None, None


WAYS: tuple[Attention, ...] = (kernel, spelt_out, narrow_but_scores, narrow)


def milliseconds(attend: Attention, shape: tuple[int, int, int, int], times: int = 30) -> float:
    """Median of so many passes forward and backward, the first three left out."""
    texts, heads, tokens, width = shape
    q, k, v = (torch.randn(texts, tokens, heads, width, requires_grad=True) for _ in range(3))
    mask, found = torch.zeros(texts, 1, tokens, tokens), []
    for _ in range(times + 3):
        begun = time.perf_counter()
        attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask).sum().backward()
        found.append(1e3 * (time.perf_counter() - begun))
    return median(found[3:])


def errors(attend: Attention, deviation: float) -> list[float]:
    """How far the output and the gradients are from those in float64."""
    torch.manual_seed(0)
    q, k, v, grad = (torch.randn(4, 12, 50, 32) for _ in range(4))
    inputs = [x.requires_grad_() for x in (q * deviation**0.5, k * deviation**0.5, v)]
    mask = torch.zeros(4, 1, 50, 50)

    def all_of(way: Attention, dtype: torch.dtype) -> list[Tensor]:
        given = [x.detach().to(dtype).requires_grad_() for x in inputs]
        out = way(*given, mask.to(dtype))
        return [out.detach(), *torch.autograd.grad(out, given, grad.to(dtype))]

    found, right = all_of(attend, torch.float32), all_of(spelt_out, torch.float64)
    return [float((a - b).norm() / b.norm()) for a, b in zip(found, right, strict=True)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()
    for shape in SHAPES:
        print(shape, {way.__name__: round(milliseconds(way, shape), 1) for way in WAYS}, flush=True)
    for deviation in (1.0, 9.0):
        for way in WAYS[2:]:
            print(f"errors, {deviation:g}: {way.__name__}", [round(each, 4) for each in errors(way, deviation)])
