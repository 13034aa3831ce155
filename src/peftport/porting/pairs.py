"""The pairing of slots: from which slot of the origin each slot of the receiver takes its matrices.

A slot takes from the same site of the paired layer. With L_s layers in the origin and L_t in the receiver, there are
two rules for layers:

    by position   layer j of L_t takes layer round(j L_s / L_t)                    arXiv 2403.18804 (method `skip`)
    by end        layer j of L_t takes layer round((j + 1) L_s / L_t) - 1          ours: the last layer takes the last

Halves are rounded up, and the result is limited to the layers that exist. Layers of the receiver's encoder take from
the origin's encoder, and those of its decoder from the origin's decoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peftport.hosts.layouts import HostKind, layouts
from peftport.hosts.slots import Slot
from peftport.modules.module import Module
from peftport.techniques import technique_named

LayerRule = Callable[[str, int, int, int], int]  # (receiver's stack, j, L_s, L_t) -> layer of the origin
ONLY_STACK: dict[HostKind, str] = {"encoder": "encoder.layers", "decoder": "decoder.layers"}


@dataclass(frozen=True)
class Pair:
    """A receiver slot and the name of the origin slot whose matrices it takes."""

    receiver: Slot
    origin: str

    @property
    def note(self) -> str:
        """For the record: where the matrices come from, if not from the slot of the same name."""
        return "" if self.origin == self.receiver.name else f" from {self.origin}"


def by_position(stack: str, j: int, origin_layers: int, receiver_layers: int) -> int:
    """round(j L_s / L_t), with halves rounded up."""
    return min(origin_layers - 1, math.floor(j * origin_layers / receiver_layers + 0.5))


def by_end(stack: str, j: int, origin_layers: int, receiver_layers: int) -> int:
    """round((j + 1) L_s / L_t) - 1, with halves rounded up."""
    return max(0, math.floor((j + 1) * origin_layers / receiver_layers + 0.5) - 1)


def pair_slots(
    module: Module[Any], slots: Mapping[str, Slot], kind: HostKind, rule: LayerRule = by_end
) -> dict[str, Pair | None]:
    """The pair of every slot of the receiver to which the module's spec attaches; None if it has no counterpart.

    Raises:
        SlotMismatch: the receiver has none of the spec's sites.

    """
    chosen = technique_named(module.spec.kind).slots(module.spec, slots)
    origin_kind = layouts()[module.host.family].kind if module.host.family in layouts() else kind
    here, there = depths(slots), depths(module.matrices)
    pairs: dict[str, Pair | None] = {}
    for name, slot in chosen.items():
        stack, index, site = name.rsplit(".", 2)
        other = stack if stack in there else _counterpart(stack, kind, origin_kind)
        origin = f"{other}.{rule(stack, int(index), there[other], here[stack])}.{site}" if other in there else ""
        pairs[name] = Pair(slot, origin) if origin in module.matrices else None
    return pairs


def same_shapes(module: Module[Any], pair: Pair) -> bool:
    """Whether the origin slot's matrices have the shapes that the receiver's slot takes."""
    wanted = technique_named(module.spec.kind).shapes(module.spec, pair.receiver)
    ours = module.matrices[pair.origin]
    return {name: tuple(m.shape) for name, m in ours.items()} == {name: tuple(shape) for name, shape in wanted.items()}


def depths(names: Iterable[str]) -> dict[str, int]:
    """The number of layers of each stack, from slot names."""
    layers: dict[str, int] = {}
    for name in names:
        stack, dot, rest = name.rpartition(".")[0].rpartition(".")
        if dot and rest.isdigit():
            layers[stack] = max(layers.get(stack, 0), int(rest) + 1)
    return layers


def _counterpart(stack: str, kind: HostKind, origin_kind: HostKind) -> str:
    """The origin's name for a stack of the receiver. In hosts with a single stack it is called ``layers``."""
    full = ONLY_STACK.get(kind, stack) if stack == "layers" else stack
    return "layers" if full == ONLY_STACK.get(origin_kind) else full


def unused(module: Module[Any], pairs: Mapping[str, Pair | None]) -> dict[str, str]:
    """Notes on the module's slots from which no slot of the receiver takes matrices."""
    taken = {pair.origin for pair in pairs.values() if pair}
    layers = depths(module.matrices)
    names = [name for name in module.matrices if name.rpartition(".")[0].rpartition(".")[0] in layers]
    return {f"origin {name}": "left out: no slot of the receiver takes it" for name in names if name not in taken}
