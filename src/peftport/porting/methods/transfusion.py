"""transfusion: match attention heads and hidden units by weights alone, and permute the update accordingly.

    heads      min over permutations of  sum over W_q, W_k, W_v, W_o of  || sigma(W^i) - sigma(W'^j) ||
    units      within a head:  max sum of  <W_q[a], W_q'[b]> + <W_k[a], W_k'[b]>,  and of W_v's rows, W_o's columns
    FFN        max sum of  <W_in[a], W_in'[b]> + <W_gate[a], W_gate'[b]> + <W_out[:, a], W_out'[:, b]>

sigma has the singular values of a head's matrix. From the paper (arXiv 2505.22697): heads are matched by the distance
of their singular values, which a change of basis within a head does not alter, and then units within heads. Each
matching is an assignment problem, solved by the Hungarian method. Ours: with grouped queries, key heads are matched
first, then the query heads within a group; with rotary positions, queries and keys keep their order within a head,
because the rotation depends on it; the residual stream keeps its basis, so adapters are copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot
from peftport.hosts.weights import HostWeights
from peftport.porting.alignment.inputs import AlignInputs
from peftport.porting.alignment.maps import Map, Reordering, assignment, identity, matched
from peftport.porting.alignment.parts import part_rows
from peftport.porting.alignment.places import unplaced
from peftport.porting.alignment.spaces import FUSED_UNITS, UNITS
from peftport.porting.alignment.transport import Aligner, AligningPorter
from peftport.porting.base import Fits
from peftport.porting.pairs import Pair
from peftport.techniques.base import Technique

if TYPE_CHECKING:
    from torch import Tensor


class TransFusion(AligningPorter):
    """Permutations of heads, units within heads, and FFN units."""

    name = "transfusion"
    title = "heads and units matched by weights, the update permuted"
    source = "TransFusion, arXiv 2505.22697"
    needs = "weights"
    fits = Fits(width="same", depth="same")

    @override
    def cannot_carry_at(self, technique: Technique[Any], slot: Slot, slots: Mapping[str, Slot]) -> str:
        return unplaced(slot, slots, technique.roles)

    @override
    def align(self, inputs: AlignInputs) -> Aligner:
        # No matrix of a host is read before a slot is asked for.
        return Permutations(inputs.origin, inputs.receiver)


@dataclass(frozen=True, eq=False)
class BlockOrder:
    """The orders of one attention block, flat over heads: of queries, keys, values, and the inputs of W_o."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    mixed: Tensor


class Permutations(Aligner):
    """The orders of heads and units, found for each block when they are first needed."""

    def __init__(self, origin: Host, receiver: Host) -> None:
        self.origin, self.receiver = HostWeights(origin), HostWeights(receiver)
        self._blocks: dict[str, BlockOrder] = {}
        self._units: dict[str, Tensor] = {}

    @override
    def into(self, pair: Pair) -> Map:
        # Only the inputs of W_o and of the FFN's last map are permuted; all others are the residual stream.
        layer, _, site = pair.receiver.name.rpartition(".")
        if pair.receiver.kind != "linear":
            return identity(pair.receiver.in_width)
        if site.endswith("_o"):
            return _order(self._block(layer, site.removesuffix("_o")).mixed)
        return _order(self._ffn(layer)) if site == "ffn_out" else identity(pair.receiver.in_width)

    @override
    def out(self, pair: Pair) -> Map:
        # Only queries, keys, values and FFN units are permuted; all other outputs go to the residual stream.
        layer, _, site = pair.receiver.name.rpartition(".")
        if site in UNITS:
            return _order(self._ffn(layer))
        kind, _, letter = site.partition("_")
        if kind in ("attn", "cross") and letter in ("q", "k", "v"):
            block = self._block(layer, kind)
            return _order({"q": block.queries, "k": block.keys, "v": block.values}[letter])
        if letter == "qkv":
            block = self._block(layer, kind)
            sites = [f"{kind}_{each}" for each in "qkv"]
            return self._fused(pair, sites, [block.queries, block.keys, block.values])
        if site in FUSED_UNITS:
            return self._fused(pair, UNITS, [self._ffn(layer)] * len(UNITS))
        return identity(pair.receiver.out_width)

    @override
    def hidden(self) -> Map:
        return identity(self.receiver.host.width)

    @override
    def keys_values(self, pair: Pair) -> tuple[Map, Map]:
        layer, _, kind = pair.receiver.name.rpartition(".")
        block = self._block(layer, kind)
        return _order(block.keys), _order(block.values)

    def _fused(self, pair: Pair, sites: Sequence[str], orders: Sequence[Tensor]) -> Map:
        """The order of the outputs of a fused matrix, from those of its parts."""
        whole = torch.arange(pair.receiver.out_width)
        ours = part_rows(self.origin.host, pair.origin, sites)
        theirs = part_rows(self.receiver.host, pair.receiver.name, sites)
        order = whole.clone()
        for taken, rows, own in zip(ours, theirs, orders, strict=True):
            order[rows] = whole[taken][own]
        return _order(order)

    def _block(self, layer: str, kind: str) -> BlockOrder:
        name = f"{layer}.{kind}"
        if name not in self._blocks:
            self._blocks[name] = self._match(layer, kind)
        return self._blocks[name]

    def _match(self, layer: str, kind: str) -> BlockOrder:
        """Match heads by their singular values, then units by their weights."""
        slot = self.receiver.host.slots[f"{layer}.{kind}"]
        ours, theirs = (_Heads.of(host, layer, kind, slot.heads) for host in (self.origin, self.receiver))
        heads = matched(-_distance(ours.spectra(), theirs.spectra()))
        queries = self._query_heads(ours, theirs, heads)
        rotary = self.receiver.host.layout.rotary
        qk, vo = [], []
        for j, i in enumerate(heads):
            keep = torch.arange(ours.width)
            qk.append(keep if rotary else assignment(ours.qk(i, queries[j]) @ theirs.qk(j).mT).order)
            vo.append(assignment(ours.vo(i, queries[j]) @ theirs.vo(j).mT).order)
        group, width = ours.group, ours.width
        mixed = [q * width + vo[j] for j, of_head in enumerate(queries) for q in of_head]
        asked = [q * width + qk[j] for j, of_head in enumerate(queries) for q in of_head]
        assert len(mixed) == len(heads) * group
        return BlockOrder(
            torch.cat(asked),
            torch.cat([i * width + order for i, order in zip(heads, qk, strict=True)]),
            torch.cat([i * width + order for i, order in zip(heads, vo, strict=True)]),
            torch.cat(mixed),
        )

    def _query_heads(self, ours: _Heads, theirs: _Heads, heads: list[int]) -> list[list[int]]:
        """Return the origin's query heads for each key head of the receiver, in the order of the receiver's."""
        queries = []
        for j, i in enumerate(heads):
            distance = _distance(ours.query_spectra(i), theirs.query_spectra(j))
            queries.append([i * ours.group + g for g in matched(-distance)])
        return queries

    def _ffn(self, layer: str) -> Tensor:
        if layer not in self._units:
            score = torch.zeros(())
            for site in ("ffn_in", "ffn_gate", "ffn_out"):
                name = f"{layer}.{site}"
                if name in self.origin.host.slots:
                    a, b = (host.matrix(host.host.slots[name]).double() for host in (self.origin, self.receiver))
                    score = score + (a.mT @ b if site == "ffn_out" else a @ b.mT)
            self._units[layer] = assignment(score).order
        return self._units[layer]


@dataclass(frozen=True, eq=False)
class _Heads:
    """One block's matrices by key head: q (H, G, d, D), k and v (H, d, D), o (H, G, D, d)."""

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor

    @classmethod
    def of(cls, host: HostWeights, layer: str, kind: str, heads: int) -> _Heads:
        q, k, v, o = (host.matrix(host.host.slots[f"{layer}.{kind}_{letter}"]).double() for letter in "qkvo")
        width = len(k) // heads
        group = len(q) // len(k)
        by_head = o.mT.reshape(heads, group, width, -1).mT
        return cls(
            q.reshape(heads, group, width, -1), k.reshape(heads, width, -1), v.reshape(heads, width, -1), by_head
        )

    @property
    def width(self) -> int:
        return self.k.shape[1]

    @property
    def group(self) -> int:
        return self.q.shape[1]

    def spectra(self) -> Tensor:
        """(H, 4, d): singular values of each head's k and v, and the mean ones of its group's q and o."""
        q, o = (torch.linalg.svdvals(m).mean(1) for m in (self.q, self.o))
        return torch.stack([q, torch.linalg.svdvals(self.k), torch.linalg.svdvals(self.v), o], dim=1)

    def query_spectra(self, head: int) -> Tensor:
        """(G, 2, d): singular values of q and o of every query head in one group."""
        return torch.stack([torch.linalg.svdvals(self.q[head]), torch.linalg.svdvals(self.o[head])], dim=1)

    def qk(self, head: int, queries: list[int] | None = None) -> Tensor:
        """The features by which units of queries and keys are matched, (d, (G + 1) D); query heads in a given order."""
        return torch.cat([*self._picked(self.q, head, queries), self.k[head]], dim=1)

    def vo(self, head: int, queries: list[int] | None = None) -> Tensor:
        """The features by which units of values are matched, (d, (G + 1) D)."""
        return torch.cat([*[m.mT for m in self._picked(self.o, head, queries)], self.v[head]], dim=1)

    def _picked(self, each: Tensor, head: int, queries: list[int] | None) -> list[Tensor]:
        order = range(self.group) if queries is None else [q - head * self.group for q in queries]
        return [each[head, g] for g in order]


def _distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """The distances of singular values (H, matrices, d), summed over matrices: (H_s, H_t)."""
    distance: Tensor = (ours[:, None] - theirs[None]).norm(dim=-1).sum(-1)
    return distance


def _order(order: Tensor) -> Reordering:
    moved = int((order != torch.arange(len(order))).sum())
    return Reordering(order, f"{moved} of {len(order)} units moved" if moved else "nothing moved")
