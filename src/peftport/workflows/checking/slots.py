"""Compare hosts slot by slot: what a receiver's slot would receive, whether it fits, how similar the weights are.

overlap   of the leading singular subspaces, above chance, as method `subspace` measures it: 1 equal, 0 random
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter

from peftport.core.progress import Progress
from peftport.hosts.host import Host
from peftport.modules.module import Module
from peftport.porting.alignment.bases import Bases, key_and_value_sites, linear_slot
from peftport.porting.alignment.places import without_matrix
from peftport.porting.methods.subspace import above_chance, half
from peftport.porting.pairs import Pair, pair_slots, same_shapes, unused
from peftport.techniques import technique_named
from peftport.techniques.roles import Roles, reads_inputs
from peftport.workflows.checking.host_comparison import between

State = Literal["fits", "resizes", "no counterpart"]
OVERLAPS = TypeAdapter(dict[str, float | None])


@dataclass(frozen=True)
class SlotCheck:
    """A slot of the receiver and the origin's slot it ``takes`` from.

    ``overlap`` is None where it is not measured or the widths differ.
    """

    slot: str
    takes: str | None
    state: State
    overlap: float | None = None


@dataclass(frozen=True)
class SlotChecks:
    """All slots of the receiver that the technique attaches to, and the slots of the module that are left over."""

    slots: tuple[SlotCheck, ...]
    unused: tuple[str, ...]

    def count(self, state: State) -> int:
        """Count the slots that are in this state."""
        return sum(slot.state == state for slot in self.slots)


def nothing_fits(module: Module, receiver: Host) -> bool:
    """Whether no slot of the receiver takes matrices of the module in the shape that they have."""
    pairs = pair_slots(module, receiver.slots, receiver.kind)
    return not any(pair is not None and same_shapes(module, pair) for pair in pairs.values())


def slot_checks(
    module: Module[Any], origin: Host | None, receiver: Host, progress: Progress, rng: np.random.Generator
) -> SlotChecks:
    """Pair the slots as the porters do; where the origin is at hand, measure overlaps, one matrix at a time.

    Raises:
        SlotMismatch: the receiver has none of the technique's sites.

    """
    pairs = pair_slots(module, receiver.slots, receiver.kind)
    overlaps = _overlaps(module, pairs, origin, receiver, progress, rng)
    checks = []
    for name, pair in pairs.items():
        if pair is None:
            checks.append(SlotCheck(name, None, "no counterpart"))
        else:
            state: State = "fits" if same_shapes(module, pair) else "resizes"
            checks.append(SlotCheck(name, pair.origin, state, overlaps.get(name)))
    return SlotChecks(tuple(checks), _unused(module, pairs))


def _overlaps(
    module: Module[Any],
    pairs: Mapping[str, Pair | None],
    origin: Host | None,
    receiver: Host,
    progress: Progress,
    rng: np.random.Generator,
) -> dict[str, float | None]:
    """The overlap at each slot that has a counterpart, where the origin is at hand."""
    if origin is None:
        return {}
    paired = {name: pair for name, pair in pairs.items() if pair is not None}

    def measured() -> dict[str, float | None]:
        advance = progress.stage(f"comparing weights of {module.host.name} and {receiver.name}", len(paired))
        bases, roles, found = Bases(origin, receiver, rng), technique_named(module.spec.kind).roles, {}
        for name, pair in paired.items():
            found[name] = _overlap(roles, pair, bases)
            advance(1)
        return found

    places = [[name, pair.origin] for name, pair in paired.items()]
    follows_from = (module.spec.kind, places, str(rng.bit_generator.state))
    return between("overlaps", origin, receiver, follows_from, OVERLAPS, measured)


def _unused(module: Module[Any], pairs: Mapping[str, Pair | None]) -> tuple[str, ...]:
    return tuple(name.removeprefix("origin ") for name in unused(module, pairs))


def _overlap(roles: Roles, pair: Pair, bases: Bases) -> float | None:
    """The smaller of both sides where inputs are read, of keys and values at attention; else the output side."""
    sites = key_and_value_sites(pair) if pair.receiver.kind == "attention" else ("",)
    values = []
    if without_matrix(bases.origin.host.slots[pair.origin], bases.origin.host.slots) or without_matrix(
        pair.receiver, bases.receiver.host.slots
    ):
        return None
    for site in sites:
        ours = linear_slot(bases.origin.host, pair.origin, site)
        theirs = linear_slot(bases.receiver.host, pair.receiver.name, site)
        if (ours.in_width, ours.out_width) != (theirs.in_width, theirs.out_width):
            return None
        basis = bases.at(pair, site)
        first, second = half(basis.origin), half(basis.receiver)
        values.append(above_chance(first.u, second.u))
        if reads_inputs(roles):
            values.append(above_chance(first.v, second.v))
    return min(values)
