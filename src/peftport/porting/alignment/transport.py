"""Carry a module through linear maps between two hosts. All methods that find such maps share this.

For activations x_s of the origin and x_t of the receiver, the maps of a space give x_t ~ x_s T and x_s ~ x_t T'. Each
matrix is carried by its role (techniques.roles), through the maps of the space that it reads, writes or scales:

    reads     A' = A T'^T                  LoRA's A, an adapter's down
    writes    B' = T^T B,  k' = k T        LoRA's B, an adapter's up and its bias; the keys and values of a prefix
    scales    l' = diag(T' diag(l) T)      if T mixes coordinates, the carried scaling is not diagonal; its diagonal is
                                           the nearest scaling, and the slot's record says what share of it that keeps

The rank, or the units, between the matrix that reads and the one that writes are not changed. A technique whose
matrices stand for others (a Compacter) is expanded to these first and condensed afterwards (techniques.kronecker). A
prefix needs maps that respect heads (porting.alignment.heads). If the receiver's bottleneck is narrower, the units with
the largest weights are kept; if it is wider, new units get fresh down matrices and zero up matrices, so that they have
no effect until they are trained.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from peftport.core.errors import BadRequest, SlotMismatch
from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot
from peftport.modules.module import HEAD, Module
from peftport.porting.alignment.carried_heads import head_note, mapped_head
from peftport.porting.alignment.inputs import AlignInputs
from peftport.porting.alignment.low_rank import compress
from peftport.porting.alignment.maps import Map
from peftport.porting.alignment.places import unread
from peftport.porting.base import Fits, PortedMatrices, Porter, PortInputs
from peftport.porting.pairs import Pair, by_end, pair_slots, unused
from peftport.techniques import technique_named
from peftport.techniques.base import SHARED, Parameters, Technique, TechniqueSpec, normal
from peftport.techniques.roles import BOTTLENECK, PRODUCT, Inner, Reads, Role, Roles, Scales, Space

if TYPE_CHECKING:
    from torch import Tensor

ALL_KEPT = 0.995  # shares of a scaling that are rounded to all of it are not put on record
Own: TypeAlias = "dict[str, Tensor]"  # one slot's matrices, float64, without K


@dataclass(frozen=True, eq=False)
class CarriedSlot:
    """One slot's matrices in the receiver's spaces, and a note for the record on how well the maps fit."""

    matrices: Own
    note: str = ""


class Aligner(ABC):
    """The maps between two hosts, for one pair of slots at a time."""

    @abstractmethod
    def into(self, pair: Pair) -> Map:
        """The map between the inputs of two linear maps; at sums, between the sums after their layer norms."""

    @abstractmethod
    def out(self, pair: Pair) -> Map:
        """The map between the outputs of two linear maps; at sums, between the sums."""

    @abstractmethod
    def keys_values(self, pair: Pair) -> tuple[Map, Map]:
        """The maps between the keys and between the values of two attention blocks, flat over heads."""

    @abstractmethod
    def hidden(self) -> Map:
        """The map between the last hidden states, which linear readouts read."""

    def carry(self, pair: Pair, own: Own, roles: Roles) -> CarriedSlot:
        """Carry each matrix through the map of its space. Methods with a better way for some roles override this."""
        maps = self._maps(pair, {role.space for role in roles.values() if not isinstance(role, Inner)})
        made = {name: through(own[name], role, maps) for name, role in roles.items()}
        kept = [scaling_kept(own[name], maps[role.space]) for name, role in roles.items() if isinstance(role, Scales)]
        return CarriedSlot(made, joined(_notes(list(maps.values())), scaling_note(kept)))

    def _maps(self, pair: Pair, spaces: AbstractSet[Space]) -> dict[Space, Map]:
        """The map of each space, in the order in which records name them. `state` is the same as `in` or `out`."""
        if spaces & {"keys", "values"}:
            keys, values = self.keys_values(pair)
            return {"keys": keys, "values": values}
        state: Space = "out" if pair.receiver.kind == "linear" else "in"  # the one that a bottleneck reads
        sides = spaces - {"state"} | ({state} if "state" in spaces else set())
        maps: dict[Space, Map] = {"in": self.into(pair)} if "in" in sides else {}
        if "out" in sides:
            maps["out"] = self.out(pair)
        return {**maps, "state": maps[state]} if "state" in spaces else maps


class AligningPorter(Porter):
    """A method that finds maps between two hosts and carries any technique through them."""

    def layer(self, stack: str, j: int, origin_layers: int, receiver_layers: int) -> int:
        """The layer of the origin from which layer j of the receiver takes."""
        return by_end(stack, j, origin_layers, receiver_layers)

    @abstractmethod
    def align(self, inputs: AlignInputs) -> Aligner:
        """Find the maps for these pairs, which are keyed by the receiver's slot."""

    def pairs(self, module: Module, receiver: Host, inputs: PortInputs) -> dict[str, Pair | None]:
        """The pair of each slot of the receiver; most methods pair by the numbers of layers alone."""
        return pair_slots(module, receiver.slots, receiver.kind, self.layer)

    def carry(self, module: Module, receiver: Host, rng: np.random.Generator, inputs: PortInputs) -> PortedMatrices:
        """Pair the slots, find the maps between them, and carry the matrices through."""
        pairs = self.pairs(module, receiver, inputs)
        paired = {name: pair for name, pair in pairs.items() if pair is not None}
        check_pairs(module, receiver, pairs, self.name)
        if inputs.origin is not None:
            self.check_slots(module, [pair.origin for pair in paired.values()], inputs.origin)
        aligner = self.align(AlignInputs(module, receiver, paired, rng, inputs))
        return carry_through(module, receiver, pairs, aligner, rng, inputs)


class ReadingPorter(AligningPorter):
    """A method whose maps come from the activations of both loaded hosts on texts."""

    needs = "texts"
    fits = Fits(width="any", depth="any")

    def cannot_carry_at(self, technique: Technique[Any], slot: Slot, slots: Mapping[str, Slot]) -> str:
        """As every method's: the slots whose activations cannot be told apart by text and word."""
        return unread(slot)


def check_pairs(module: Module[Any], receiver: Host, pairs: Mapping[str, Pair | None], method: str) -> None:
    """Refuse a port if no slot has a counterpart, or if some have none and the technique cannot be left out there.

    Raises:
        SlotMismatch: the port is refused; the message names the first slot without a counterpart.

    """
    lone = [name for name, pair in pairs.items() if pair is None]
    kind = module.spec.kind
    if lone and (len(lone) == len(pairs) or not technique_named(kind).can_be_left_out):
        raise SlotMismatch(
            f"{lone[0]}: {receiver.name} has this slot, the {kind} from {module.host.name} has no counterpart to it "
            f"(its slots: {', '.join(list(module.matrices)[:3])}, ...); `{method}` carries matrices between slots of "
            "one kind; train a module on the receiver, or use --method distill"
        )


def carry_through(
    module: Module,
    receiver: Host,
    pairs: Mapping[str, Pair | None],
    aligner: Aligner,
    rng: np.random.Generator,
    inputs: PortInputs,
) -> PortedMatrices:
    """Carry the matrices of every slot through the maps; slots without a counterpart get matrices without effect."""
    spec = _carried_spec(module, receiver, inputs)
    technique = technique_named(spec.kind)
    made: Parameters = {}
    left_out: Parameters = {}
    slots: dict[str, str] = {}
    advance = inputs.progress.stage(f"carrying {module.spec.kind} to {receiver.name}", len(pairs))
    for name, pair in pairs.items():
        slot = receiver.slots[name]
        if pair is None:
            left_out[name], slots[name] = technique.no_op(spec, slot, rng), "left out: no counterpart in the origin"
        else:
            carried = aligner.carry(pair, expanded(module, pair.origin), technique.roles)
            made[name] = fit_width(carried.matrices, technique.shapes(spec, slot), spec, rng)
            slots[name] = joined(f"carried{pair.note}", carried.note)
        advance(1)
    shared = module.matrices.get(SHARED, {}) if spec is module.spec else {}
    made, notes = technique.condensed(spec, made, receiver.slots, shared)
    slots |= {name: joined(slots[name], note) for name, note in notes.items()}
    made |= left_out
    if module.head is not None:
        made[HEAD] = mapped_head(module, module.head, receiver, aligner.hidden())
        slots |= head_note(module.head, "mapped")
    single = {slot: {name: t.float().contiguous() for name, t in named.items()} for slot, named in made.items()}
    return PortedMatrices(single, {**slots, **unused(module, pairs)}, spec)


def expanded(module: Module, slot: str) -> Own:
    """One slot's matrices in float64, as the roles of the module's technique name them."""
    own, shared = (
        {name: tensor.double().unsqueeze(0) for name, tensor in module.matrices.get(place, {}).items()}
        for place in (slot, SHARED)
    )
    full = technique_named(module.spec.kind).expanded(module.spec, own, shared)
    return {name: tensor[0] for name, tensor in full.items()}


def _carried_spec(module: Module, receiver: Host, inputs: PortInputs) -> TechniqueSpec:
    """The module's own spec or, if asked for, the spec of the technique to which it expands."""
    spec, technique = module.spec, technique_named(module.spec.kind)
    if inputs.as_technique is None or technique.expands_to != inputs.as_technique:
        return spec
    units = next(
        len(matrix)
        for slot in module.matrices
        for name, matrix in module.matrices[slot].items()
        if technique.roles.get(name) == Inner()
    )
    expanded_spec = technique.expanded_spec(spec, units, receiver.width)
    if expanded_spec is None:
        raise BadRequest(
            f"--as {inputs.as_technique}: expected a width that some reduction factor divides into {units} units, "
            f"{receiver.name} is {receiver.width} wide; leave --as out for the nearest {technique.title}"
        )
    return expanded_spec


def fit_width(full: Own, shapes: Mapping[str, tuple[int, ...]], spec: TechniqueSpec, rng: np.random.Generator) -> Own:
    """Cut or widen the rank or the bottleneck to that of the receiver; the other dimensions fit already."""
    roles = technique_named(spec.kind).roles
    if roles == PRODUCT:
        factors = compress(full["B"], full["A"], shapes["A"][0])
        return {"A": factors.a, "B": factors.b}
    return fit_units(full, shapes["down_bias"][0], rng) if roles == BOTTLENECK else full


def fit_units(matrices: Own, units: int, rng: np.random.Generator) -> Own:
    """An adapter with another number of units: those with the largest ||up|| ||down|| are kept, or idle ones added."""
    down, up = matrices["down"], matrices["up"]
    have, width = down.shape
    if have > units:
        weight = up.norm(dim=0) * (down.norm(dim=1) + matrices["down_bias"].abs())
        keep = weight.topk(units).indices.sort().values
        return {**matrices, "down": down[keep], "down_bias": matrices["down_bias"][keep], "up": up[:, keep]}
    if have < units:
        extra = units - have
        return {
            **matrices,
            "down": torch.cat([down, normal(rng, (extra, width), 0.02).double()]),
            "down_bias": torch.cat([matrices["down_bias"], down.new_zeros(extra)]),
            "up": torch.cat([up, up.new_zeros(len(up), extra)], dim=1),
        }
    return matrices


def through(matrix: Tensor, role: Role, maps: Mapping[Space, Map]) -> Tensor:
    """Carry one matrix through the map of the space that it reads, writes or scales."""
    if isinstance(role, Inner):
        return matrix
    space = maps[role.space]
    if isinstance(role, Reads):
        return space.read(matrix)
    if isinstance(role, Scales):
        return space.scale(matrix)
    if role.rows:
        return space.write(matrix)
    return space.write(matrix.mT).mT if matrix.ndim > 1 else space.write(matrix.unsqueeze(0))[0]


def scaling_kept(numbers: Tensor, space: Map) -> float:
    """How much of a carried scaling is diagonal in the receiver's space: the share of the squared Frobenius norm."""
    there, back = space.matrices(len(numbers))
    change = back @ (numbers.unsqueeze(1) * there)
    total = float(change.square().sum())
    return float(change.diagonal().square().sum()) / total if total else 1.0


def scaling_note(kept: Sequence[float]) -> str:
    """For the record: the share that is kept of a scaling cut to its diagonal; empty if hardly anything was lost."""
    return f"{min(kept):.2f} of the scaling kept" if kept and min(kept) < ALL_KEPT else ""


def _notes(maps: Sequence[Map]) -> str:
    """The notes of one or two maps; if two notes differ, each begins with its side."""
    notes = [m.note for m in {id(m): m for m in maps}.values()]
    if len(set(notes)) == 1:
        return notes[0]
    return ", ".join(f"{side} {note}" for side, note in zip(("in", "out"), notes, strict=False) if note)


def joined(*parts: str) -> str:
    """The parts of a slot's record that are not empty, joined."""
    return "; ".join(part for part in parts if part)
