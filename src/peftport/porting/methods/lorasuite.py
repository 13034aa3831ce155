"""lorasuite: carry an update through maps made of both hosts' own matrices (LoRASuite, arXiv 2505.13515).

    residual stream   W_h = pinv(E_s) E_t                  E: embeddings of the tokens that both vocabularies have
    behind a map W    pinv(W_s^T) W_h W_t^T                heads that fit best are kept (Hungarian method), others zero
    layers            by linear CKA of their outputs, in order, by dynamic programming

The paper's: these three, its head matching, and a short tuning without warm-up afterwards, which is left to the budget
of a comparison here. Ours: the pseudo-inverse of W_s, where the paper has W_s^T; without it a port to the same host is
not the identity. A matrix that puts out more than it takes in, or fewer tokens than dimensions, leave a map open: it is
completed by the identity between streams of one width, and behind a map by one rotation a head (alignment.parts), which
is fitted on the two matrices' rows. What a slot's record says of tokens is explained of every second one by a fit on
the others. FFN units are matched one to one by the cosine of W_s W_h and W_t, since their maps have no inverse. Hosts
of equal depth are paired layer by layer: the only order-preserving way.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from peftport.core.errors import BadRequest
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot
from peftport.hosts.weights import HostWeights
from peftport.modules.module import Module
from peftport.porting.alignment.layer_cka import in_order, similarity
from peftport.porting.alignment.maps import Dense, Map, Reordering, SecondMoments, assignment, matched
from peftport.porting.alignment.parts import expected, parts
from peftport.porting.alignment.rotations import measured
from peftport.porting.alignment.transport import Aligner, AligningPorter
from peftport.porting.alignment.words import shared_tokens
from peftport.porting.base import Fits, Need, PortInputs
from peftport.porting.pairs import Pair, by_end, depths, pair_slots

RANK = 1e-6  # of the largest singular value: directions under it are not told from rounding


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
        return "weights" if depths(module.matrices) == depths(receiver.slots) else "texts"

    @override
    def pairs(self, module: Module, receiver: Host, inputs: PortInputs) -> dict[str, Pair | None]:
        if self.needs_for(module, receiver) == "weights" or inputs.origin is None:
            return pair_slots(module, receiver.slots, receiver.kind, by_end)
        found = {name: in_order(table) for name, table in similarity(inputs.origin, receiver, inputs).items()}

        def layer(stack: str, j: int, origin_layers: int, receiver_layers: int) -> int:
            return found[stack][j] if stack in found else by_end(stack, j, origin_layers, receiver_layers)

        return pair_slots(module, receiver.slots, receiver.kind, layer)

    @override
    def align(
        self, module: Module, receiver: Host, pairs: Mapping[str, Pair], rng: np.random.Generator, inputs: PortInputs
    ) -> Aligner:
        # Embeddings are read at once, the matrices of a slot when it is asked for.
        assert inputs.origin is not None  # checked: needs weights
        return Embedded(inputs.origin, receiver, embedding_map(inputs.origin, receiver))


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
    """pinv(A) B and, where widths are equal, the identity for what no row of A has a part in."""
    inverse = torch.linalg.pinv(a, rtol=RANK)
    found: Tensor = inverse @ b
    if a.shape[1] == b.shape[1]:
        found = found + torch.eye(a.shape[1], dtype=a.dtype) - inverse @ a
    return found


def explained(a: Tensor, b: Tensor) -> float | None:
    """The share of the variation of every second row of B that a fit on the others explains; None without such."""
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
        # All linear maps read the residual stream but those behind the attention and behind the FFN's units.
        site = pair.receiver.site
        if site in ("attn_o", "cross_o"):
            return self._mixed(pair, site.removesuffix("_o"))
        return self._units(pair) if site == "ffn_out" else self.residual

    @override
    def out(self, pair: Pair) -> Map:
        # What writes to the residual stream has its map; all else goes through the two matrices.
        site = pair.receiver.site
        if site in ("ffn_in", "ffn_gate"):
            return self._units(pair)
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
        """The map of what goes into W_o: values, a copy for every query head of a group, matched as the queries are."""
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


def _undone(matrix: Tensor, made: Tensor) -> tuple[Tensor, Tensor | None]:
    """pinv(W^T) made, and the projector on the outputs that W never puts out; None where there are none."""
    inverse = torch.linalg.pinv(matrix.mT, rtol=RANK)
    beyond = torch.eye(len(matrix), dtype=matrix.dtype) - inverse @ matrix.mT
    return inverse @ made, beyond if float(beyond.trace()) > 0.5 else None


def _sizes(whole: Tensor, origin_heads: int, receiver_heads: int) -> Tensor:
    """Frobenius norms of a map's blocks by head, (H_s, H_t)."""
    blocks = whole.view(origin_heads, len(whole) // origin_heads, receiver_heads, -1)
    return blocks.square().sum((1, 3)).sqrt()


def _kept(whole: Dense, order: list[int], origin_heads: int, receiver_heads: int) -> Dense:
    """Only the blocks of matched heads."""
    d_s, d_t = len(whole.there) // origin_heads, whole.there.shape[1] // receiver_heads
    mask = torch.zeros(origin_heads, receiver_heads, dtype=whole.there.dtype)
    mask[order, torch.arange(receiver_heads)] = 1
    wide = mask.repeat_interleave(d_s, 0).repeat_interleave(d_t, 1)
    return Dense(whole.there * wide, whole.back * wide.mT, whole.note)


def _repeated(whole: Tensor, heads: tuple[int, int], groups: list[int]) -> Tensor:
    """A map of value heads as one of query heads: every block for all pairs of its groups' members."""
    d_s, d_t = len(whole) // heads[0], whole.shape[1] // heads[1]
    blocks = whole.view(heads[0], d_s, heads[1], d_t)
    return (
        blocks.repeat_interleave(groups[0], 0)
        .repeat_interleave(groups[1], 2)
        .reshape(heads[0] * groups[0] * d_s, heads[1] * groups[1] * d_t)
    )
