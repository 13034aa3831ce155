"""LoRA: a low-rank update beside a frozen linear map.

    y = x W^T + (alpha / r) (x A^T) B^T            Hu et al. 2021, arXiv 2106.09685, eq. 3

A starts Kaiming-uniform and B at zero, so a fresh module leaves its host unchanged. The experts of a layer lie in one
tensor; each has an A and a B of its own, which update its matrix, as in `peft`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import PositiveFloat, PositiveInt, StringConstraints

from peftport.core.libraries import torch
from peftport.hosts.layouts import HostKind
from peftport.hosts.slots import LINEAR, PARAMETER, Slot
from peftport.techniques.base import (
    Matrices,
    MatrixTechnique,
    Shapes,
    TechniqueSpec,
    squared_norm_of_product,
    uniform,
)
from peftport.techniques.roles import PRODUCT

if TYPE_CHECKING:
    from torch import Tensor

LinearSite = Literal[
    "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_o", "cross_q", "cross_k", "cross_v", "cross_o",
    "ffn_gate", "ffn_in", "ffn_gate_in", "ffn_out",
]  # fmt: skip
UnnamedSite = Annotated[str, StringConstraints(pattern=rf"^({LINEAR}|{PARAMETER})[^.]+$")]  # that no layout names


class LoraSpec(TechniqueSpec):
    """Rank, scale, and the linear maps that are updated (sites that a host does not have are ignored).

    A linear map that has no named site is called by its path in the layer, such as ``linear:mlp/experts/0/up_proj``.
    """

    kind: Literal["lora"] = "lora"
    rank: PositiveInt = 8
    alpha: PositiveFloat = 8.0
    sites: tuple[LinearSite | UnnamedSite, ...] = ("attn_q", "attn_v", "cross_q", "cross_v")


class Lora(MatrixTechnique[LoraSpec]):
    """Low-rank update: A (R, D_in), B (D_out, R)."""

    name = "lora"
    title = "LoRA"
    source = "Hu et al. 2021, arXiv 2106.09685"
    spec_class = LoraSpec
    learning_rates: ClassVar[Mapping[HostKind, float]] = {"encoder": 3e-3, "encoder_decoder": 1e-3, "decoder": 1e-3}
    roles = PRODUCT
    slot_kinds = ("linear", "parameter")
    output_matrices = ("B",)
    cannot_fold = ""

    def sites(self, spec: LoraSpec) -> tuple[str, ...]:
        """The linear maps named in the spec."""
        return spec.sites

    def shapes(self, spec: LoraSpec, slot: Slot) -> Shapes:
        """A (R, D_in), B (D_out, R); of E experts A (E R, D_in) and B (D_out, R E)."""
        rank = spec.rank * slot.experts
        return {"A": (rank, slot.in_width), "B": (slot.out_width, rank)}

    def doubts(self, spec: LoraSpec, slots: Mapping[str, Slot]) -> tuple[str, ...]:
        """A rank above the smaller side of a matrix, which has no more ranks than that."""
        sides = [min(slot.in_width, slot.out_width) for slot in slots.values()]
        low = [side for side in sides if side < spec.rank]
        if not low:
            return ()
        return (
            f"lora.rank {spec.rank} is above the smaller side of {len(low)} of {len(sides)} matrices ({min(low)} at "
            "the least), which have no more ranks than that: a lower one says as much in less memory",
        )

    def fresh(self, spec: LoraSpec, slot: Slot, rng: np.random.Generator) -> dict[str, Tensor]:
        """A from U(-1/sqrt(D_in), 1/sqrt(D_in)), which is Kaiming-uniform with a = sqrt(5); B zero."""
        bound = 1 / math.sqrt(slot.in_width)
        shapes = self.shapes(spec, slot)
        return {"A": uniform(rng, shapes["A"], bound), "B": torch.zeros(shapes["B"])}

    def apply(self, spec: LoraSpec, slot: Slot, x: Tensor, y: Tensor, own: Matrices, shared: Matrices) -> Tensor:
        """Host output y plus each entry's own update."""
        from peftport.techniques.products import add_product  # defines a class of torch's

        low = add_product(None, x, own["A"])  # (K, N, D_in) -> (K, N, R)
        return add_product(y, low, own["B"], spec.alpha / spec.rank)  # (K, N, D_out)

    def effective(self, spec: LoraSpec, slot: Slot, own: Matrices, shared: Matrices) -> Tensor:
        """alpha/r B A, (K, D_out, D_in); of E experts (K, E, D_out, D_in)."""
        if slot.experts > 1:  # in peft's order: the ranks of an expert follow one another in A, the experts in B
            a = own["A"].reshape(len(own["A"]), slot.experts, spec.rank, -1)  # (K, E, R, D_in)
            b = own["B"].reshape(len(own["B"]), -1, spec.rank, slot.experts)  # (K, D_out, R, E)
            return (spec.alpha / spec.rank) * torch.einsum("kore,keri->keoi", b, a)
        return (spec.alpha / spec.rank) * torch.bmm(own["B"], own["A"])

    def squared_norm(self, spec: LoraSpec, slot: Slot, own: Matrices, shared: Matrices) -> Tensor:
        """Return the squared norm of the change that an entry makes, ||alpha/r B A||_F^2, (K,)."""
        if slot.experts > 1:
            return super().squared_norm(spec, slot, own, shared)
        return (spec.alpha / spec.rank) ** 2 * squared_norm_of_product(own["B"], own["A"])

    def folded(self, spec: LoraSpec, slot: Slot, own: Matrices, shared: Matrices, weight: Tensor) -> Tensor:
        """W + alpha/r B A."""
        return torch.addmm(weight, own["B"].to(weight), own["A"].to(weight), alpha=spec.alpha / spec.rank)
