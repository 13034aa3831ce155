"""theseus: carry an update through orthogonal maps fitted on both hosts' activations (arXiv 2602.12952).

    T = U V^T,  U S V^T = svd(X_s^T X_t)        dW' = T_out^T dW T_in

The paper's: Procrustes maps from second moments, not centred, at the inputs and outputs of every linear map, so widths
may differ. Ours: rows are words that both hosts read, whatever their tokenizers; layers are paired where depths differ;
adapters go through the maps of the residual stream; prefixes through one rotation a head. There a head's keys are also
scaled so that q k^T keeps its size, its values by the ratio of the hosts' own: both are 1 between bases of one host.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from peftport.hosts.host import Host
from peftport.modules.module import Module
from peftport.porting.base import Fits, Given
from peftport.porting.heads import by_head, gain, match_heads, rotation
from peftport.porting.maps import Dense, Map, Sums, orthogonal_map
from peftport.porting.pairs import Pair
from peftport.porting.spaces import Spaces, collect
from peftport.porting.transport import Aligner, AligningPorter


class Theseus(AligningPorter):
    """Orthogonal maps between both hosts' activations."""

    name = "theseus"
    title = "orthogonal maps between both hosts' activations"
    source = "arXiv 2602.12952; adapters, prefixes and Compacters: ours"
    needs = "texts"
    fits = Fits(width="any", depth="any")

    def align(
        self, module: Module, receiver: Host, pairs: Mapping[str, Pair], rng: np.random.Generator, given: Given
    ) -> Aligner:
        """One pass over the texts."""
        assert given.origin is not None  # checked: needs texts
        return Rotations(given.origin, collect(given.origin, receiver, pairs, module.spec.kind, given))


class Rotations(Aligner):
    """Procrustes maps from moments."""

    def __init__(self, origin: Host, spaces: Spaces) -> None:
        """Bind."""
        self.origin, self.spaces = origin, spaces

    def into(self, pair: Pair) -> Map:
        """Of inputs."""
        return orthogonal_map(self.spaces.into[pair.receiver.name])

    def out(self, pair: Pair) -> Map:
        """Of outputs."""
        return orthogonal_map(self.spaces.out[pair.receiver.name])

    def hidden(self) -> Map:
        """Of last hidden states."""
        return orthogonal_map(self.spaces.hidden)

    def keys_values(self, pair: Pair) -> tuple[Map, Map]:
        """Head by head."""
        moments, origin = self.spaces.heads[pair.receiver.name], self.origin.slots[pair.origin]
        heads = match_heads(moments, origin, pair.receiver)
        ours, theirs = moments.scalings
        queries = moments.queries.all

        def key(sums: Sums, rows: slice, columns: slice) -> Dense:
            return rotation(sums, rows, columns).scaled(ours / theirs / gain(queries, rows, columns))

        def value(sums: Sums, rows: slice, columns: slice) -> Dense:
            return rotation(sums, rows, columns).scaled(gain(sums, rows, columns))

        return (
            by_head(moments.keys.all, heads, origin, pair.receiver, key),
            by_head(moments.values.all, heads, origin, pair.receiver, value),
        )
