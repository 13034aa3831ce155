"""lorasuite: carry an update through maps computed from both hosts' own matrices (LoRASuite, arXiv 2505.13515).

    residual stream     W_h = pinv(E_s) E_t               E: embeddings of the tokens that both vocabularies contain
    output of a map W   pinv(W_s^T) W_h W_t^T             kept only between matched heads, zero elsewhere
    layers              paired in order so that the sum of their linear CKA is largest (dynamic programming)

From the paper: these three maps, and the matching of heads, which pairs them one to one so that the sum of the norms of
their blocks is largest (Hungarian method). The paper then tunes the module briefly without warm-up; here the budgets of
a comparison do that.

Ours: the pseudo-inverse of W_s^T. The paper has a transpose in its place, with which a port to the same host would
not be the identity. A pseudo-inverse determines only part of the map if there are fewer shared tokens than
dimensions, or if W has more outputs than inputs. The rest is the identity in the residual stream (of hosts with the
same width), and one rotation per head behind a map, fitted on the rows of the two matrices (alignment.parts). FFN
units have a nonlinearity between their maps, so they are matched one to one, by the cosine of the rows of W_s W_h and
W_t. Hosts with equally many layers are paired layer by layer, the only pairing that keeps the order and uses every
layer.

A slot's record says how much of the embeddings of every second shared token a fit on the other tokens explains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from peftport.core.errors import BadRequest
from peftport.core.libraries import F, torch
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot
from peftport.hosts.weights import HostWeights
from peftport.modules.module import Module
from peftport.porting.alignment.inputs import AlignInputs
from peftport.porting.alignment.layer_cka import in_order, similarity
from peftport.porting.alignment.maps import Dense, Map, Reordering, SecondMoments, assignment, matched
from peftport.porting.alignment.parts import expected, part_rows, parts
from peftport.porting.alignment.places import unplaced
from peftport.porting.alignment.rotations import measured
from peftport.porting.alignment.spaces import FUSED_UNITS, UNITS
from peftport.porting.alignment.transport import Aligner, AligningPorter
from peftport.porting.alignment.words import shared_tokens
from peftport.porting.base import Fits, Need, PortInputs
from peftport.porting.pairs import Pair, by_end, depths, pair_slots
from peftport.techniques import technique_named
from peftport.techniques.base import Technique

if TYPE_CHECKING:
    from torch import Tensor

RANK = 1e-6  # times the largest singular value: smaller ones may be rounding errors and count as zero


class LoraSuite(AligningPorter):
    """Maps from embeddings and weights; layers by CKA."""

    name = "lorasuite"
    title = "maps from shared tokens' embeddings and both hosts' weights; layers by CKA"
    source = "LoRASuite, arXiv 2505.13515"
    needs = "texts"
    fits = Fits(width="any", depth="any")

    @override
    def needs_for(self, module: Module, receiver: Host) -> Need:
        # Texts serve only to pair layers of hosts that differ in depth.
        slots = technique_named(module.spec.kind).slots(module.spec, receiver.slots)
        return "weights" if depths(module.matrices) == depths(slots) else "texts"

    @override
    def cannot_carry_at(self, technique: Technique[Any], slot: Slot, slots: Mapping[str, Slot]) -> str:
        return unplaced(slot, slots, technique.roles)

    @override
    def pairs(self, module: Module, receiver: Host, inputs: PortInputs) -> dict[str, Pair | None]:
        if self.needs_for(module, receiver) == "weights" or inputs.origin is None:
            return pair_slots(module, receiver.slots, receiver.kind, by_end)
        orders = {name: in_order(table) for name, table in similarity(inputs.origin, receiver, inputs).items()}

        def layer(stack: str, j: int, origin_layers: int, receiver_layers: int) -> int:
            return orders[stack][j] if stack in orders else by_end(stack, j, origin_layers, receiver_layers)

        return pair_slots(module, receiver.slots, receiver.kind, layer)

    @override
    def align(self, inputs: AlignInputs) -> Aligner:
        # Embeddings are read at once, the matrices of a slot when it is asked for.
        return Embedded(inputs.origin, inputs.receiver, embedding_map(inputs.origin, inputs.receiver))


def embedding_map(origin: Host, receiver: Host) -> Dense:
    """W_h there and back.

    Raises:
        BadRequest: hardly a shared token, or embeddings of another width than the host.

    """
    ours, theirs = origin.tokenizer.get_vocab(), receiver.tokenizer.get_vocab()
    e_s, e_t = HostWeights(origin).embeddings(), HostWeights(receiver).embeddings()
    for host, embeddings in ((origin, e_s), (receiver, e_t)):
        if embeddings.shape[1] != host.width:
            raise BadRequest(
                f"lorasuite: expected embeddings as wide as the host, {host.name}'s are {embeddings.shape[1]} of "
                f"{host.width}; use --method theseus"
            )
    rows = [(ours[token], theirs[token]) for token in shared_tokens(origin, receiver)]
    rows = [(i, j) for i, j in rows if i < len(e_s) and j < len(e_t)]
    if not rows:
        raise BadRequest(f"lorasuite: {origin.name} and {receiver.name} share no token; use --method theseus")
    a, b = e_s[[i for i, _ in rows]].double(), e_t[[j for _, j in rows]].double()
    note = measured("explained", explained(a, b))
    return Dense(_solved(a, b), _solved(b, a), f"{len(rows)} shared tokens, {note}")


def _solved(a: Tensor, b: Tensor) -> Tensor:
    """pinv(A) B; where widths are equal, plus the identity on the directions that no row of A reaches."""
    inverse = torch.linalg.pinv(a, rtol=RANK)
    solution: Tensor = inverse @ b
    if a.shape[1] == b.shape[1]:
        solution = solution + torch.eye(a.shape[1], dtype=a.dtype) - inverse @ a
    return solution


def explained(a: Tensor, b: Tensor) -> float | None:
    """The share of the variance of every second row of B that a fit on the others explains; None for too few rows."""
    held = b[1::2] - b[1::2].mean(0) if len(b) > 3 else b[:0]
    varied = float(held.square().sum())
    if not varied:
        return None
    return 1 - float((b[1::2] - a[1::2] @ _solved(a[::2], b[::2])).square().sum()) / varied


class Embedded(Aligner):
    """Maps made of W_h and of both hosts' matrices."""

    def __init__(self, origin: Host, receiver: Host, residual: Dense) -> None:
        self.origin, self.receiver, self.residual = HostWeights(origin), HostWeights(receiver), residual

    @override
    def into(self, pair: Pair) -> Map:
        # All linear maps read the residual stream, except W_o (which reads heads) and the FFN's last (its units).
        site = pair.receiver.site
        if pair.receiver.kind != "linear":
            return self.residual
        if site in ("attn_o", "cross_o"):
            return self._mixed(pair, site.removesuffix("_o"))
        return self._units(pair) if site == "ffn_out" else self.residual

    @override
    def out(self, pair: Pair) -> Map:
        # A map that writes to the residual stream shares the stream's map; others go through the two hosts' matrices.
        site = pair.receiver.site
        if site in UNITS:
            return self._units(pair)
        if site in FUSED_UNITS:
            return self._fused_units(pair)
        kind, _, letter = site.partition("_")
        if kind in ("attn", "cross") and letter in ("q", "k", "v"):
            whole = self._through(pair, site)
            heads = self._heads(pair, kind, letter)
            return _kept(whole, matched(_sizes(whole.there, *heads)), *heads)
        return self._through(pair, site) if letter == "qkv" else self.residual

    @override
    def hidden(self) -> Map:
        return self.residual

    @override
    def keys_values(self, pair: Pair) -> tuple[Map, Map]:
        # Keys and values together decide which heads are matched.
        kind = pair.receiver.site
        keys, values = self._through(pair, f"{kind}_k"), self._through(pair, f"{kind}_v")
        heads = self._heads(pair, kind, "k")
        order = matched(_sizes(keys.there, *heads) + _sizes(values.there, *heads))
        return _kept(keys, order, *heads), _kept(values, order, *heads)

    def _slots(self, pair: Pair, site: str) -> tuple[Slot, Slot]:
        names = (pair.origin, pair.receiver.name)
        ours, theirs = (f"{name.rpartition('.')[0]}.{site}" for name in names)
        return self.origin.host.slots[ours], self.receiver.host.slots[theirs]

    def _through(self, pair: Pair, site: str) -> Dense:
        """The map through both matrices, pinv(W_s^T) W_h W_t^T, and the map back."""
        ours, theirs = self._slots(pair, site)
        w_s, w_t = self.origin.matrix(ours).double(), self.receiver.matrix(theirs).double()
        there, open_there = _undone(w_s, self.residual.there @ w_t.mT)  # (D_out_s, D_out_t)
        back, open_back = _undone(w_t, self.residual.back @ w_s.mT)
        if open_there is not None and open_back is not None and there.shape[0] == there.shape[1]:
            sums = SecondMoments()
            sums.add(w_s.mT, self.residual.there @ w_t.mT)
            of = parts(self.origin.host, self.receiver.host, Pair(theirs, ours.name), "out")
            rest = expected(sums, of)
            if rest is not None:
                there, back = there + open_there @ rest, back + open_back @ rest.mT
        return Dense(there, back, self.residual.note)

    def _heads(self, pair: Pair, kind: str, letter: str) -> tuple[int, int]:
        """Count the heads that queries, keys or values have in both hosts."""
        blocks, slots = self._slots(pair, kind), self._slots(pair, f"{kind}_{letter}")
        first, second = (s.out_width * b.heads // b.out_width for s, b in zip(slots, blocks, strict=True))
        return first, second

    def _mixed(self, pair: Pair, kind: str) -> Dense:
        """The map of W_o's inputs: the values, repeated for each query head of a group; heads matched by queries."""
        queries, values = self._through(pair, f"{kind}_q"), self._through(pair, f"{kind}_v")
        q_heads, v_heads = self._heads(pair, kind, "q"), self._heads(pair, kind, "v")
        order = matched(_sizes(queries.there, *q_heads))
        groups = [q // v for q, v in zip(q_heads, v_heads, strict=True)]
        there = _repeated(values.there, v_heads, groups)
        return _kept(Dense(there, _repeated(values.back.mT, v_heads, groups).mT, values.note), order, *q_heads)

    def _units(self, pair: Pair) -> Reordering:
        """Match FFN units by the cosine of the rows that make them."""
        ours, theirs = self._slots(pair, "ffn_in")
        w_s, w_t = self.origin.matrix(ours).double(), self.receiver.matrix(theirs).double()
        return assignment(F.normalize(w_s @ self.residual.there, dim=1) @ F.normalize(w_t, dim=1).mT)

    def _fused_units(self, pair: Pair) -> Reordering:
        """The order of the FFN's units, for the gate and for the units that it gates, in one matrix."""
        order, sides = (
            self._units(pair).order,
            ((self.origin.host, pair.origin), (self.receiver.host, pair.receiver.name)),
        )
        ours, theirs = (part_rows(host, name, UNITS) for host, name in sides)
        whole = torch.full((pair.receiver.out_width,), -1)
        numbers = torch.arange(self.origin.host.slots[pair.origin].out_width)
        for taken, rows in zip(ours, theirs, strict=True):
            whole[rows] = torch.where(order >= 0, numbers[taken][order.clamp(min=0)], -1)
        return Reordering(whole)


def _undone(matrix: Tensor, made: Tensor) -> tuple[Tensor, Tensor | None]:
    """pinv(W^T) made, and the projector on the outputs that W cannot produce; None where it can produce all."""
    inverse = torch.linalg.pinv(matrix.mT, rtol=RANK)
    beyond = torch.eye(len(matrix), dtype=matrix.dtype) - inverse @ matrix.mT
    return inverse @ made, beyond if float(beyond.trace()) > 0.5 else None


def _sizes(whole: Tensor, origin_heads: int, receiver_heads: int) -> Tensor:
    """Frobenius norms of a map's blocks by head, (H_s, H_t)."""
    blocks = whole.view(origin_heads, len(whole) // origin_heads, receiver_heads, -1)
    return blocks.square().sum((1, 3)).sqrt()


def _kept(whole: Dense, order: list[int], origin_heads: int, receiver_heads: int) -> Dense:
    """The map with zeros outside the blocks of matched heads."""
    d_s, d_t = len(whole.there) // origin_heads, whole.there.shape[1] // receiver_heads
    mask = torch.zeros(origin_heads, receiver_heads, dtype=whole.there.dtype)
    mask[order, torch.arange(receiver_heads)] = 1
    wide = mask.repeat_interleave(d_s, 0).repeat_interleave(d_t, 1)
    return Dense(whole.there * wide, whole.back * wide.mT, whole.note)


def _repeated(whole: Tensor, heads: tuple[int, int], groups: list[int]) -> Tensor:
    """A map between value heads as one between query heads: each block repeated for all query heads of its groups."""
    d_s, d_t = len(whole) // heads[0], whole.shape[1] // heads[1]
    blocks = whole.view(heads[0], d_s, heads[1], d_t)
    return (
        blocks.repeat_interleave(groups[0], 0)
        .repeat_interleave(groups[1], 2)
        .reshape(heads[0] * groups[0] * d_s, heads[1] * groups[1] * d_t)
    )
