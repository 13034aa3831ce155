"""crosslora: carry an update between the truncated singular bases of both hosts' matrices (arXiv 2508.05232).

    W = U diag(s) V^T to rank k        dW' = U_t C_u^T (U_s^T dW V_s) C_v V_t^T

From the paper: a truncated SVD of both matrices, Frobenius-optimal linear maps C between the bases, and the projection
of the update. How exactly the paper makes C is not public. Ours is:

    equal widths     the orthogonal matrix with the least ||V_s C - V_t||_F, that is, U V^T of svd(V_s^T V_t). The part
                     of the update outside both bases is kept unchanged, so a port to the same host is the identity
    other widths     the bases have no common coordinates, so the i-th vector of one corresponds to the i-th of the
                     other. A singular vector's sign is arbitrary: the sum of the cubes of V's entries is made positive,
                     and U follows

k is at most 256. Wide matrices are decomposed by a randomised method; the note on a slot states its error bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from peftport.core.errors import SlotMismatch
from peftport.core.libraries import torch
from peftport.hosts.slots import Slot
from peftport.porting.alignment.bases import BasePair, Bases, key_and_value_sites
from peftport.porting.alignment.inputs import AlignInputs
from peftport.porting.alignment.low_rank import Leading
from peftport.porting.alignment.maps import Map, Thin, identity
from peftport.porting.alignment.places import without_matrix
from peftport.porting.alignment.transport import Aligner, AligningPorter
from peftport.porting.base import Fits
from peftport.porting.pairs import Pair
from peftport.techniques.base import Technique

if TYPE_CHECKING:
    from torch import Tensor


class CrossLora(AligningPorter):
    """Maps between singular bases."""

    name = "crosslora"
    title = "maps between both hosts' truncated singular bases"
    source = "Cross-LoRA, arXiv 2508.05232 (its exact shift is not public)"
    needs = "weights"
    fits = Fits(width="any", depth="any")

    @override
    def cannot_carry_at(self, technique: Technique[Any], slot: Slot, slots: Mapping[str, Slot]) -> str:
        return without_matrix(slot, slots)

    @override
    def align(self, inputs: AlignInputs) -> Aligner:
        return SingularBases(Bases(inputs.origin, inputs.receiver, inputs.rng))


class SingularBases(Aligner):
    """Maps between the leading singular vectors of both hosts' matrices."""

    def __init__(self, bases: Bases) -> None:
        self.bases = bases

    @override
    def into(self, pair: Pair) -> Map:
        # A sum is a single space, so the inputs of a bottleneck there have the same basis as its outputs.
        basis = self.bases.at(pair)
        return _map(basis, "u" if pair.receiver.kind != "linear" else "v")

    @override
    def out(self, pair: Pair) -> Map:
        return _map(self.bases.at(pair), "u")

    @override
    def hidden(self) -> Map:
        # The output basis of the last FFN, which writes to the residual stream, is taken for the stream's.
        ours, theirs = self.bases.origin.host, self.bases.receiver.host
        if ours.width == theirs.width:
            return identity(ours.width)
        last = [
            [n for n, s in host.slots.items() if (s.site, s.kind) == ("ffn_out", "linear")] for host in (ours, theirs)
        ]
        if not all(last):
            raise SlotMismatch(
                f"readout: `crosslora` carries a head of {ours.name} to another width by the FFN's last matrix, which "
                "one of the hosts has not; use --method theseus or regress"
            )
        return _map(self.bases.at(Pair(theirs.slots[last[1][-1]], last[0][-1])), "u")

    @override
    def keys_values(self, pair: Pair) -> tuple[Map, Map]:
        keys, values = key_and_value_sites(pair)
        return _map(self.bases.at(pair, keys), "u"), _map(self.bases.at(pair, values), "u")


def _map(basis: BasePair, side: str) -> Thin:
    ours, theirs = (getattr(vectors, side) for vectors in (basis.origin, basis.receiver))
    k = ours.shape[1]
    if len(ours) == len(theirs):
        u, _, vt = torch.linalg.svd(ours.mT @ theirs)
        core = u @ vt
        fit = float((ours.mT @ theirs).square().sum()) / k
        return Thin(ours, core, theirs, rest=True, note=f"{k} directions, overlap {fit:.2f}{basis.error}")
    signs = _signs(basis.origin) * _signs(basis.receiver)
    return Thin(ours, torch.diag(signs), theirs, rest=False, note=f"{k} directions by order{basis.error}")


def _signs(vectors: Leading) -> Tensor:
    """One sign for each pair of singular vectors, (k,), which chooses between (u, v) and (-u, -v)."""
    return torch.where(vectors.v.pow(3).sum(0) < 0, -1.0, 1.0).to(vectors.v.dtype)
