"""regress: fit the receiver's matrices so that they make at each slot the change the module makes on its origin. Ours.

Read texts with both bare hosts. At a slot let the origin's rows be x_s, the receiver's x_t, and T the ridge regression
of the receiver's outputs on the origin's, drawn towards the best multiple of an orthogonal map where the texts say
little; the change to make is delta_t = delta_s T.

    LoRA      delta_s = (alpha / r) x_s A^T B^T.  The best rank-r map from x_t to delta_t given T is the regression of
              the r numbers z = x_s A^T on x_t, then B^T T:
              A' = ((X_t^T X_t + c)^-1 X_t^T Z)^T        B' = T^T B                         reduced rank, in closed form
    adapter   two regressions with an intercept: of the origin's units z = down h_s + b before their nonlinearity on
              h_t, then of delta_t on f(down' h_t + b'), drawn towards the origin's up matrix, which makes up for what
              the first one could not tell
    Compacter the adapter it stands for, fitted so, then the nearest Compacter
    prefix    a key is what queries see of it: k' = scaling_s / scaling_t M k with M the regression of a head's
              queries q_s on q_t, so that q_t k' is the best guess of q_s k; values through the regression of the
              receiver's values on the origin's. Heads are matched as in porting.heads.

Every penalty c is chosen on texts held out. Nothing is trained: no loss, no gradient, no pass back through a host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from peftport.hosts.host import Host
from peftport.modules.module import Module
from peftport.porting.activations import SlotRows, paired_rows
from peftport.porting.base import Fits, Given
from peftport.porting.heads import by_head, match_heads
from peftport.porting.maps import Dense, Map, Moments, Regression, Sums, orthogonal_map, ridge, scaled_orthogonal
from peftport.porting.pairs import Pair
from peftport.porting.spaces import Spaces, collect, watched
from peftport.porting.transport import Aligner, AligningPorter, Carried, Own, as_adapter, fit_units
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
        self, module: Module, receiver: Host, pairs: Mapping[str, Pair], rng: np.random.Generator, given: Given
    ) -> Aligner:
        """One pass over the texts, shared between ports; a second one where a nonlinearity asks for it."""
        assert given.origin is not None  # checked: needs texts
        spaces = collect(given.origin, receiver, pairs, module.spec.kind, given, full=True)
        fits = Fitted(module, given.origin, receiver, pairs, spaces, given.as_technique is None)
        if isinstance(module.spec, AdapterSpec | CompacterSpec):
            fits.second_pass(given)
        return fits


@dataclass(eq=False)
class SlotFit:
    """What is regressed at one slot: rank or units on the receiver's rows, outputs on outputs, the change on units."""

    low: Regression
    out: Regression
    up: Moments = field(default_factory=lambda: Moments(right=False))


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
            name: SlotFit(ridge(self._low(pair)), ridge(spaces.out[name], scaled_orthogonal(spaces.out[name])))
            for name, pair in pairs.items()
            if pair.receiver.kind != "attention"
        }

    def _low(self, pair: Pair) -> Moments:
        """The receiver's rows with the origin's r numbers, or its units and an intercept."""
        own, read = self.own[pair.origin], self.spaces.into[pair.receiver.name].turned()
        if self.module.spec.kind == "lora":
            return read.through(own["A"].mT)
        return read.with_ones().through(torch.cat([own["down"].mT, own["down_bias"][None]]))

    def second_pass(self, given: Given) -> None:
        """Sum up the receiver's fitted units and the change the origin's make."""
        ours, theirs = watched(self.pairs, self.origin, self.receiver)
        title = f"reading {len(given.texts)} texts again"
        for seen, met in paired_rows(self.origin, self.receiver, ours, theirs, given, title):
            for name, pair in self.pairs.items():
                kept = self._kept(pair)
                units = _read(met, name, pair) @ kept["down"].mT + kept["down_bias"]
                change = self._activation(self._units(pair, seen)) @ self.own[pair.origin]["up"].mT
                self.slots[name].up.add(_and_one(self._activation(units)), change + self.own[pair.origin]["up_bias"])

    def _units(self, pair: Pair, seen: SlotRows) -> Tensor:
        own = self.own[pair.origin]
        return _read(seen, pair.origin, pair) @ own["down"].mT + own["down_bias"]

    def _activation(self, units: Tensor) -> Tensor:
        spec = self.module.spec
        assert isinstance(spec, AdapterSpec | CompacterSpec)
        return ACTIVATIONS[spec.activation](units)

    def _kept(self, pair: Pair) -> Own:
        """The receiver's down matrix and bias, at the width of its bottleneck; up is not fitted yet."""
        fit, own = self.slots[pair.receiver.name], self.own[pair.origin]
        weight = fit.low.weight  # (D_t + 1, R)
        made = {"down": weight[:-1].mT, "down_bias": weight[-1], "up": own["up"], "up_bias": own["up_bias"]}
        return fit_units(made, min(len(made["down"]), self._bottleneck(pair)), np.random.default_rng(0))

    def _bottleneck(self, pair: Pair) -> int:
        if not self.same_spec:
            return len(self.own[pair.origin]["down"])
        return technique_named(self.module.spec.kind).shapes(self.module.spec, pair.receiver)["down_bias"][0]

    def lora(self, pair: Pair, own: Own) -> Carried:
        """A by regression, B through the regression of outputs."""
        fit = self.slots[pair.receiver.name]
        made = {"A": fit.low.weight.mT, "B": fit.out.weight.mT @ own["B"]}
        return Carried(made, f"explained {fit.low.explained:.2f} in, {fit.out.explained:.2f} out")

    def adapter(self, pair: Pair, own: Own) -> Carried:
        """Down and up by regression."""
        fit = self.slots[pair.receiver.name]
        kept = self._kept(pair)
        up = ridge(fit.up, torch.cat([kept["up"].mT, kept["up_bias"].unsqueeze(0)]))
        change = up.weight @ fit.out.weight  # (R + 1, D_t)
        made = {"down": kept["down"], "down_bias": kept["down_bias"], "up": change[:-1].mT, "up_bias": change[-1]}
        note = f"explained {fit.low.explained:.2f} of units, {up.explained:.2f} of the change"
        return Carried(made, f"{note}, {fit.out.explained:.2f} out")

    def into(self, pair: Pair) -> Map:
        """No technique needs it: every one has its own regression."""
        return orthogonal_map(self.spaces.out[pair.receiver.name])

    def out(self, pair: Pair) -> Map:
        """As `into`."""
        return self.into(pair)

    def hidden(self) -> Map:
        """A linear readout's weight is moved through the regression of the origin's last hidden states."""
        back = ridge(self.spaces.hidden.turned()).weight
        return Dense(back.mT, back)

    def keys_values(self, pair: Pair) -> tuple[Map, Map]:
        """Keys through queries, values through values, head by head."""
        moments, origin = self.spaces.heads[pair.receiver.name], self.origin.slots[pair.origin]
        heads = match_heads(moments, origin, pair.receiver)
        ratio = moments.scalings[0] / moments.scalings[1]

        def key(sums: Sums, rows: slice, columns: slice) -> Dense:
            seen = ridge(moments.queries.part(rows, columns).turned()).weight  # (d_t, d_s): q_s ~ q_t M
            return Dense(ratio * seen.mT, seen)

        def value(sums: Sums, rows: slice, columns: slice) -> Dense:
            part = moments.values.part(rows, columns)
            weight = ridge(part, scaled_orthogonal(part)).weight
            return Dense(weight, weight.mT)

        return (
            by_head(moments.queries.all, heads, origin, pair.receiver, key),
            by_head(moments.values.all, heads, origin, pair.receiver, value),
        )


def _read(rows: SlotRows, name: str, pair: Pair) -> Tensor:
    """What an adapter reads at a slot."""
    return rows[name].y if pair.receiver.kind == "linear" else rows[name].x


def _and_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
