"""subspace: project an update on the leading singular subspaces of the receiver's own matrices.

    P = U U^T, R = V V^T of the k leading singular vectors of W        par(dW) = P_s dW R_s,  perp(dW) = dW - par(dW)
    dW' = P_t par(dW) R_t  +  perp(dW) - P_t perp(dW) R_t

The first term, from LoRA-X (arXiv 2501.16559), projects the part of the update inside the origin's subspaces on the
receiver's. The second follows the idea of ProLoRA (arXiv 2506.04244), which carries the part outside the origin's
subspaces to the part outside the receiver's. Ours: parts that are inside on one side only count as outside, so that a
port to the same host is the identity; k is half of the smaller side of the matrix, at most 256; the result, which has a
higher rank, is cut to the module's rank by SVD; and the overlap of two subspaces is measured above what random ones
have:

    overlap  o = ||U_s^T U_t||_F^2 / k,    above chance  (o - k/D) / (1 - k/D),    the smaller of both sides

Slots whose overlap is below a threshold are left out, as in both papers (which measure it otherwise). For a technique
whose update is not a product of two matrices, only the output side is used; for prefixes, those of the maps that make
keys and values. A prefix cannot be left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot
from peftport.porting.alignment.bases import Bases, key_and_value_sites
from peftport.porting.alignment.inputs import AlignInputs
from peftport.porting.alignment.low_rank import Leading
from peftport.porting.alignment.maps import Map, Thin, identity
from peftport.porting.alignment.places import without_matrix
from peftport.porting.alignment.transport import Aligner, AligningPorter, CarriedSlot, Own
from peftport.porting.base import Fits
from peftport.porting.pairs import Pair
from peftport.techniques.base import Technique
from peftport.techniques.roles import PRODUCT, Roles, Scales, Writes, reads_inputs

if TYPE_CHECKING:
    from torch import Tensor

THRESHOLD = 0.1  # the least overlap above chance; not tuned


class Subspace(AligningPorter):
    """Projection of an update on the receiver's leading subspaces, and of its rest on what is outside of these."""

    name = "subspace"
    title = "projection on the receiver's leading singular subspaces"
    source = "LoRA-X, arXiv 2501.16559; ProLoRA, arXiv 2506.04244"
    needs = "weights"
    fits = Fits(width="same", depth="any")

    @override
    def cannot_carry(self, technique: Technique[Any]) -> str:
        if technique.roles != PRODUCT and reads_inputs(technique.roles):
            return "it reads what goes into a linear map, and its update is no product of two matrices"
        return ""

    @override
    def cannot_carry_at(self, technique: Technique[Any], slot: Slot, slots: Mapping[str, Slot]) -> str:
        return without_matrix(slot, slots)

    @override
    def align(self, inputs: AlignInputs) -> Aligner:
        return Projections(Bases(inputs.origin, inputs.receiver, inputs.rng), inputs.receiver)


class Projections(Aligner):
    """Projectors on the leading singular vectors of both hosts' matrices."""

    def __init__(self, bases: Bases, receiver: Host) -> None:
        self.bases, self.receiver = bases, receiver

    @override
    def carry(self, pair: Pair, own: Own, roles: Roles) -> CarriedSlot:
        if roles == PRODUCT:
            return self.product(pair, own)
        if pair.receiver.kind == "attention":
            return super().carry(pair, own, roles)
        basis = self.bases.at(pair)
        overlap = above_chance(half(basis.origin).u, half(basis.receiver).u)
        if overlap < THRESHOLD:
            silent = {name: own[name] * 0 for name, role in roles.items() if isinstance(role, Writes | Scales)}
            return CarriedSlot({**own, **silent}, _left_out(overlap))
        return super().carry(pair, own, roles)

    def product(self, pair: Pair, matrices: Own) -> CarriedSlot:
        """The four terms of dW' as thin factors, side by side; the rank is cut back by the caller."""
        basis = self.bases.at(pair)
        ours, theirs = half(basis.origin), half(basis.receiver)
        overlap = min(above_chance(ours.u, theirs.u), above_chance(ours.v, theirs.v))
        if overlap < THRESHOLD:
            return CarriedSlot({"A": matrices["A"], "B": matrices["B"] * 0}, _left_out(overlap))
        b, a = matrices["B"], matrices["A"].mT
        b_in, a_in = _project(ours.u, b), _project(ours.v, a)
        left = [b, -b_in, -_project(theirs.u, b), 2 * _project(theirs.u, b_in)]
        right = [a, a_in, _project(theirs.v, a), _project(theirs.v, a_in)]
        made = {"A": torch.cat(right, dim=1).mT, "B": torch.cat(left, dim=1)}
        return CarriedSlot(made, f"overlap {overlap:.2f}{basis.error}")

    @override
    def into(self, pair: Pair) -> Map:
        # Only bottlenecks at sums need this map, and a sum is a single space.
        return self.out(pair)

    @override
    def out(self, pair: Pair) -> Map:
        basis = self.bases.at(pair)
        return _projector(half(basis.origin).u, half(basis.receiver).u)

    @override
    def hidden(self) -> Map:
        # The residual streams have the same width, and the weights tell no map between them.
        return identity(self.receiver.width)

    @override
    def keys_values(self, pair: Pair) -> tuple[Map, Map]:
        keys, values = (self.bases.at(pair, site) for site in key_and_value_sites(pair))
        return (
            _projector(half(keys.origin).u, half(keys.receiver).u),
            _projector(half(values.origin).u, half(values.receiver).u),
        )


def half(vectors: Leading) -> Leading:
    """At most half of the singular vectors, since all of them would span the whole space."""
    k = max(1, min(len(vectors.s), min(len(vectors.u), len(vectors.v)) // 2))
    return Leading(vectors.u[:, :k], vectors.s[:k], vectors.v[:, :k], vectors.bound)


def above_chance(ours: Tensor, theirs: Tensor) -> float:
    """The overlap of two subspaces (D, k): 1 if they are equal, on average 0 if they are random."""
    width, k = ours.shape
    overlap = float((ours.mT @ theirs).square().sum()) / k
    return (overlap - k / width) / (1 - k / width) if k < width else 1.0


def _projector(ours: Tensor, theirs: Tensor) -> Thin:
    return Thin(ours, ours.mT @ theirs, theirs, rest=True, note=f"overlap {above_chance(ours, theirs):.2f}")


def _project(basis: Tensor, columns: Tensor) -> Tensor:
    return basis @ (basis.mT @ columns)


def _left_out(overlap: float) -> str:
    return f"left out: overlap {overlap:.2f} above chance, under {THRESHOLD}"
