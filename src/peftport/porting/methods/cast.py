"""cast: let the origin's module act on the receiver, between two linear heads that translate activations (after CAST).

    y_t += P_out f(P_in h_t)        f the frozen module on the origin, h_t the receiver's state, heads from plain texts

    P_in   (D_s, D_t)    x_s ~ P_in x_t     ridge regression of the origin's states on the receiver's
    P_out  (D_t, D_s)    y_t ~ P_out y_s    ridge regression of the receiver's outputs on the origin's

CAST (arXiv 2510.17902) keeps the module as it is and trains heads that translate the receiver's activations into the
origin's space and the module's change back, on general text without labels. Its heads are nonlinear, are kept beside
the receiver, and serve every LoRA of the origin. How exactly they are trained is not stated in its abstract, which is
all that we could read. Ours: heads are linear, since only these can be folded into a module of the same kind and rank;
then the mean squared error has its minimum in closed form, so that nothing is trained; and in directions that the texts
hardly show, heads are drawn towards the best multiple of an orthogonal map (alignment.rotations), so that a port to the
same host is the identity. The penalty is chosen on texts that are held out. No head has an intercept where it cannot be
folded: LoRA's A has no bias, and the intercept of P_out would change the host even where the module does nothing.

    LoRA         A' = A P_in,  B' = P_out B         the same rank: f(x) = B A x
    adapter      down' = down P_in,  up' = P_out up,  up_bias' = P_out up_bias;  P_in has an intercept c, which the bias
                 of the units takes:  down_bias' = down_bias + down c
    Compacter    as the adapter that it stands for, then the nearest Compacter is taken

`regress` fits the r numbers of a LoRA, or the units of an adapter, for each module. Heads are fitted to all dimensions,
whatever the module reads, and are the same for all modules. A prefix changes neither the input nor the output of a map,
and a scaling between two heads is no scaling: both are refused.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from peftport.core.libraries import torch
from peftport.porting.alignment.inputs import AlignInputs
from peftport.porting.alignment.maps import Dense, Map, Moments, Regression, ridge
from peftport.porting.alignment.parts import Part, Side, multiple_of, parts
from peftport.porting.alignment.rotations import measured, unmoved
from peftport.porting.alignment.spaces import Spaces, collect_spaces
from peftport.porting.alignment.transport import Aligner, CarriedSlot, Own, ReadingPorter
from peftport.porting.methods.theseus import Rotations
from peftport.porting.pairs import Pair
from peftport.techniques.base import Technique
from peftport.techniques.roles import BOTTLENECK, PRODUCT, Roles

WHOLE = [Part(slice(None), slice(None), unmoved)]


class Cast(ReadingPorter):
    """The origin's module between two linear heads."""

    name = "cast"
    title = "the module between two linear heads that translate activations, folded in"
    source = "after CAST, arXiv 2510.17902 (its heads are nonlinear and trained); linear heads in closed form: ours"

    @override
    def cannot_carry(self, technique: Technique[Any]) -> str:
        if technique.roles in (PRODUCT, BOTTLENECK):
            return ""
        return "its matrices do not stand between a state that a head could translate and a change that goes back"

    @override
    def align(self, inputs: AlignInputs) -> Aligner:
        return LinearHeads(inputs, collect_spaces(inputs, full=True))


class LinearHeads(Rotations):
    """Linear heads by ridge regression; the maps of `theseus` stand for those that no port by this method uses."""

    def __init__(self, inputs: AlignInputs, spaces: Spaces) -> None:
        super().__init__(inputs.origin, inputs.receiver, spaces)
        self.inputs = inputs

    def _parts(self, pair: Pair, side: Side) -> list[Part]:
        return parts(self.origin, self.receiver, pair, side)

    def head_in(self, pair: Pair, *, intercept: bool) -> Regression:
        """Return the head that translates inputs, P_in^T (D_t, D_s); with an intercept, c is one more row."""
        side: Side = "out" if pair.receiver.kind == "linear" and self.inputs.roles == BOTTLENECK else "in"
        return self._head_in(self.spaces.into[pair.receiver.name], self._parts(pair, side), intercept=intercept)

    @staticmethod
    def _head_in(moments: Moments, of: list[Part], *, intercept: bool) -> Regression:
        read = moments.swapped()
        drawn = multiple_of(read, [part.swapped for part in of])
        if not intercept:
            return ridge(read, drawn)
        width = len(moments.all.a)
        states = torch.eye(width + 1, width, dtype=torch.float64)  # of [x_s 1], x_s
        half, everything = (torch.cat([each, each.new_zeros(1, width)]) for each in drawn)
        return ridge(read.with_ones().through(states), (half, everything))

    def head_out(self, pair: Pair) -> Regression:
        """Return the head that translates outputs back, P_out^T (D_s, D_t)."""
        moments = self.spaces.out[pair.receiver.name]
        return ridge(moments, multiple_of(moments, self._parts(pair, "out")))

    @override
    def carry(self, pair: Pair, own: Own, roles: Roles) -> CarriedSlot:
        out = self.head_out(pair)
        if roles == PRODUCT:
            into = self.head_in(pair, intercept=False)
            return CarriedSlot({"A": own["A"] @ into.weight.mT, "B": out.weight.mT @ own["B"]}, _figures(into, out))
        into = self.head_in(pair, intercept=True)
        made = {
            "down": own["down"] @ into.weight[:-1].mT,
            "down_bias": own["down_bias"] + own["down"] @ into.weight[-1],
            "up": out.weight.mT @ own["up"],
            "up_bias": out.weight.mT @ own["up_bias"],
        }
        return CarriedSlot(made, _figures(into, out))

    @override
    def hidden(self) -> Map:
        # A linear readout reads the last hidden states, which a head of their own translates.
        back = self._head_in(self.spaces.hidden, WHOLE, intercept=False).weight
        return Dense(back.mT, back)


def _figures(into: Regression, out: Regression) -> str:
    """For the record: what both heads explain of the held-out rows."""
    if into.explained is None or out.explained is None:
        return measured("explained", None)
    return f"explained {into.explained:.2f} in, {out.explained:.2f} out"
