"""regress: fit the receiver's matrices so that each slot changes as the module changes it on the origin. Ours.

Both bare hosts read the same texts. At a slot, let x_s and x_t be the inputs of the origin and of the receiver, and
delta_s the change that the module makes to the origin's output. The receiver's output should change by delta_t =
delta_s T, where T is the ridge regression of the receiver's outputs on the origin's. How the matrices are fitted to
this target depends on the technique:

    LoRA      delta_s = (alpha / r) x_s A^T B^T.  Given T, the best map of rank r from x_t to delta_t is the regression
              of the r numbers z = x_s A^T on x_t, followed by B^T T:
              A' = ((X_t^T X_t + c)^-1 X_t^T Z)^T        B' = T^T B                         reduced rank, in closed form
    adapter   two regressions with an intercept: of the origin's units before their nonlinearity, z = down h_s + b, on
              h_t; then of delta_t on the receiver's units f(down' h_t + b'). The second is drawn towards the origin's
              up matrix, and corrects what the first could not predict
    Compacter the adapter that it stands for is fitted, then the nearest Compacter to the result is taken
    scaling   the slope of delta_t on x_t, for each coordinate by itself (x the outputs, as (IA)3 scales them)
    prefix    a key matters only through its products with queries, so k' = scaling_s / scaling_t M k, where M is the
              regression of a head's queries q_s on q_t: then q_t k' is the best prediction of q_s k. Values go through
              the regression of the receiver's values on the origin's. alignment.heads matches the heads

In directions that the texts hardly show, a regression has little to go by. There it is drawn towards the best multiple
of an orthogonal map (alignment.rotations), which makes a port to the same host the identity. Every penalty c is chosen
on texts held out from the fit. The shares "explained" on a slot's record come from held-out texts, too: 1 is all of
their variance, 0 is no better than predicting their mean, and less than 0 is worse. Nothing is trained: there is no
loss, no gradient and no backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from peftport.core.libraries import torch
from peftport.porting.alignment.activations import SlotRows
from peftport.porting.alignment.heads import HeadMap, by_head, heads_of, match_heads
from peftport.porting.alignment.inputs import AlignInputs
from peftport.porting.alignment.maps import Dense, Map, Moments, Prior, Regression, SecondMoments, ridge
from peftport.porting.alignment.parts import Part, Side, multiple_of, parts, rotation_of
from peftport.porting.alignment.rotations import measured, rotation, scaled, unmoved
from peftport.porting.alignment.spaces import Spaces, collect_spaces, state_rows, watched_rows
from peftport.porting.alignment.transport import Aligner, CarriedSlot, Own, ReadingPorter, expanded, fit_units
from peftport.porting.pairs import Pair
from peftport.techniques import technique_named
from peftport.techniques.base import Technique
from peftport.techniques.roles import ATTENTION, BOTTLENECK, PRODUCT, Roles, only_scales

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = 1e-12  # times the largest sum of squares: a coordinate with less may be rounding error, and is left alone


class Regress(ReadingPorter):
    """The module's own change at each slot, regressed on what the receiver has there."""

    name = "regress"
    title = "the module's change at each slot, regressed on the receiver's activations"
    source = "ours"

    @override
    def cannot_carry(self, technique: Technique[Any]) -> str:
        known = technique.roles in (PRODUCT, BOTTLENECK, ATTENTION) or only_scales(technique.roles)
        return "" if known else "no regression is known for the roles of its matrices"

    @override
    def align(self, inputs: AlignInputs) -> Aligner:
        fits = Fitted(inputs, collect_spaces(inputs, full=True))
        if inputs.roles == BOTTLENECK:  # fitted through its nonlinearity
            fits.second_pass()
        return fits


@dataclass(eq=False)
class SlotFit:
    """The regressions of one slot.

    Attributes:
        low: the origin's rank or units on the receiver's inputs; None where a technique has neither.
        out: the receiver's outputs on the origin's.
        up: moments for the regression of the change on the receiver's units, which the second pass over the texts sums.
        tried: the same with units fitted without the held-out rows, to choose the penalty by.

    """

    low: Regression | None
    out: Regression
    up: Moments = field(default_factory=lambda: Moments(right=False))
    tried: Moments = field(default_factory=lambda: Moments(right=False))


class Fitted(Aligner):
    """The fitted regressions of every slot."""

    def __init__(self, inputs: AlignInputs, spaces: Spaces) -> None:
        """Fit the linear parts."""
        self.inputs, self.spaces = inputs, spaces
        self.module, self.origin, self.receiver = inputs.module, inputs.origin, inputs.receiver
        self.technique = technique_named(self.module.spec.kind)
        self.matrices = {pair.origin: expanded(self.module, pair.origin) for pair in inputs.pairs.values()}
        self.slots = {
            name: SlotFit(self._low(pair), ridge(spaces.out[name], multiple_of(spaces.out[name], self._parts(pair))))
            for name, pair in inputs.pairs.items()
            if pair.receiver.kind != "attention"
        }

    def _parts(self, pair: Pair, side: Side = "out") -> list[Part]:
        return parts(self.origin, self.receiver, pair, side)

    def _low(self, pair: Pair) -> Regression | None:
        """Regress the origin's r numbers, or its units with an intercept, on the receiver's inputs."""
        roles = self.technique.roles
        if roles not in (PRODUCT, BOTTLENECK):
            return None
        matrices, read = self.matrices[pair.origin], self.spaces.into[pair.receiver.name].swapped()
        side: Side = "out" if pair.receiver.kind == "linear" and roles == BOTTLENECK else "in"
        drawn = multiple_of(read, [part.swapped for part in self._parts(pair, side)])
        if roles == PRODUCT:
            return ridge(read.through(matrices["A"].mT), _through(drawn, matrices["A"].mT))
        bias = matrices["down_bias"][None]
        half, everything = (torch.cat([each, bias]) for each in _through(drawn, matrices["down"].mT))
        return ridge(read.with_ones().through(torch.cat([matrices["down"].mT, bias])), (half, everything))

    def second_pass(self) -> None:
        """Read the texts again, and sum up the moments of the receiver's fitted units with the change of the origin."""
        for seen, met in watched_rows(self.inputs, f"reading {len(self.inputs.port_inputs.texts)} texts again"):
            for name, pair in self.inputs.pairs.items():
                change = self._activation(self._units(pair, seen)) @ self.matrices[pair.origin]["up"].mT
                change = change + self.matrices[pair.origin]["up_bias"]
                fit, read = self.slots[name], state_rows(met[name], pair.receiver)
                assert fit.low is not None
                for weight, moments in ((fit.low.weight, fit.up), (fit.low.by_half, fit.tried)):
                    kept = self._kept(pair, weight)
                    units = read @ kept["down"].mT + kept["down_bias"]
                    moments.add(_and_one(self._activation(units)), change)

    def _units(self, pair: Pair, seen: SlotRows) -> Tensor:
        own = self.matrices[pair.origin]
        return state_rows(seen[pair.origin], self.origin.slots[pair.origin]) @ own["down"].mT + own["down_bias"]

    def _activation(self, units: Tensor) -> Tensor:
        nonlinearity = self.technique.nonlinearity(self.module.spec)
        return nonlinearity(units) if nonlinearity else units

    def _kept(self, pair: Pair, weight: Tensor) -> Own:
        """The receiver's down matrix and bias from (D_t + 1, R), at its bottleneck's width; up is not fitted yet."""
        matrices = self.matrices[pair.origin]
        made = {"down": weight[:-1].mT, "down_bias": weight[-1], "up": matrices["up"], "up_bias": matrices["up_bias"]}
        return fit_units(made, min(len(made["down"]), self._bottleneck(pair)), np.random.default_rng(0))

    def _bottleneck(self, pair: Pair) -> int:
        if self.inputs.port_inputs.as_technique is not None:  # else it follows the receiver's width, as the spec says
            return len(self.matrices[pair.origin]["down"])
        return self.technique.shapes(self.module.spec, pair.receiver)["down_bias"][0]

    @override
    def carry(self, pair: Pair, own: Own, roles: Roles) -> CarriedSlot:
        if pair.receiver.kind == "attention":
            return super().carry(pair, own, roles)
        if only_scales(roles):
            return self.scaling(pair, own)
        return self.product(pair, own) if self.technique.roles == PRODUCT else self.bottleneck(pair, own)

    def scaling(self, pair: Pair, matrices: Own) -> CarriedSlot:
        """Each coordinate of the receiver's outputs gets the factor that comes closest to the change wanted there.

        That is the least-squares slope of delta_t = x_s diag(l) T on x_t for each coordinate; its numerator is the
        diagonal of x_t^T x_s diag(l) T. A coordinate that is zero in all texts is not scaled.
        """
        fit, sums = self.slots[pair.receiver.name], self.spaces.out[pair.receiver.name].all
        seen = sums.bb.diagonal()
        shown = seen > SHOWN * seen.max()
        made = {
            name: torch.where(shown, (sums.ab * fit.out.weight).mT @ numbers / seen.where(shown, 1.0), 0.0)
            for name, numbers in matrices.items()
        }
        return CarriedSlot(made, _figures(("out", fit.out)))

    def product(self, pair: Pair, matrices: Own) -> CarriedSlot:
        """A from the regression of the r numbers, B through the regression of the outputs."""
        fit = self.slots[pair.receiver.name]
        assert fit.low is not None
        made = {"A": fit.low.weight.mT, "B": fit.out.weight.mT @ matrices["B"]}
        return CarriedSlot(made, _figures(("in", fit.low), ("out", fit.out)))

    def bottleneck(self, pair: Pair, matrices: Own) -> CarriedSlot:
        """The down and the up matrix, each by regression."""
        fit = self.slots[pair.receiver.name]
        assert fit.low is not None
        halved, kept = (self._kept(pair, weight) for weight in (fit.low.by_half, fit.low.weight))
        drawn = [torch.cat([each["up"].mT, each["up_bias"].unsqueeze(0)]) for each in (halved, kept)]
        up = ridge(fit.up, (drawn[0], drawn[1]), fit.tried)
        change = up.weight @ fit.out.weight  # (R + 1, D_t)
        made = {"down": kept["down"], "down_bias": kept["down_bias"], "up": change[:-1].mT, "up_bias": change[-1]}
        return CarriedSlot(made, _figures(("of units", fit.low), ("of the change", up), ("out", fit.out)))

    @override
    def into(self, pair: Pair) -> Map:
        # Not used in a port: every technique that the method carries has a regression of its own.
        return rotation_of(self.spaces.out[pair.receiver.name], self._parts(pair))

    @override
    def out(self, pair: Pair) -> Map:
        return self.into(pair)

    @override
    def hidden(self) -> Map:
        # The weight of a linear readout goes through the regression of the origin's last hidden states.
        back = _drawn(self.spaces.hidden.swapped()).weight
        return Dense(back.mT, back)

    @override
    def keys_values(self, pair: Pair) -> tuple[Map, Map]:
        moments = self.spaces.heads[pair.receiver.name]
        heads = heads_of(self.origin.slots[pair.origin], pair.receiver)
        order = match_heads((moments.keys.all, moments.values.all), heads)
        ratio = moments.scalings[0] / moments.scalings[1]
        fits: dict[str, list[Regression]] = {"queries": [], "values": []}

        def key(sums: SecondMoments, rows: slice, columns: slice) -> Dense:
            fits["queries"].append(_drawn(moments.queries.part(rows, columns).swapped()))  # (d_t, d_s): q_s ~ q_t M
            return Dense(ratio * fits["queries"][-1].weight.mT, fits["queries"][-1].weight)

        def value(sums: SecondMoments, rows: slice, columns: slice) -> Dense:
            fits["values"].append(_drawn(moments.values.part(rows, columns)))
            return Dense(fits["values"][-1].weight, fits["values"][-1].weight.mT)

        def fitted(head_moments: Moments, fit: HeadMap, what: str) -> Dense:
            dense = by_head(head_moments.all, order, heads, fit)
            return Dense(dense.there, dense.back, f"{dense.note}, {_least(what, fits[what])}")

        return fitted(moments.queries, key, "queries"), fitted(moments.values, value, "values")


def _drawn(moments: Moments) -> Regression:
    """A regression drawn towards the best multiple of an orthogonal map, and so to the identity where rows are zero."""
    return ridge(moments, scaled(rotation(moments, unmoved), moments))


def _through(drawn: Prior, weight: Tensor) -> Prior:
    return drawn[0] @ weight, drawn[1] @ weight


def _figures(*fits: tuple[str, Regression]) -> str:
    """For the record: what several fits explain of the held-out rows."""
    shares = [(what, fit.explained) for what, fit in fits]
    if any(share is None for _, share in shares):
        return measured("explained", None)
    return "explained " + ", ".join(f"{share:.2f} {what}" for what, share in shares)


def _least(what: str, fits: list[Regression]) -> str:
    """For the record: what the worst of several heads' fits explains."""
    shares = [fit.explained for fit in fits if fit.explained is not None]
    return measured(f"explained of {what}", min(shares) if len(shares) == len(fits) else None)


def _and_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
