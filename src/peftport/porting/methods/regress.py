"""regress: fit the receiver's matrices so that they make at each slot the change the module makes on its origin. Ours.

Read texts with both bare hosts. At a slot let the origin's rows be x_s, the receiver's x_t, and T the ridge regression
of the receiver's outputs on the origin's; the change to make is delta_t = delta_s T. Where the texts say little, every
regression is drawn towards what the best multiple of an orthogonal map would make it (alignment.rotations), so that a
port to the same host is the identity.

    LoRA      delta_s = (alpha / r) x_s A^T B^T.  The best rank-r map from x_t to delta_t given T is the regression of
              the r numbers z = x_s A^T on x_t, then B^T T:
              A' = ((X_t^T X_t + c)^-1 X_t^T Z)^T        B' = T^T B                         reduced rank, in closed form
    adapter   two regressions with an intercept: of the origin's units z = down h_s + b before their nonlinearity on
              h_t, then of delta_t on f(down' h_t + b'), drawn towards the origin's up matrix, which makes up for what
              the first one could not tell
    Compacter the adapter it stands for, fitted so, then the nearest Compacter
    prefix    a key is what queries see of it: k' = scaling_s / scaling_t M k with M the regression of a head's
              queries q_s on q_t, so that q_t k' is the best guess of q_s k; values through the regression of the
              receiver's values on the origin's. Heads are matched as in alignment.heads.

Every penalty c is chosen on texts held out, and what a slot's record says is explained is so on those, about their
mean, by a fit on the others: it is under 0 where the mean would do better. Nothing is trained: no loss, no gradient, no
pass back through a host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from peftport.hosts.host import Host
from peftport.modules.module import Module
from peftport.porting.alignment.activations import SlotRows, paired_rows
from peftport.porting.alignment.heads import HeadMap, by_head, heads_of, match_heads
from peftport.porting.alignment.maps import Dense, Map, Moments, Prior, Regression, SecondMoments, ridge
from peftport.porting.alignment.parts import Part, Side, multiple_of, parts, rotation_of
from peftport.porting.alignment.rotations import measured, rotation, scaled, unmoved
from peftport.porting.alignment.spaces import Spaces, collect_spaces, watched
from peftport.porting.alignment.transport import Aligner, AligningPorter, CarriedSlot, Own, as_adapter, fit_units
from peftport.porting.base import Fits, PortInputs
from peftport.porting.pairs import Pair
from peftport.techniques import technique_named
from peftport.techniques.adapter import ACTIVATIONS, AdapterSpec
from peftport.techniques.compacter import CompacterSpec


class Regress(AligningPorter):
    """The module's own change at each slot, regressed on what the receiver has there."""

    name = "regress"
    title = "the module's change at each slot, regressed on the receiver's activations"
    source = "ours"
    needs = "texts"
    fits = Fits(width="any", depth="any")

    def align(
        self, module: Module, receiver: Host, pairs: Mapping[str, Pair], rng: np.random.Generator, given: PortInputs
    ) -> Aligner:
        """One pass over the texts, shared between ports; a second one where a nonlinearity asks for it."""
        assert given.origin is not None  # checked: needs texts
        spaces = collect_spaces(given.origin, receiver, pairs, module.spec.kind, given, full=True)
        fits = Fitted(module, given.origin, receiver, pairs, spaces, given.as_technique is None)
        if isinstance(module.spec, AdapterSpec | CompacterSpec):
            fits.second_pass(given)
        return fits


@dataclass(eq=False)
class SlotFit:
    """What is regressed at one slot: rank or units on the receiver's rows, outputs on outputs, the change on units.

    ``tried``: the change on units that were fitted without the rows held out.
    """

    low: Regression
    out: Regression
    up: Moments = field(default_factory=lambda: Moments(right=False))
    tried: Moments = field(default_factory=lambda: Moments(right=False))


class Fitted(Aligner):
    """Regressions by slot."""

    def __init__(
        self,
        module: Module,
        origin: Host,
        receiver: Host,
        pairs: Mapping[str, Pair],
        spaces: Spaces,
        same_spec: bool,
    ) -> None:
        """Fit what is linear. ``same_spec``: the bottleneck follows the receiver's width, as the spec says."""
        self.same_spec = same_spec
        self.module, self.origin, self.receiver, self.pairs = module, origin, receiver, pairs
        self.spaces = spaces
        self.own = {
            pair.origin: as_adapter(module, {k: v.double() for k, v in module.matrices[pair.origin].items()})
            for pair in pairs.values()
        }
        self.slots = {
            name: SlotFit(self._low(pair), ridge(spaces.out[name], multiple_of(spaces.out[name], self._parts(pair))))
            for name, pair in pairs.items()
            if pair.receiver.kind != "attention"
        }

    def _parts(self, pair: Pair, side: Side = "out") -> list[Part]:
        return parts(self.origin, self.receiver, pair, side)

    def _low(self, pair: Pair) -> Regression:
        """Of the origin's r numbers, or its units and an intercept, on the receiver's rows."""
        own, read = self.own[pair.origin], self.spaces.into[pair.receiver.name].swapped()
        lora = self.module.spec.kind == "lora"
        side: Side = "out" if pair.receiver.kind == "linear" and not lora else "in"
        drawn = multiple_of(read, [part.swapped for part in self._parts(pair, side)])
        if lora:
            return ridge(read.through(own["A"].mT), _through(drawn, own["A"].mT))
        bias = own["down_bias"][None]
        half, everything = (torch.cat([each, bias]) for each in _through(drawn, own["down"].mT))
        return ridge(read.with_ones().through(torch.cat([own["down"].mT, bias])), (half, everything))

    def second_pass(self, given: PortInputs) -> None:
        """Sum up the receiver's fitted units and the change the origin's make."""
        ours, theirs = watched(self.pairs, self.origin, self.receiver)
        title = f"reading {len(given.texts)} texts again"
        for seen, met in paired_rows(self.origin, self.receiver, ours, theirs, given, title):
            for name, pair in self.pairs.items():
                change = self._activation(self._units(pair, seen)) @ self.own[pair.origin]["up"].mT
                change = change + self.own[pair.origin]["up_bias"]
                fit, read = self.slots[name], _read(met, name, pair)
                for weight, moments in ((fit.low.weight, fit.up), (fit.low.by_half, fit.tried)):
                    kept = self._kept(pair, weight)
                    units = read @ kept["down"].mT + kept["down_bias"]
                    moments.add(_and_one(self._activation(units)), change)

    def _units(self, pair: Pair, seen: SlotRows) -> Tensor:
        own = self.own[pair.origin]
        return _read(seen, pair.origin, pair) @ own["down"].mT + own["down_bias"]

    def _activation(self, units: Tensor) -> Tensor:
        spec = self.module.spec
        assert isinstance(spec, AdapterSpec | CompacterSpec)
        return ACTIVATIONS[spec.activation](units)

    def _kept(self, pair: Pair, weight: Tensor) -> Own:
        """The receiver's down matrix and bias from (D_t + 1, R), at its bottleneck's width; up is not fitted yet."""
        own = self.own[pair.origin]
        made = {"down": weight[:-1].mT, "down_bias": weight[-1], "up": own["up"], "up_bias": own["up_bias"]}
        return fit_units(made, min(len(made["down"]), self._bottleneck(pair)), np.random.default_rng(0))

    def _bottleneck(self, pair: Pair) -> int:
        if not self.same_spec:
            return len(self.own[pair.origin]["down"])
        return technique_named(self.module.spec.kind).shapes(self.module.spec, pair.receiver)["down_bias"][0]

    def lora(self, pair: Pair, own: Own) -> CarriedSlot:
        """A by regression, B through the regression of outputs."""
        fit = self.slots[pair.receiver.name]
        made = {"A": fit.low.weight.mT, "B": fit.out.weight.mT @ own["B"]}
        return CarriedSlot(made, _figures(("in", fit.low), ("out", fit.out)))

    def adapter(self, pair: Pair, own: Own) -> CarriedSlot:
        """Down and up by regression."""
        fit = self.slots[pair.receiver.name]
        halved, kept = (self._kept(pair, weight) for weight in (fit.low.by_half, fit.low.weight))
        drawn = [torch.cat([each["up"].mT, each["up_bias"].unsqueeze(0)]) for each in (halved, kept)]
        up = ridge(fit.up, (drawn[0], drawn[1]), fit.tried)
        change = up.weight @ fit.out.weight  # (R + 1, D_t)
        made = {"down": kept["down"], "down_bias": kept["down_bias"], "up": change[:-1].mT, "up_bias": change[-1]}
        return CarriedSlot(made, _figures(("of units", fit.low), ("of the change", up), ("out", fit.out)))

    def into(self, pair: Pair) -> Map:
        """No technique needs it: every one has its own regression."""
        return rotation_of(self.spaces.out[pair.receiver.name], self._parts(pair))

    def out(self, pair: Pair) -> Map:
        """As `into`."""
        return self.into(pair)

    def hidden(self) -> Map:
        """A linear readout's weight is moved through the regression of the origin's last hidden states."""
        back = _drawn(self.spaces.hidden.swapped()).weight
        return Dense(back.mT, back)

    def keys_values(self, pair: Pair) -> tuple[Map, Map]:
        """Keys through queries, values through values, head by head."""
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

        def fitted(own: Moments, fit: HeadMap, what: str) -> Dense:
            found = by_head(own.all, order, heads, fit)
            return Dense(found.there, found.back, f"{found.note}, {_least(what, fits[what])}")

        return fitted(moments.queries, key, "queries"), fitted(moments.values, value, "values")


def _drawn(moments: Moments) -> Regression:
    """Drawn towards the best multiple of an orthogonal map, the identity where the rows say nothing."""
    return ridge(moments, scaled(rotation(moments, unmoved), moments))


def _through(drawn: Prior, weight: Tensor) -> Prior:
    return drawn[0] @ weight, drawn[1] @ weight


def _figures(*fits: tuple[str, Regression]) -> str:
    """What several fits explain of the rows held out."""
    shares = [(what, fit.explained) for what, fit in fits]
    if any(share is None for _, share in shares):
        return measured("explained", None)
    return "explained " + ", ".join(f"{share:.2f} {what}" for what, share in shares)


def _least(what: str, fits: list[Regression]) -> str:
    """What the worst of several heads' fits explains."""
    shares = [fit.explained for fit in fits if fit.explained is not None]
    return measured(f"explained of {what}", min(shares) if len(shares) == len(fits) else None)


def _read(rows: SlotRows, name: str, pair: Pair) -> Tensor:
    """What an adapter reads at a slot."""
    return rows[name].y if pair.receiver.kind == "linear" else rows[name].x


def _and_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
