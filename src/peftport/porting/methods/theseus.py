"""theseus: carry an update through orthogonal maps fitted on both hosts' activations (arXiv 2602.12952).

    T = U V^T,  U S V^T = svd(X_s^T X_t)        dW' = T_out^T dW T_in

From the paper: orthogonal (Procrustes) maps from uncentred second moments, at the inputs and the outputs of every
linear map, so that widths may differ. Ours: rows are words that both hosts read, whatever their tokenizers; layers are
paired if their numbers differ; adapters go through the maps of the residual stream, and prefixes through one rotation
per head. A head's keys are also scaled so that q k^T keeps its size, and its values by the ratio of the two hosts' own
values; both factors are 1 if the hosts differ by a change of basis only. The rows often span fewer dimensions than the
space. There the map follows the position of the space in the layer (alignment.parts, alignment.rotations), which makes
a port to the same host the identity for every shape. The queries, keys and values of a fused matrix have one map each.
"""

from __future__ import annotations

from typing_extensions import override

from peftport.hosts.host import Host
from peftport.porting.alignment.heads import (
    HeadMap,
    by_head,
    gain,
    head_alignment,
    head_rotation,
    heads_of,
    match_heads,
)
from peftport.porting.alignment.inputs import AlignInputs
from peftport.porting.alignment.maps import Dense, Map, Moments, SecondMoments
from peftport.porting.alignment.parts import parts, rotation_of
from peftport.porting.alignment.rotations import rotation, unmoved
from peftport.porting.alignment.spaces import Spaces, collect_spaces
from peftport.porting.alignment.transport import Aligner, ReadingPorter
from peftport.porting.pairs import Pair


class Theseus(ReadingPorter):
    """Orthogonal maps between both hosts' activations."""

    name = "theseus"
    title = "orthogonal maps between both hosts' activations"
    source = "arXiv 2602.12952; adapters, prefixes and Compacters: ours"

    @override
    def align(self, inputs: AlignInputs) -> Aligner:
        return Rotations(inputs.origin, inputs.receiver, collect_spaces(inputs))


class Rotations(Aligner):
    """Orthogonal maps from the second moments of both hosts' activations (Procrustes)."""

    def __init__(self, origin: Host, receiver: Host, spaces: Spaces) -> None:
        self.origin, self.receiver, self.spaces = origin, receiver, spaces

    @override
    def into(self, pair: Pair) -> Map:
        return rotation_of(self.spaces.into[pair.receiver.name], parts(self.origin, self.receiver, pair, "in"))

    @override
    def out(self, pair: Pair) -> Dense:
        return rotation_of(self.spaces.out[pair.receiver.name], parts(self.origin, self.receiver, pair, "out"))

    @override
    def hidden(self) -> Map:
        return rotation(self.spaces.hidden, unmoved).dense

    @override
    def keys_values(self, pair: Pair) -> tuple[Map, Map]:
        moments = self.spaces.heads[pair.receiver.name]
        heads = heads_of(self.origin.slots[pair.origin], pair.receiver)
        order = match_heads((moments.keys.all, moments.values.all), heads)
        ours, theirs = moments.scalings
        queries = moments.queries.all

        def key(sums: SecondMoments, rows: slice, columns: slice) -> Dense:
            return head_rotation(sums, rows, columns).scaled(ours / theirs / gain(queries, rows, columns))

        def value(sums: SecondMoments, rows: slice, columns: slice) -> Dense:
            return head_rotation(sums, rows, columns).scaled(gain(sums, rows, columns))

        def fitted(head_moments: Moments, fit: HeadMap) -> Dense:
            dense = by_head(head_moments.all, order, heads, fit)
            return Dense(dense.there, dense.back, f"{dense.note}, {head_alignment(head_moments, heads)}")

        return fitted(moments.keys, key), fitted(moments.values, value)
