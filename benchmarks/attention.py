"""Torch's attention kernel against attention spelt out in matrix products and a softmax, at these texts' lengths.

OMP_NUM_THREADS=1 python benchmarks/attention.py     prints median milliseconds, forward and backward
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

SHAPES = ((16, 12, 32, 32), (16, 12, 48, 32), (16, 12, 64, 32), (128, 12, 40, 32))  # texts, heads, tokens, head width
Attention = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def spelt_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + mask) v."""
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5 + mask, -1) @ v


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


if __name__ == "__main__":
    for shape in SHAPES:
        kernel, plain = (milliseconds(f, shape) for f in (nn.functional.scaled_dot_product_attention, spelt_out))
        print(shape, f"kernel {kernel:.1f} ms, spelt out {plain:.1f} ms", flush=True)
