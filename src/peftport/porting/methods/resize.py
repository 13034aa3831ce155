"""resize: crop or zero-pad every dimension, and interpolate between layers. A baseline that ignores the hosts' weights.

    M_j = (1 - w) M_i + w M_{i+1},  i + w = j (L_s - 1) / (L_t - 1)          then cropped or padded

Ours; the package ual-adapter 0.1.0 does the same in effect. With equal depth and widths, matrices are copied bit for
bit. Matrices are mixed in float32, or float64 where they are in it, and rounded to their own format.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from typing_extensions import override

from peftport.core.errors import SlotMismatch
from peftport.core.numbers import RawNumbers, numbers_of, tensor_of
from peftport.hosts.host import Host
from peftport.modules.module import HEAD, Module, holds_numbers
from peftport.porting.alignment.carried_heads import head_shapes
from peftport.porting.alignment.transport import check_pairs
from peftport.porting.base import Fits, PortedMatrices, Porter, PortInputs
from peftport.porting.pairs import Pair, depths, pair_slots, same_shapes, unused
from peftport.techniques import technique_named
from peftport.techniques.base import SHARED


class Resize(Porter):
    """Matrices cropped or padded to the receiver's shapes."""

    name = "resize"
    title = "widths cropped or zero-padded, depths interpolated"
    source = "ours, a baseline; as ual-adapter 0.1.0 in effect"
    fits = Fits(width="any", depth="any")
    carries_numbers = True

    @override
    def carry(
        self, module: Module[Any], receiver: Host, rng: np.random.Generator, inputs: PortInputs
    ) -> PortedMatrices:
        technique = technique_named(module.spec.kind)
        pairs = pair_slots(module, receiver.slots, receiver.kind)
        check_pairs(module, receiver, pairs, self.name)
        made: dict[str, dict[str, Any]] = {}
        as_given = numbers_of if holds_numbers(module) else tensor_of
        slots: dict[str, str] = {}
        layers = depths(receiver.slots)
        for name, pair in pairs.items():
            slot = receiver.slots[name]
            if pair is None:
                made[name] = {matrix: as_given(t) for matrix, t in technique.no_op(module.spec, slot, rng).items()}
                slots[name] = "left out: no counterpart in the origin"
                continue
            interpolated, note = _interpolated(module, pair, layers[name.rsplit(".", 2)[0]])
            shapes = technique.shapes(module.spec, slot)
            if slot.kind == "parameter" and interpolated["A"].shape[0] != shapes["A"][0]:
                raise SlotMismatch(
                    f"{name}: the {technique.name} from {module.host.name} is for another number of experts than "
                    f"{receiver.name} has there ({slot.experts}); no method carries it, train one on the receiver"
                )
            made[name] = {matrix: as_given(_cut(interpolated[matrix], shape)) for matrix, shape in shapes.items()}
            slots[name] = f"copied{note}" if same_shapes(module, pair) else f"resized{note}"
        if SHARED in module.matrices:
            made[SHARED] = dict(module.matrices[SHARED])
        if module.head is not None:
            shapes = head_shapes(module, module.head, receiver)
            made[HEAD] = {name: as_given(_cut(array, shapes[name])) for name, array in module.head.items()}
        return PortedMatrices(made, {**slots, **({} if len(pairs) >= len(module.matrices) else unused(module, pairs))})


def _interpolated(module: Module[Any], pair: Pair, receiver_layers: int) -> tuple[dict[str, Any], str]:
    """The origin's matrices interpolated at the relative depth of a receiver's layer, and a note on their layers."""
    origin_stack, _, site = pair.origin.rsplit(".", 2)
    index = int(pair.receiver.name.rsplit(".", 2)[1])
    last = depths(module.matrices)[origin_stack] - 1
    place = index * last / (receiver_layers - 1) if receiver_layers > 1 else float(last)
    low = min(math.floor(place), last)
    share = place - low
    below = module.matrices[f"{origin_stack}.{low}.{site}"]
    if share < 1e-9 or low == last:
        return below, "" if f"{origin_stack}.{low}.{site}" == pair.receiver.name else f" from layer {low}"
    above = module.matrices[f"{origin_stack}.{low + 1}.{site}"]
    mixed = {name: _mixed(numbers_of(array), numbers_of(above[name]), share) for name, array in below.items()}
    return mixed, f" from layers {low} and {low + 1}, {share:.2f} between"


def _mixed(below: RawNumbers, above: RawNumbers, share: float) -> RawNumbers:
    """(1 - w) M_i + w M_{i+1}, from the nearer of both, so that it is exact where they are equal."""
    low, high = (each.wide() if each.code == "F64" else each.wide().astype(np.float32) for each in (below, above))
    apart = high - low
    return below.like(low + share * apart if share < 0.5 else high - (1 - share) * apart)


def _cut(array: Any, shape: tuple[int, ...]) -> Any:
    """The matrix cropped at the end of each dimension, or padded with zeros there."""
    if tuple(array.shape) == tuple(shape):
        return array
    numbers = numbers_of(array)
    room = np.zeros(shape, numbers.bits.dtype)
    kept = tuple(slice(0, min(have, want)) for have, want in zip(numbers.shape, shape, strict=True))
    room[kept] = numbers.bits[kept]
    return RawNumbers(numbers.code, room)
