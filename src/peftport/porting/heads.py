"""Maps of keys and values that keep to heads: each receiver head takes one origin head, rotated into its basis.

    score_ij = ||K_i^T K'_j||_* / (||K_i|| ||K'_j||)  + the same of values          i an origin head, j a receiver head

Heads are matched so that the sum of scores is largest, each once before any is taken again (Hungarian method). A
prefix has no other published way than copying: all of this is ours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from peftport.hosts.slots import Slot
from peftport.porting.maps import Dense, Moments, Sums, matched, orthogonal
from peftport.porting.spaces import HeadMoments

HeadMap = Callable[[Sums, slice, slice], Dense]


def match_heads(moments: HeadMoments, origin: Slot, receiver: Slot) -> list[int]:
    """For each receiver head the origin head it takes."""
    score = _scores(moments.keys, origin, receiver) + _scores(moments.values, origin, receiver)
    return matched(score)


def _scores(moments: Moments, origin: Slot, receiver: Slot) -> Tensor:
    """Nuclear norms of the heads' cross products, (H_s, H_t), 1 for heads that are rotations of one another."""
    sums = moments.all
    d_s, d_t = origin.out_width // origin.heads, receiver.out_width // receiver.heads
    blocks = sums.ab.view(origin.heads, d_s, receiver.heads, d_t).transpose(1, 2)  # (H_s, H_t, d_s, d_t)
    nuclear = torch.linalg.svdvals(blocks).sum(-1)
    norms = torch.outer(_norms(sums.aa, origin.heads), _norms(sums.bb, receiver.heads))
    score: Tensor = nuclear / norms.clamp(min=1e-30)
    return score


def _norms(gram: Tensor, heads: int) -> Tensor:
    return gram.diagonal().view(heads, -1).sum(1).clamp(min=0).sqrt()


def by_head(sums: Sums, heads: list[int], origin: Slot, receiver: Slot, fit: HeadMap) -> Dense:
    """One map for all heads from one a head: block (heads[j], j) is fitted, all else is zero."""
    d_s, d_t = origin.out_width // origin.heads, receiver.out_width // receiver.heads
    there = torch.zeros(origin.out_width, receiver.out_width, dtype=torch.float64)
    back = torch.zeros(receiver.out_width, origin.out_width, dtype=torch.float64)
    for j, i in enumerate(heads):
        rows, columns = slice(i * d_s, (i + 1) * d_s), slice(j * d_t, (j + 1) * d_t)
        own = fit(sums, rows, columns)
        there[rows, columns], back[columns, rows] = own.there, own.back
    kept = len(set(heads))
    moved = "" if heads == list(range(len(heads))) else f", heads {heads}"
    return Dense(there, back, f"{kept} of {origin.heads} heads{moved}")


def rotation(sums: Sums, rows: slice, columns: slice) -> Dense:
    """The orthogonal map of one head."""
    scale = (sums.aa.diagonal()[rows].sum() * sums.bb.diagonal()[columns].sum()).clamp(min=0).sqrt()
    return orthogonal(sums.ab[rows, columns], float(scale))


def gain(sums: Sums, rows: slice, columns: slice) -> float:
    """Root mean square of the receiver's head over that of the origin's."""
    ours, theirs = (float(gram.diagonal()[part].mean()) for gram, part in ((sums.aa, rows), (sums.bb, columns)))
    return (theirs / ours) ** 0.5 if ours > 0 and theirs > 0 else 1.0
