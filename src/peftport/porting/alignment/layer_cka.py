"""The similarity of two hosts' layers, and the pairing of layers that keeps their order and is most similar in sum.

    CKA(X, Y) = ||Y_c^T X_c||_F^2 / (||X_c^T X_c||_F ||Y_c^T Y_c||_F)      Kornblith et al. 2019, arXiv 1905.00414

X and Y are the residual streams after two layers, one row per word, and c means centred. CKA (centred kernel alignment)
is 1 for streams that are rotations of one another. It is computed from n x n products, so widths may differ.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.porting.alignment.activations import paired_rows
from peftport.porting.base import PortInputs

if TYPE_CHECKING:
    from torch import Tensor

MOST_WORDS = 768


def similarity(origin: Host, receiver: Host, inputs: PortInputs) -> dict[str, Tensor]:
    """CKA of every pair of layers, (L_s, L_t), by stack; only stacks with the same name in both hosts are compared."""
    ours = [name for name, slot in origin.slots.items() if slot.site == "ffn_sum"]
    theirs = [name for name, slot in receiver.slots.items() if slot.site == "ffn_sum"]
    if not ours or not theirs:
        return {}
    rows: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
    words = 0
    for seen, met in paired_rows(origin, receiver, ours, theirs, inputs, "comparing layers"):
        for side, names, seen_rows in (("origin", ours, seen), ("receiver", theirs, met)):
            for name in names:
                rows[side, name].append(seen_rows[name].y)
        words += len(rows["origin", ours[0]][-1])
        if words >= MOST_WORDS:
            break
    products = {key: _product(torch.cat(parts)[:MOST_WORDS]) for key, parts in rows.items()}
    tables: dict[str, Tensor] = {}
    for stack in dict.fromkeys(name.rsplit(".", 2)[0] for name in theirs):
        first = [products["origin", n] for n in ours if n.rsplit(".", 2)[0] == stack]
        second = [products["receiver", n] for n in theirs if n.rsplit(".", 2)[0] == stack]
        if first:
            tables[stack] = torch.stack([torch.stack([(a * b).sum() for b in second]) for a in first])
    return tables


def _product(rows: Tensor) -> Tensor:
    """X_c X_c^T divided by its norm, (n, n): the sum of the entrywise product of two such matrices is their CKA."""
    centred = rows - rows.mean(0)
    product: Tensor = centred @ centred.mT
    unit: Tensor = product / product.norm().clamp(min=1e-30)
    return unit


def in_order(table: Tensor) -> list[int]:
    """For each column (receiver layer) a row (origin layer), in order, so that the sum is largest.

    Each row is taken at most once if there are enough rows; otherwise consecutive columns may take the same row.
    """
    rows, columns = table.shape
    step = 1 if rows >= columns else 0
    best = torch.full((columns, rows), -float("inf"), dtype=table.dtype)
    came = torch.zeros((columns, rows), dtype=torch.long)
    best[0] = table[:, 0]
    for j in range(1, columns):
        for i in range(step, rows):
            before = best[j - 1, : i - step + 1]
            came[j, i] = before.argmax()
            best[j, i] = before.max() + table[i, j]
    path = [int(best[-1].argmax())]
    for j in range(columns - 1, 0, -1):
        path.append(int(came[j, path[-1]]))
    return path[::-1]
