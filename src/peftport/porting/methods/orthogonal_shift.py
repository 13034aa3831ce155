"""orthogonal_shift: remove from an update its component along the host's own change, matrix by matrix.

    D = W_t - W_s (D_out, D_in)        dW' = dW - <dW, D> / <D, D> D        <X, Y> = tr(X^T Y)

The project merge-and-rebase has this method for whole weights; no paper is known. dW' is the matrix nearest to dW that
is orthogonal to D. It has full rank, as D has, and a LoRA cannot hold it. Cutting it to rank r would undo the method:
only some 2r/D of the norm of D lies in the directions that the cut keeps, and all the rest of the correction is lost.
Ours is the nearest matrix that is orthogonal to D and has the update's own columns or its own rows:

    P = Q Q^T,  Q R = qr(B)        dW' = B A - <B A, D> / <P D, P D>  P D        so  A' = A - f (R^-1 Q^T) D,  B' = B
    or, with A^T = Q R,            dW' = B A - <B A, D> / <D P, D P>  D P        so  B' = B - f D (Q R^-T),    A' = A

whichever changes the update less. <dW', D> is exactly 0, the rank stays r, and nothing of the size of W is decomposed.
The note on a slot has the cosine between dW and D, and the size of the change relative to the update.

Where D is zero but for rounding, nothing is removed, so a port to the same host is the identity. But what is removed
depends on the direction of D and not on its size, so a small change of the host may have a large effect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot
from peftport.hosts.weights import HostWeights
from peftport.modules.module import HEAD, Module
from peftport.porting.alignment.places import without_matrix
from peftport.porting.base import Fits, PortedMatrices, Porter, PortInputs
from peftport.techniques.base import Technique
from peftport.techniques.roles import PRODUCT

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-6  # times ||W_s||: a smaller D is the rounding of one matrix to float32 in two ways
SPANNED = 1e-10  # times the largest singular value: directions below it are not spanned


class OrthogonalShift(Porter):
    """The update without its component along the change between the two hosts."""

    name = "orthogonal_shift"
    title = "the update without its component along the host's own change"
    source = "the project merge-and-rebase (no paper known); low-rank form: ours"
    needs = "weights"
    fits = Fits(width="same", depth="same")

    @override
    def cannot_carry(self, technique: Technique[Any]) -> str:
        if technique.roles == PRODUCT:
            return ""
        return (
            "its update is no matrix that is added to a weight matrix, so it has no component along that one's change"
        )

    @override
    def cannot_carry_at(self, technique: Technique[Any], slot: Slot, slots: Mapping[str, Slot]) -> str:
        return without_matrix(slot, slots)

    @override
    def carry(self, module: Module, receiver: Host, rng: np.random.Generator, inputs: PortInputs) -> PortedMatrices:
        assert inputs.origin is not None  # checked: needs weights
        before, after = HostWeights(inputs.origin), HostWeights(receiver)
        made = {slot: dict(named) for slot, named in module.matrices.items()}
        notes = dict.fromkeys(made, "copied")
        slots = [name for name in made if name != HEAD]
        advance = inputs.progress.stage(
            f"comparing the weights of {inputs.origin.name} and {receiver.name}", len(slots)
        )
        for name in slots:
            old, new = before.matrix(inputs.origin.slots[name]).double(), after.matrix(receiver.slots[name]).double()
            shift, own = new - old, made[name]
            if float(shift.norm()) <= ROUNDING * float(old.norm()) < math.inf:
                notes[name] = "copied: the host's matrix has not changed"
            else:  # also where a number is NaN or infinite, which then shows in the result
                a, b, notes[name] = orthogonal_to(shift, own["A"].double(), own["B"].double())
                made[name] = {"A": a.to(own["A"].dtype), "B": b.to(own["B"].dtype)}
            advance(1)
        return PortedMatrices(made, notes)


def orthogonal_to(shift: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, str]:
    """A (R, D_in) and B (D_out, R) with <B A, shift> = 0, one of them as it was, and a note of what was removed."""
    along = float((b.mT @ shift * a).sum())  # <B A, D>, without forming B A
    size = float((b.mT @ b * (a @ a.mT)).sum().clamp(min=0).sqrt())  # ||B A||
    if size == 0 or along == 0:
        return a, b, "copied: no component along the host's change"
    columns, rows = _inside(b, shift), _inside(a.mT, shift.mT).mT  # P D and D P
    by_columns, by_rows = float(columns.square().sum()), float(rows.square().sum())
    if by_columns >= by_rows:
        a = a - along / by_columns * (torch.linalg.pinv(b, rtol=SPANNED) @ columns)
    else:
        b = b - along / by_rows * (rows @ torch.linalg.pinv(a, rtol=SPANNED))
    cosine = along / (size * float(shift.norm()))
    moved = abs(along) / max(by_columns, by_rows) ** 0.5 / size
    return a, b, f"cosine {cosine:.3f} with the host's change removed, by a change of {moved:.3f} of the update"


def _inside(basis: Tensor, matrix: Tensor) -> Tensor:
    """The projection of a matrix (D, ...) on the span of the columns of ``basis`` (D, R)."""
    u, s, _ = torch.linalg.svd(basis, full_matrices=False)
    spanned = u[:, s > SPANNED * s[0]]
    inside: Tensor = spanned @ (spanned.mT @ matrix)
    return inside
