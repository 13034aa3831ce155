"""Maps that respect heads: each head of the receiver takes one head of the origin, rotated into its basis.

    score_ij = ||K_i^T K'_j||_* / (||K_i|| ||K'_j||)  + the same of values          i an origin head, j a receiver head

The score is 1 + 1 for heads that are rotations of one another. Heads are matched so that the sum of scores is largest;
none is taken twice before all are taken once (Hungarian method). All of this is ours: apart from copying, we know of no
published way to port a prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from peftport.core.libraries import torch
from peftport.hosts.slots import Slot
from peftport.porting.alignment.maps import Dense, Moments, SecondMoments, matched
from peftport.porting.alignment.rotations import alignment, measured, polar

if TYPE_CHECKING:
    from torch import Tensor

HeadMap = Callable[[SecondMoments, slice, slice], Dense]
Heads = tuple[int, int]  # how many the origin and the receiver have


def heads_of(origin: Slot, receiver: Slot) -> Heads:
    """The numbers of key and value heads of two attention blocks."""
    return origin.heads, receiver.heads


def match_heads(moments: tuple[SecondMoments, ...], heads: Heads) -> list[int]:
    """For each receiver head, the origin head that it takes; scores are summed over ``moments`` (keys, values)."""
    return matched(torch.stack([_scores(sums, heads) for sums in moments]).sum(0))


def _scores(sums: SecondMoments, heads: Heads) -> Tensor:
    """Normalised nuclear norms of the heads' cross products, (H_s, H_t): 1 for rotations of one another."""
    blocks = sums.ab.reshape(heads[0], -1, heads[1], sums.ab.shape[1] // heads[1]).transpose(1, 2)
    nuclear = torch.linalg.svdvals(blocks).sum(-1)  # of (H_s, H_t, d_s, d_t)
    norms = torch.outer(_norms(sums.aa, heads[0]), _norms(sums.bb, heads[1]))
    score: Tensor = nuclear / norms.clamp(min=1e-30)
    return score


def _norms(gram: Tensor, heads: int) -> Tensor:
    return gram.diagonal().reshape(heads, -1).sum(1).clamp(min=0).sqrt()


def by_head(sums: SecondMoments, order: list[int], heads: Heads, fit: HeadMap) -> Dense:
    """One map for all heads: ``fit`` gives the block (order[j], j) of each receiver head j; the rest is zero."""
    width, other = sums.ab.shape
    d_s, d_t = width // heads[0], other // heads[1]
    there = torch.zeros(width, other, dtype=torch.float64)
    back = torch.zeros(other, width, dtype=torch.float64)
    for j, i in enumerate(order):
        rows, columns = slice(i * d_s, (i + 1) * d_s), slice(j * d_t, (j + 1) * d_t)
        block = fit(sums, rows, columns)
        there[rows, columns], back[columns, rows] = block.there, block.back
    kept = len(set(order))
    moved = "" if order == list(range(len(order))) else f", heads {order}"
    return Dense(there, back, f"{kept} of {heads[0]} heads{moved}")


def head_rotation(sums: SecondMoments, rows: slice, columns: slice) -> Dense:
    """The orthogonal map of one head; where its rows leave it open, the identity if the heads have one width."""
    cross = sums.ab[rows, columns]
    there = polar(cross, torch.eye(len(cross), dtype=cross.dtype) if cross.shape[0] == cross.shape[1] else None)
    return Dense(there, there.mT)


def rotated(sums: SecondMoments, heads: Heads) -> Dense:
    """The map that matches heads by these rows alone and rotates each."""
    return by_head(sums, match_heads((sums,), heads), heads, head_rotation)


def head_alignment(moments: Moments, heads: Heads) -> str:
    """For the record: how well rotations fitted on the other rows line up the held-out rows."""
    return measured("alignment", alignment(rotated(moments.fit, heads).there, moments.held))


def gain(sums: SecondMoments, rows: slice, columns: slice) -> float:
    """The root mean square of the receiver's head divided by that of the origin's."""
    ours, theirs = (float(gram.diagonal()[part].mean()) for gram, part in ((sums.aa, rows), (sums.bb, columns)))
    return (theirs / ours) ** 0.5 if ours > 0 and theirs > 0 else 1.0
