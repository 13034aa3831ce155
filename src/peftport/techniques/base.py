"""The interface of a technique: its spec, the shapes and roles of its matrices, their start, and their effect.

A technique has no state: its settings are in a spec, and its matrices in a module or in the parameters being trained.
Functions that compute take matrices stacked over K entries (modules that run together); a single module has no K.
Letters: B batch, T tokens, N = B T rows, D width, R rank or bottleneck, P prefix length, K entries, H heads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Generic, TypeAlias, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from peftport.core.errors import SlotMismatch
from peftport.core.hashing import rng_for
from peftport.core.libraries import torch
from peftport.hosts.layouts import HostKind, SlotKind
from peftport.hosts.slots import Slot
from peftport.techniques.roles import Roles

if TYPE_CHECKING:
    from torch import Tensor

Matrices: TypeAlias = "Mapping[str, Tensor]"
Shapes = Mapping[str, tuple[int, ...]]
Parameters: TypeAlias = "dict[str, dict[str, Tensor]]"  # {slot: {matrix name: tensor}}, without K
StackedMatrices: TypeAlias = "Mapping[str, Matrices]"  # the same, every tensor stacked over K entries
MOST_SITES = 8  # of a host, in one line
SHARED = "shared"  # the pseudo-slot of matrices that all slots use (Compacter's rule)


class TechniqueSpec(BaseModel):
    """The settings of a technique, immutable and without further fields. ``kind`` is the technique's name in files."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    kind: str


Spec = TypeVar("Spec", bound=TechniqueSpec)


class Technique(ABC, Generic[Spec]):
    """One technique of parameter-efficient finetuning."""

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    spec_class: ClassVar[type[TechniqueSpec]]
    # Defaults for training from scratch on each kind of host, chosen on validation items (docs/measurements.md). Those
    # for decoders were not measured but are those of encoder-decoders.
    learning_rates: ClassVar[Mapping[HostKind, float]]
    # What each of the matrices that `expanded` returns reads, writes or scales; porters carry it accordingly.
    roles: ClassVar[Roles]
    # The matrices in which `effective` is linear: multiplying them by a number multiplies the update by it.
    output_matrices: ClassVar[tuple[str, ...]]
    # The kinds of slot that it can attach to.
    slot_kinds: ClassVar[tuple[SlotKind, ...]]
    # Whether a slot whose output matrices are zero behaves like the bare host, so that a port may leave it out.
    can_be_left_out: ClassVar[bool] = True
    # A more general technique: with its matrices expanded, every module of this technique is a module of that one.
    expands_to: ClassVar[str | None] = None
    # Why a module cannot become a part of its host's weights, in a few words; empty where `folded` makes it one.
    cannot_fold: ClassVar[str] = "its effect is not a change of the host's weights"

    @abstractmethod
    def sites(self, spec: Spec) -> tuple[str, ...]:
        """The sites of a layer at which the technique attaches."""

    @abstractmethod
    def shapes(self, spec: Spec, slot: Slot) -> Shapes:
        """Shapes of the matrices at one slot, without K."""

    def shared_shapes(self, spec: Spec) -> Shapes:
        """Shapes of the matrices that all slots share, without K. Most techniques have none."""
        return {}

    @abstractmethod
    def fresh(self, spec: Spec, slot: Slot, rng: np.random.Generator) -> dict[str, Tensor]:
        """Initial matrices of one slot, float32."""

    def fresh_shared(self, spec: Spec, rng: np.random.Generator) -> dict[str, Tensor]:
        """Initial matrices that all slots share."""
        return {}

    def effective(self, spec: Spec, slot: Slot, own: Matrices, shared: Matrices) -> Tensor:
        """The update of a slot as one tensor (for LoRA alpha/r B A), stacked over K: (K, ...)."""
        raise SlotMismatch(f"{slot.name}: {self.name} has no update that can be written as one matrix")

    def squared_norm(self, spec: Spec, slot: Slot, own: Matrices, shared: Matrices) -> Tensor:
        """||update||_F^2 of a slot, (K,). Techniques whose update is a product need not form it."""
        return self.effective(spec, slot, own, shared).flatten(1).square().sum(1)

    def folded(self, spec: Spec, slot: Slot, own: Matrices, shared: Matrices, weight: Tensor) -> Tensor:
        """The weight (D_out, D_in) of a linear slot with the matrices of one module folded into it, without K."""
        raise SlotMismatch(f"{slot.name}: a module of {self.name} cannot be folded into weights: {self.cannot_fold}")

    def folded_bias(self, spec: Spec, slot: Slot, own: Matrices, shared: Matrices, bias: Tensor) -> Tensor:
        """The bias (D_out) of a linear slot with the matrices of one module folded into it; mostly unchanged."""
        return bias

    def no_op(self, spec: Spec, slot: Slot, rng: np.random.Generator) -> dict[str, Tensor]:
        """Matrices of one slot that change nothing: fresh ones with zero output matrices.

        Raises:
            SlotMismatch: matrices of this technique always change something.

        """
        if not self.can_be_left_out:
            raise SlotMismatch(
                f"{slot.name}: a {self.name} cannot be left out of a slot; use another technique or method"
            )
        fresh = self.fresh(spec, slot, rng)
        return {name: torch.zeros_like(t) if name in self.output_matrices else t for name, t in fresh.items()}

    def nonlinearity(self, spec: Spec) -> Callable[[Tensor], Tensor] | None:
        """The function between the matrices that read and those that write, or None; most techniques have none."""
        return None

    def doubts(self, spec: Spec, slots: Mapping[str, Slot]) -> tuple[str, ...]:
        """What is out of sense in the settings, for the slots that they attach to, in sentences; mostly nothing."""
        return ()

    def prefix_length(self, spec: Spec) -> int:
        """The number of positions before the text that the technique takes on decoder-only hosts; mostly 0."""
        return 0

    def expanded(self, spec: Spec, own: Matrices, shared: Matrices) -> dict[str, Tensor]:
        """One slot's matrices as `roles` names them, stacked over K. Most techniques store just these matrices."""
        return dict(own)

    def condensed(
        self, spec: Spec, made: Parameters, slots: Mapping[str, Slot], shared: Mapping[str, Tensor]
    ) -> tuple[Parameters, dict[str, str]]:
        """The inverse of `expanded`: the technique's matrices nearest to these, and a note for the record of each slot.

        ``made`` has the expanded matrices by slot, without K. ``shared`` has the matrices that all slots of the origin
        share; techniques that do not override this keep them unchanged.
        """
        return ({**made, SHARED: dict(shared)} if shared else made), {}

    def expanded_spec(self, spec: Spec, units: int, width: int) -> TechniqueSpec | None:
        """The spec of ``expands_to`` with this number of units on a host of this width; None if no setting gives it."""
        return None

    def start(self, spec: Spec, slots: Mapping[str, Slot], seed: int) -> Parameters:
        """Fresh trainable parameters for these slots. Each slot has its own random stream, derived from the seed."""
        start: Parameters = {
            name: self.fresh(spec, slot, rng_for(seed, "initialisation", name)) for name, slot in slots.items()
        }
        shared = self.fresh_shared(spec, rng_for(seed, "initialisation", SHARED))
        return {**start, SHARED: shared} if shared else start

    def materialise(self, spec: Spec, slots: Mapping[str, Slot], parameters: StackedMatrices) -> StackedMatrices:
        """The matrices that the trainable parameters stand for, stacked over K; mostly the parameters themselves."""
        return parameters

    def slots(self, spec: Spec, slots: Mapping[str, Slot]) -> dict[str, Slot]:
        """The host's slots that this spec attaches to.

        Raises:
            SlotMismatch: the host has none of the sites, or the technique cannot attach to any.

        """
        sites = self.sites(spec)
        there = {name: slot for name, slot in slots.items() if slot.site in sites}
        chosen = {name: slot for name, slot in there.items() if slot.kind in self.slot_kinds}
        if not chosen:
            known = sorted({slot.site for slot in slots.values() if slot.kind in self.slot_kinds})
            listed = ", ".join(known[:MOST_SITES]) + (", ..." if len(known) > MOST_SITES else "")
            has = f"only {listed}" if known else "no such place that can be reached"
            raise SlotMismatch(
                f"{self.name}: expected sites {', '.join(sites)}, this host has {has}; choose a technique or sites "
                "that it has (docs/families.md)"
            )
        return chosen


class MatrixTechnique(Technique[Spec]):
    """A technique that changes the output of a linear map or a sum, row by row."""

    slot_kinds: ClassVar[tuple[SlotKind, ...]] = ("linear", "sum_into", "sum_from")

    @abstractmethod
    def apply(self, spec: Spec, slot: Slot, x: Tensor, y: Tensor, own: Matrices, shared: Matrices) -> Tensor:
        """The changed y.

        At a linear slot, x (K, N, D_in) is the input of the frozen map and y (K, N, D_out) its output. At a sum,
        y (K, N, D) is the sum and x the sum after the layer norm that follows it, or y if none follows.
        """


class AttentionTechnique(Technique[Spec]):
    """A technique that adds keys and values to attention blocks."""

    slot_kinds = ("attention",)

    @abstractmethod
    def keys_values(self, spec: Spec, slot: Slot, own: Matrices) -> tuple[Tensor, Tensor]:
        """Keys and values, each (K, P, H * head width)."""


def squared_norm_of_product(up: Tensor, down: Tensor) -> Tensor:
    """||U D||_F^2 = tr(U^T U D D^T), (K,), without forming the product; U (K, D_out, R), D (K, R, D_in)."""
    return (torch.bmm(up.mT, up) * torch.bmm(down, down.mT)).sum((1, 2))


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float) -> Tensor:
    """Float32 numbers from N(0, std^2)."""
    return torch.from_numpy(rng.normal(0.0, std, shape).astype(np.float32))


def uniform(rng: np.random.Generator, shape: tuple[int, ...], bound: float) -> Tensor:
    """Float32 numbers from U(-bound, bound)."""
    return torch.from_numpy(rng.uniform(-bound, bound, shape).astype(np.float32))
