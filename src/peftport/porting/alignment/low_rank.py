"""Leading singular vectors of large matrices, and thin products cut to a lower rank without forming the product.

Singular vectors of matrices over `EXACT_WIDTH` come from a randomised range finder Q with power iterations (Halko,
Martinsson & Tropp 2011, arXiv 0909.4061, alg. 4.4 and 5.1). Its error is bounded by

    ||W - Q Q^T W|| <= 10 sqrt(2/pi) max_i ||(I - Q Q^T) W w_i||        p Gaussian vectors w_i (eq. 4.3)

which fails with a probability of 10^-p only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from peftport.core.libraries import torch

if TYPE_CHECKING:
    from torch import Tensor

EXACT_WIDTH = 1024  # up to this width an exact decomposition takes a second or two at most
OVERSAMPLING, POWER_ITERATIONS, PROBES = 16, 3, 6


@dataclass(frozen=True, eq=False)
class Leading:
    """U (D_out, k), s (k), V (D_in, k): W differs from U diag(s) V^T by at most ``bound`` in spectral norm."""

    u: Tensor
    s: Tensor
    v: Tensor
    bound: float


def leading(matrix: Tensor, k: int, rng: np.random.Generator) -> Leading:
    """The k leading singular vectors and values of a matrix (D_out, D_in); exact if it is small."""
    k = min(k, *matrix.shape)
    if min(matrix.shape) <= EXACT_WIDTH:
        u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
        bound = float(s[k]) if k < len(s) else 0.0
        return Leading(u[:, :k], s[:k], vt[:k].mT, bound)
    return _randomised(matrix.float(), k, rng)


def _randomised(matrix: Tensor, k: int, rng: np.random.Generator) -> Leading:
    size = min(k + OVERSAMPLING, *matrix.shape)
    q = torch.linalg.qr(matrix @ _gaussian(rng, matrix.shape[1], size)).Q  # (D_out, size)
    for _ in range(POWER_ITERATIONS):
        q = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.mT @ q).Q).Q
    u, s, vt = torch.linalg.svd(q.mT @ matrix, full_matrices=False)
    probes = matrix @ _gaussian(rng, matrix.shape[1], PROBES)
    beyond = float((probes - q @ (q.mT @ probes)).norm(dim=0).max())
    dropped = float(s[k]) if k < len(s) else 0.0
    bound = 10 * math.sqrt(2 / math.pi) * beyond + dropped
    return Leading((q @ u[:, :k]).double(), s[:k].double(), vt[:k].mT.double(), bound)


def _gaussian(rng: np.random.Generator, rows: int, columns: int) -> Tensor:
    return torch.from_numpy(rng.normal(size=(rows, columns)).astype(np.float32))


@dataclass(frozen=True, eq=False)
class Factors:
    """B (D_out, R) and A (R, D_in), and the share of the product's norm that was lost by cutting the rank."""

    b: Tensor
    a: Tensor
    lost: float


def compress(b: Tensor, a: Tensor, rank: int) -> Factors:
    """B A cut to a rank with the least Frobenius error (Eckart & Young); B (D_out, m), A (m, D_in), m small."""
    if b.shape[1] == rank:
        return Factors(b, a, 0.0)
    qb, rb = torch.linalg.qr(b)
    qa, ra = torch.linalg.qr(a.mT)
    u, s, vt = torch.linalg.svd(rb @ ra.mT, full_matrices=False)
    kept, root = min(rank, len(s)), s.sqrt()
    lower_b, lower_a = b.new_zeros(b.shape[0], rank), a.new_zeros(rank, a.shape[1])
    lower_b[:, :kept] = qb @ (u * root)[:, :kept]
    lower_a[:kept] = (root[:, None] * vt)[:kept] @ qa.mT
    total = float(s.square().sum())
    return Factors(lower_b, lower_a, math.sqrt(float(s[kept:].square().sum()) / total) if total else 0.0)
