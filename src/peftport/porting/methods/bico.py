"""bico: carry an update through one map of the inputs and another of the loss gradients at the outputs (BiCo).

    R = U V^T,  U S V^T = svd(A_s^T A_t)        dW' = R_out^T dW R_in
    R_in:  A are the inputs x of the linear map (n, D_in)        R_out:  A are the gradients dL / dy (n, D_out)

From the paper (arXiv 2605.28444): a step of training changes a weight matrix by a sum of products of a gradient at its
output and an activation at its input, so an update is carried by an orthogonal (Procrustes) map of each, from one
forward and backward pass over a few texts. It takes the loss of the task. Two losses can be had here:

    labels        with ``--task``, and without ``--texts``: the loss of the first 128 training items on both bare hosts
    own answers   otherwise, with no labels: the distance to what the module makes of the origin's last hidden states,
                  carried to the receiver (alignment.gradients). Ours

Ours, too: rows are words that both hosts read. R_in, and the map by which answers are carried, are those of `theseus`,
which are completed where rows leave them open. R_out is completed by the map of `theseus` between the outputs, and
drawn towards it as far as that costs nothing on held-out texts, since the gradients of one task may span few
dimensions; where no loss reaches a slot, it is that map alone. An adapter's down matrix reads activations, so it goes
through their map, and its up matrix and bias through that of the gradients. A module with a head of its own is carried
by its own answers, because the receiver has no head yet whose loss could be taken; the head goes through the map of the
last hidden states. Prefixes and scalings are no products of a gradient and an activation, and are refused.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from functools import partial
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from peftport.porting.alignment.gradients import Gradients, answer_gradients, label_gradients
from peftport.porting.alignment.inputs import AlignInputs
from peftport.porting.alignment.maps import Dense, Map, Moments, SecondMoments
from peftport.porting.alignment.parts import Part, parts, rotation_of
from peftport.porting.alignment.spaces import Spaces, collect_spaces
from peftport.porting.alignment.transport import Aligner, ReadingPorter
from peftport.porting.methods.theseus import Rotations
from peftport.porting.pairs import Pair
from peftport.techniques.base import Technique
from peftport.techniques.roles import BOTTLENECK, PRODUCT, Space

if TYPE_CHECKING:
    from torch import Tensor


class BiCo(ReadingPorter):
    """Orthogonal maps of the inputs and of the gradients at the outputs."""

    name = "bico"
    title = "orthogonal maps between both hosts' inputs and between their loss gradients"
    source = "BiCo, arXiv 2605.28444; without labels, and adapters: ours"
    takes_labels = True

    @override
    def cannot_carry(self, technique: Technique[Any]) -> str:
        if technique.roles in (PRODUCT, BOTTLENECK):
            return ""
        return "its matrices are no sums of products of a gradient and an activation, which this method carries"

    @override
    def align(self, inputs: AlignInputs) -> Aligner:
        spaces, given = collect_spaces(inputs), inputs.port_inputs
        if given.labelled is not None and given.labelled_at_home is not None:
            return Bilinear(inputs, spaces, label_gradients(inputs), "by labels")
        return Bilinear(inputs, spaces, answer_gradients(inputs, spaces), "by the module's own answers")


class Bilinear(Rotations):
    """The maps of `theseus`, but matrices that write to outputs go through a map of the gradients there."""

    def __init__(self, inputs: AlignInputs, spaces: Spaces, gradients: Gradients, source: str) -> None:
        super().__init__(inputs.origin, inputs.receiver, spaces)
        self.gradients, self.source = gradients, source

    @override
    def _maps(self, pair: Pair, spaces: AbstractSet[Space]) -> dict[Space, Map]:
        maps = super()._maps(pair, spaces - {"out"})
        read: dict[Space, Map] = {space: found for space, found in maps.items() if space != "out"}
        return {**read, "out": self.of_gradients(pair)} if "out" in spaces else read

    def of_gradients(self, pair: Pair) -> Dense:
        """The map of the gradients at the outputs, which follows that of the outputs where they leave it open."""
        gradients, outputs = self.gradients[pair.receiver.name], self.spaces.out[pair.receiver.name]
        if not gradients.all.count:
            found = self.out(pair)
            return Dense(found.there, found.back, f"{found.note} of outputs, which the loss does not reach")
        of = parts(self.origin, self.receiver, pair, "out")
        told = Moments(left=outputs.left, right=outputs.right)
        told.fit = outputs.fit
        known = (rotation_of(told, of).there, rotation_of(outputs, of).there)
        total = gradients.all.count
        drawn = [Part(part.ours, part.theirs, partial(_known, known, total, part)) for part in of]
        found = rotation_of(gradients, drawn)
        return Dense(found.there, found.back, f"{found.note} {self.source}")


def _known(known: tuple[Tensor, Tensor], total: int, part: Part, sums: SecondMoments) -> Tensor:
    """A part of the outputs' map: the one fitted without held-out rows for some of the rows, else the one of all."""
    found = known[0] if sums.count < total else known[1]
    return found[part.ours][:, part.theirs]
