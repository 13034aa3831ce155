"""Carry a module through linear maps between two hosts: what all aligning methods share.

Rows x_s of the origin and x_t of the receiver, x_t ~ x_s T and x_s ~ x_t T'. At a slot:

    LoRA        A' = A T'_in^T        B' = T_out^T B                    the rank stays what it is
    adapter     down' = down T'_in^T  up' = T_out^T up  up_bias' = T_out^T up_bias
    Compacter   the adapter it stands for, then the nearest Compacter   (porting.kronecker)
    prefix      keys' = keys T_keys   values' = values T_values         maps that keep to heads (alignment.heads)

An adapter behind a linear map reads and writes that map's output; one at a sum reads the sum behind its norm. Where
the receiver's bottleneck is narrower, the units that move most are kept; where it is wider, the new units get fresh
down matrices and zero up matrices, so that they say nothing until they are trained.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from peftport.core.errors import BadRequest, SlotMismatch
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot
from peftport.modules.module import HEAD, Module
from peftport.porting.alignment.kronecker import nearest_compacter
from peftport.porting.alignment.low_rank import compress
from peftport.porting.alignment.maps import Map
from peftport.porting.base import PortedMatrices, Porter, PortInputs
from peftport.porting.pairs import Pair, by_end, pair_slots, unused
from peftport.techniques import technique_named
from peftport.techniques.adapter import AdapterSpec
from peftport.techniques.base import SHARED, Parameters, TechniqueSpec, normal
from peftport.techniques.compacter import CompacterSpec, expand
from peftport.techniques.lora import LoraSpec

Own = dict[str, Tensor]  # one slot's matrices, float64, without K


@dataclass(frozen=True, eq=False)
class CarriedSlot:
    """One slot's matrices in the receiver's spaces, and how well the maps there fit."""

    own: Own
    note: str = ""


class Aligner(ABC):
    """The maps between two hosts, pair of slots by pair of slots. Asked for one slot at a time."""

    @abstractmethod
    def into(self, pair: Pair) -> Map:
        """Between what goes into the two linear maps; at sums, between the sums behind their norms."""

    @abstractmethod
    def out(self, pair: Pair) -> Map:
        """Between what comes out; at sums, between the sums."""

    @abstractmethod
    def keys_values(self, pair: Pair) -> tuple[Map, Map]:
        """Between the keys and between the values of two attention blocks, flat over heads."""

    @abstractmethod
    def hidden(self) -> Map:
        """Between the last hidden states, which linear readouts read."""

    def lora(self, pair: Pair, own: Own) -> CarriedSlot:
        """A (R, D_in) and B (D_out, R) through the maps; a method whose update is no single product overrides this."""
        into, out = self.into(pair), self.out(pair)
        return CarriedSlot({"A": into.read(own["A"]), "B": out.write(own["B"].mT).mT}, _notes(into, out))

    def adapter(self, pair: Pair, own: Own) -> CarriedSlot:
        """Down (R, D), up (D, R) and the biases through the maps."""
        out = self.out(pair)
        into = out if pair.receiver.kind == "linear" else self.into(pair)
        return CarriedSlot(
            {
                "down": into.read(own["down"]),
                "down_bias": own["down_bias"],
                "up": out.write(own["up"].mT).mT,
                "up_bias": out.write(own["up_bias"].unsqueeze(0))[0],
            },
            out.note if into is out else _notes(into, out),
        )

    def prefix(self, pair: Pair, own: Own) -> CarriedSlot:
        """Keys and values through the maps."""
        keys, values = self.keys_values(pair)
        return CarriedSlot(
            {"keys": keys.write(own["keys"]), "values": values.write(own["values"])}, _notes(keys, values)
        )


class AligningPorter(Porter):
    """A method that finds maps between two hosts and carries any technique through them."""

    def layer(self, stack: str, j: int, origin_layers: int, receiver_layers: int) -> int:
        """Which of the origin's layers the receiver's layer j takes."""
        return by_end(stack, j, origin_layers, receiver_layers)

    @abstractmethod
    def align(
        self, module: Module, receiver: Host, pairs: Mapping[str, Pair], rng: np.random.Generator, given: PortInputs
    ) -> Aligner:
        """Find the maps for these pairs, by the receiver's slot."""

    def pairs(self, module: Module, receiver: Host, given: PortInputs) -> dict[str, Pair | None]:
        """Which slot takes which; most methods go by the hosts' depths alone."""
        return pair_slots(module, receiver.slots, receiver.kind, self.layer)

    def carry(self, module: Module, receiver: Host, rng: np.random.Generator, given: PortInputs) -> PortedMatrices:
        """Pair, align, carry."""
        pairs = self.pairs(module, receiver, given)
        found = {name: pair for name, pair in pairs.items() if pair is not None}
        check_pairs(module, receiver, pairs, self.name)
        return carry_through(module, receiver, pairs, self.align(module, receiver, found, rng, given), rng, given)


def check_pairs(module: Module, receiver: Host, pairs: Mapping[str, Pair | None], method: str) -> None:
    """Refuse a port that would leave every slot out, or that cannot leave out those it must.

    Raises:
        SlotMismatch: as said; the message names the first slot.

    """
    lone = [name for name, pair in pairs.items() if pair is None]
    kind = module.spec.kind
    if lone and (len(lone) == len(pairs) or kind == "prefix"):
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
    given: PortInputs,
) -> PortedMatrices:
    """Every slot's matrices through an aligner's maps; slots without a counterpart get matrices that change nothing."""
    spec = _carried_spec(module, receiver, given)
    technique = technique_named(spec.kind)
    made: Parameters = {}
    silent: Parameters = {}
    slots: dict[str, str] = {}
    advance = given.progress.stage(f"carrying {module.spec.kind} to {receiver.name}", len(pairs))
    for name, pair in pairs.items():
        slot = receiver.slots[name]
        if pair is None:
            silent[name], slots[name] = no_op(spec, slot, rng), "left out: no counterpart in the origin"
        else:
            carried = _carry_slot(module, pair, aligner)
            made[name] = fit_width(carried.own, technique.shapes(spec, slot), spec, rng)
            slots[name] = _note(f"carried{pair.note}", carried.note)
        advance(1)
    if isinstance(spec, CompacterSpec):
        made = _as_compacter(module, spec, receiver, made, slots)
    made |= silent
    if module.head is not None:
        made[HEAD] = {**module.head, "weight": aligner.hidden().read(module.head["weight"].double())}
    single = {slot: {name: t.float().contiguous() for name, t in own.items()} for slot, own in made.items()}
    return PortedMatrices(single, {**slots, **unused(module, pairs)}, spec)


def _carry_slot(module: Module, pair: Pair, aligner: Aligner) -> CarriedSlot:
    own = {name: tensor.double() for name, tensor in module.matrices[pair.origin].items()}
    if module.spec.kind == "lora":
        return aligner.lora(pair, own)
    if module.spec.kind == "prefix":
        return aligner.prefix(pair, own)
    return aligner.adapter(pair, as_adapter(module, own))


def as_adapter(module: Module, own: Own) -> Own:
    """A slot's matrices as an adapter's: a Compacter's are expanded."""
    if not isinstance(module.spec, CompacterSpec):
        return own
    rule = module.matrices[SHARED]["rule"].double()
    full = expand({name: tensor.unsqueeze(0) for name, tensor in own.items()}, rule.unsqueeze(0))
    return {name: tensor[0] for name, tensor in full.items()}


def _carried_spec(module: Module, receiver: Host, given: PortInputs) -> TechniqueSpec:
    """The module's own spec, or that of the adapter its Compacter stands for."""
    spec = module.spec
    if given.as_technique is None or not isinstance(spec, CompacterSpec):
        return spec
    rank = len(next(own["down_bias"] for own in module.matrices.values() if "down_bias" in own))
    factor = receiver.width // rank
    if not factor or max(1, receiver.width // factor) != rank:
        raise BadRequest(
            f"--as adapter: expected a width that some reduction factor divides into {rank} units, {receiver.name} is "
            f"{receiver.width} wide; leave --as out for the nearest Compacter"
        )
    return AdapterSpec(placement="houlsby", reduction_factor=factor, activation=spec.activation)


def _as_compacter(
    module: Module, spec: CompacterSpec, receiver: Host, made: Parameters, slots: dict[str, str]
) -> Parameters:
    """The nearest Compacter to these adapters, its error put on each slot's record."""
    technique = technique_named(spec.kind)
    shapes = {name: technique.shapes(spec, receiver.slots[name]) for name in made}
    near = nearest_compacter(made, shapes, module.matrices[SHARED]["rule"].double(), spec.phm_rank)
    for name, error in near.errors.items():
        slots[name] = _note(slots[name], f"nearest Compacter, error {error:.1e}")
    return near.matrices


def no_op(spec: TechniqueSpec, slot: Slot, rng: np.random.Generator) -> Own:
    """Matrices that change nothing: fresh, the outer ones zero.

    Raises:
        SlotMismatch: a prefix always changes something.

    """
    technique = technique_named(spec.kind)
    if spec.kind == "prefix":
        raise SlotMismatch(f"{slot.name}: a prefix cannot be left out of a slot; use another technique or method")
    fresh = technique.fresh(spec, slot, rng)
    return {name: torch.zeros_like(t) if name in technique.output_matrices else t for name, t in fresh.items()}


def fit_width(own: Own, shapes: Mapping[str, tuple[int, ...]], spec: TechniqueSpec, rng: np.random.Generator) -> Own:
    """Cut or widen rank or bottleneck to what the receiver's spec says; spaces of the host are right already."""
    if isinstance(spec, LoraSpec):
        factors = compress(own["B"], own["A"], spec.rank)
        return {"A": factors.a, "B": factors.b}
    if spec.kind == "prefix":
        return own
    return fit_units(own, shapes["down_bias"][0], rng)


def fit_units(own: Own, units: int, rng: np.random.Generator) -> Own:
    """An adapter with another bottleneck: the units with the largest ||up|| ||down|| kept, or silent ones added."""
    down, up = own["down"], own["up"]
    have, width = down.shape
    if have > units:
        weight = up.norm(dim=0) * (down.norm(dim=1) + own["down_bias"].abs())
        keep = weight.topk(units).indices.sort().values
        return {**own, "down": down[keep], "down_bias": own["down_bias"][keep], "up": up[:, keep]}
    if have < units:
        extra = units - have
        return {
            **own,
            "down": torch.cat([down, normal(rng, (extra, width), 0.02).double()]),
            "down_bias": torch.cat([own["down_bias"], down.new_zeros(extra)]),
            "up": torch.cat([up, up.new_zeros(len(up), extra)], dim=1),
        }
    return own


def _notes(first: Map, second: Map) -> str:
    if first.note == second.note:
        return first.note
    return ", ".join(f"{side} {m.note}" for side, m in (("in", first), ("out", second)) if m.note)


def _note(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
