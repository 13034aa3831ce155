"""skip: receiver layer j takes origin layer round(j L_s / L_t); if widths differ, units are matched by correlation.

    receiver unit j takes origin unit i(j):  max sum_j r(i(j), j),  i one to one        (Hungarian method)

r is the correlation of two units' activations on the same words. From the paper (arXiv 2403.18804): skipping layers,
and matching units by correlated activations and linear assignment. Ours: the alignment of texts (alignment.words),
matching heads before units within heads, and zeros for a unit without a partner. If the receiver's slots have the same
shapes as the origin's, only the module is needed, and its matrices are copied.
"""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.modules.module import HEAD, Module
from peftport.porting.alignment.heads import Heads, by_head, heads_of, match_heads
from peftport.porting.alignment.inputs import AlignInputs
from peftport.porting.alignment.maps import Dense, Map, Moments, Reordering, SecondMoments, assignment
from peftport.porting.alignment.rotations import measured
from peftport.porting.alignment.spaces import Spaces, collect_spaces
from peftport.porting.alignment.transport import Aligner, AligningPorter, check_pairs
from peftport.porting.base import Fits, Need, PortedMatrices, PortInputs
from peftport.porting.pairs import Pair, by_position, same_shapes, unused
from peftport.techniques.base import SHARED


class Skip(AligningPorter):
    """Layers by position, units by correlation."""

    name = "skip"
    title = "layers by position; units picked by correlation where widths differ"
    source = "arXiv 2403.18804"
    needs = "texts"
    fits = Fits(width="any", depth="any")

    @override
    def layer(self, stack: str, j: int, origin_layers: int, receiver_layers: int) -> int:
        return by_position(stack, j, origin_layers, receiver_layers)

    @override
    def needs_for(self, module: Module, receiver: Host) -> Need:
        # Matrices that keep their shape are copied, and no text is read.
        return "nothing" if self._same_shapes(module, receiver) else "texts"

    @override
    def carry(self, module: Module, receiver: Host, rng: np.random.Generator, inputs: PortInputs) -> PortedMatrices:
        if inputs.as_technique or not self._same_shapes(module, receiver):
            return super().carry(module, receiver, rng, inputs)
        pairs = self.pairs(module, receiver, inputs)
        check_pairs(module, receiver, pairs, self.name)
        paired = {name: pair for name, pair in pairs.items() if pair}
        made = {name: dict(module.matrices[pair.origin]) for name, pair in paired.items()}
        extra = {name: dict(matrices) for name, matrices in module.matrices.items() if name in (SHARED, HEAD)}
        notes = {name: f"copied{pair.note}" for name, pair in paired.items()}
        return PortedMatrices(made | extra, {**notes, **unused(module, pairs)})

    def _same_shapes(self, module: Module, receiver: Host) -> bool:
        return all(pair and same_shapes(module, pair) for pair in self.pairs(module, receiver, PortInputs()).values())

    @override
    def align(self, inputs: AlignInputs) -> Aligner:
        if inputs.port_inputs.origin is None or not inputs.port_inputs.texts:  # equal shapes, carried as an adapter
            return Unchanged(inputs.receiver)
        return Picked(inputs.origin, collect_spaces(inputs))


class Unchanged(Aligner):
    """The identity in every space."""

    def __init__(self, receiver: Host) -> None:
        self.receiver = receiver

    @override
    def into(self, pair: Pair) -> Map:
        return Reordering(torch.arange(pair.receiver.in_width))

    @override
    def out(self, pair: Pair) -> Map:
        return Reordering(torch.arange(pair.receiver.out_width))

    @override
    def hidden(self) -> Map:
        return Reordering(torch.arange(self.receiver.width))

    @override
    def keys_values(self, pair: Pair) -> tuple[Map, Map]:
        return self.out(pair), self.out(pair)


class Picked(Aligner):
    """Maps that assign units of the origin to units of the receiver by the correlation of their activations."""

    def __init__(self, origin: Host, spaces: Spaces) -> None:
        self.origin, self.spaces = origin, spaces

    @override
    def into(self, pair: Pair) -> Map:
        return by_correlation(self.spaces.into[pair.receiver.name])

    @override
    def out(self, pair: Pair) -> Map:
        return by_correlation(self.spaces.out[pair.receiver.name])

    @override
    def hidden(self) -> Map:
        return by_correlation(self.spaces.hidden)

    @override
    def keys_values(self, pair: Pair) -> tuple[Map, Map]:
        moments = self.spaces.heads[pair.receiver.name]
        heads = heads_of(self.origin.slots[pair.origin], pair.receiver)
        order = match_heads((moments.keys.all, moments.values.all), heads)
        return _within_heads(moments.keys, order, heads), _within_heads(moments.values, order, heads)


def by_correlation(moments: Moments) -> Reordering:
    """The assignment of units with the largest sum of correlations.

    Its note has a mean correlation from held-out rows: an assignment found on half of the rows, measured on the other
    half, where units that were matched by chance do not correlate.
    """
    order = assignment(moments.all.correlation()).order
    if moments.held.count <= 1:
        return Reordering(order, measured("mean correlation", None))
    half = assignment(moments.fit.correlation()).order
    taken = half >= 0
    held = moments.held.correlation()[half[taken], taken.nonzero().flatten()]
    return Reordering(order, measured("mean correlation", float(held.mean())))


def _within_heads(moments: Moments, order: list[int], heads: Heads) -> Dense:
    correlation = moments.all.correlation()

    def units(sums: SecondMoments, rows: slice, columns: slice) -> Dense:
        picked = assignment(correlation[rows, columns])
        there = picked.write(torch.eye(rows.stop - rows.start, dtype=torch.float64))
        return Dense(there, there.mT)

    return by_head(moments.all, order, heads, units)
