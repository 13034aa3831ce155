"""What a technique is: a spec, the shapes and roles of its matrices, how they start, and how they change the host.

Letters: B batch, T tokens, N = B T rows, D width, R rank or bottleneck, P prefix length, K entries, H heads.
Everything that computes takes matrices stacked over K entries; a module's own matrices have no K.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Generic, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from peftport.core.errors import SlotMismatch
from peftport.core.hashing import rng_for
from peftport.hosts.slots import HostKind, SiteName, Slot
from peftport.techniques.roles import Roles

Matrices = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]
Parameters = dict[str, dict[str, Tensor]]  # {slot: {matrix name: tensor}}, without K
StackedMatrices = Mapping[str, Matrices]  # the same, every tensor stacked over K entries
SHARED = "shared"  # the pseudo-slot of matrices that all slots use (Compacter's rule)


class TechniqueSpec(BaseModel):
    """Settings of a technique: frozen and closed. ``kind`` tells the techniques apart in files."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    kind: str


Spec = TypeVar("Spec", bound=TechniqueSpec)


class Technique(ABC, Generic[Spec]):
    """One PEFT technique. Stateless: all state is in specs and matrices."""

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    spec_class: ClassVar[type[TechniqueSpec]]
    # What suits training from scratch on a host of each kind; chosen on validation items (docs/measurements.md), for
    # decoders not measured but taken over from encoder-decoders.
    learning_rates: ClassVar[Mapping[HostKind, float]]
    # What each matrix, as `expanded` gives them, reads, writes or scales: porters carry it by that.
    roles: ClassVar[Roles]
    # The matrices in which `effective` is linear: scaling them scales the update.
    output_matrices: ClassVar[tuple[str, ...]]
    # Whether zero output matrices leave a slot as it is, so that a port may leave it out.
    can_be_left_out: ClassVar[bool] = True
    # The technique whose module every module of this one is, too, once its matrices are expanded.
    expands_to: ClassVar[str | None] = None

    @abstractmethod
    def sites(self, spec: Spec) -> tuple[SiteName, ...]:
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
        """The slot's update as one tensor (LoRA: alpha/r B A), stacked over K: (K, ...)."""
        raise SlotMismatch(f"{slot.name}: {self.name} has no update that can be written as one matrix")

    def no_op(self, spec: Spec, slot: Slot, rng: np.random.Generator) -> dict[str, Tensor]:
        """Matrices of one slot that change nothing: fresh ones, the output matrices zero.

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
        """The function between the matrices that read and those that write; most techniques have none."""
        return None

    def prefix_length(self, spec: Spec) -> int:
        """How many positions before the text the technique takes on decoder-only hosts; most take none."""
        return 0

    def expanded(self, spec: Spec, own: Matrices, shared: Matrices) -> dict[str, Tensor]:
        """One slot's matrices as `roles` names them, stacked over K. Most techniques hold these themselves."""
        return dict(own)

    def condensed(
        self, spec: Spec, made: Parameters, slots: Mapping[str, Slot], shared: Mapping[str, Tensor]
    ) -> tuple[Parameters, dict[str, str]]:
        """The technique's own matrices nearest to these expanded ones, by slot and without K, and a note for each slot.

        ``shared``: the origin's matrices that all slots share. They stay what they are, unless overridden.
        """
        return ({**made, SHARED: dict(shared)} if shared else made), {}

    def expanded_spec(self, spec: Spec, units: int, width: int) -> TechniqueSpec | None:
        """The spec of ``expands_to`` with so many units on a host of that width; None where no setting gives it."""
        return None

    def start(self, spec: Spec, slots: Mapping[str, Slot], seed: int) -> Parameters:
        """Fresh trainable parameters for these slots. Every slot draws from its own stream of the seed."""
        start: Parameters = {
            name: self.fresh(spec, slot, rng_for(seed, "initialisation", name)) for name, slot in slots.items()
        }
        shared = self.fresh_shared(spec, rng_for(seed, "initialisation", SHARED))
        return {**start, SHARED: shared} if shared else start

    def materialise(self, spec: Spec, slots: Mapping[str, Slot], parameters: StackedMatrices) -> StackedMatrices:
        """The module's matrices from trainable parameters, both stacked over K. Most techniques train the matrices."""
        return parameters

    def slots(self, spec: Spec, slots: Mapping[str, Slot]) -> dict[str, Slot]:
        """The host's slots that this spec attaches to.

        Raises:
            SlotMismatch: the host has none of the sites.

        """
        sites = self.sites(spec)
        chosen = {name: slot for name, slot in slots.items() if slot.site in sites}
        if not chosen:
            known = sorted({slot.site for slot in slots.values()})
            raise SlotMismatch(f"{self.name}: expected sites {', '.join(sites)}, this host has only {', '.join(known)}")
        return chosen


class MatrixTechnique(Technique[Spec]):
    """A technique that changes the output of a linear map or a sum, row by row."""

    @abstractmethod
    def apply(self, spec: Spec, slot: Slot, x: Tensor, y: Tensor, own: Matrices, shared: Matrices) -> Tensor:
        """The changed y. At a linear slot x (K, N, D_in) went in and y (K, N, D_out) came out of the frozen map;

        at a sum, y (K, N, D) is the sum and x the sum after the layer norm that follows it (or y, where none does).
        """


class AttentionTechnique(Technique[Spec]):
    """A technique that gives attention more keys and values."""

    @abstractmethod
    def keys_values(self, spec: Spec, slot: Slot, own: Matrices) -> tuple[Tensor, Tensor]:
        """Keys and values, each (K, P, H * head width)."""


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float) -> Tensor:
    """Float32 numbers from N(0, std^2)."""
    return torch.from_numpy(rng.normal(0.0, std, shape).astype(np.float32))


def uniform(rng: np.random.Generator, shape: tuple[int, ...], bound: float) -> Tensor:
    """Float32 numbers from U(-bound, bound)."""
    return torch.from_numpy(rng.uniform(-bound, bound, shape).astype(np.float32))
