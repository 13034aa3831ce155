"""Compacter: a bottleneck adapter whose matrices are sums of Kronecker products.

    W = sum_i A_i (x) (s_i t_i)          A_i (n, n) shared by all slots; s_i (D_in/n, q), t_i (q, D_out/n)

Karimi Mahabadi et al. 2021, arXiv 2106.04647, eq. 6; (x) is the Kronecker product, n is ``phm_dim`` and q is
``phm_rank``. The A_i together are called the rule. A Compacter is placed like a Houlsby adapter. The rule starts from
N(0, 1e-4^2), and s and t Glorot-uniform, so a fresh Compacter hardly changes its host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import PositiveInt

from peftport.core.errors import SlotMismatch
from peftport.core.libraries import torch
from peftport.hosts.layouts import HostKind
from peftport.hosts.slots import Slot
from peftport.techniques.adapter import Activation, AdapterSpec, activation_of, bottleneck
from peftport.techniques.base import (
    Matrices,
    MatrixTechnique,
    Parameters,
    Shapes,
    TechniqueSpec,
    normal,
    squared_norm_of_product,
    uniform,
)
from peftport.techniques.kronecker import nearest_compacter
from peftport.techniques.roles import BOTTLENECK

if TYPE_CHECKING:
    from torch import Tensor

RULE_STD = 1e-4


class CompacterSpec(TechniqueSpec):
    """The bottleneck (D / reduction_factor units, rounded up to a multiple of phm_dim) and its factorisation."""

    kind: Literal["compacter"] = "compacter"
    phm_dim: PositiveInt = 4
    phm_rank: PositiveInt = 1
    reduction_factor: PositiveInt = 32
    activation: Activation = "gelu"


class Compacter(MatrixTechnique[CompacterSpec]):
    """Compacter.

    A slot has down_left (n, D/n, q), down_right (n, q, R/n), up_left (n, R/n, q), up_right (n, q, D/n) and two biases.
    All slots share the rule (n, n, n).
    """

    name = "compacter"
    title = "Compacter"
    source = "Karimi Mahabadi et al. 2021, arXiv 2106.04647"
    spec_class = CompacterSpec
    learning_rates: ClassVar[Mapping[HostKind, float]] = {"encoder": 3e-3, "encoder_decoder": 3e-3, "decoder": 3e-3}
    roles = BOTTLENECK
    output_matrices = ("up_right", "up_bias")
    cannot_fold = "a nonlinearity stands between its two matrices"
    expands_to = "adapter"

    def sites(self, spec: CompacterSpec) -> tuple[str, ...]:
        """After the attention and after the FFN."""
        return ("attn_o", "ffn_out")

    def shapes(self, spec: CompacterSpec, slot: Slot) -> Shapes:
        """The factors of the down and the up matrix, and the biases."""
        n, q, width = spec.phm_dim, spec.phm_rank, slot.out_width
        if width % n:
            raise SlotMismatch(
                f"{slot.name}: Compacter needs a width that phm_dim {n} divides, got {width}; change phm_dim"
            )
        rank = self.bottleneck_width(spec, width)
        return {
            "down_left": (n, width // n, q), "down_right": (n, q, rank // n), "down_bias": (rank,),
            "up_left": (n, rank // n, q), "up_right": (n, q, width // n), "up_bias": (width,),
        }  # fmt: skip

    def bottleneck_width(self, spec: CompacterSpec, width: int) -> int:
        """The number of units R: D / reduction_factor, rounded up to a multiple of phm_dim."""
        return spec.phm_dim * max(1, math.ceil(width // spec.reduction_factor / spec.phm_dim))

    def shared_shapes(self, spec: CompacterSpec) -> Shapes:
        """The rule A (n, n, n)."""
        return {"rule": (spec.phm_dim,) * 3}

    def fresh(self, spec: CompacterSpec, slot: Slot, rng: np.random.Generator) -> dict[str, Tensor]:
        """Glorot-uniform factors and zero biases."""
        return {name: _initial(name, shape, rng) for name, shape in self.shapes(spec, slot).items()}

    def fresh_shared(self, spec: CompacterSpec, rng: np.random.Generator) -> dict[str, Tensor]:
        """The rule from N(0, 1e-4^2)."""
        return {"rule": normal(rng, (spec.phm_dim,) * 3, RULE_STD)}

    def apply(self, spec: CompacterSpec, slot: Slot, x: Tensor, y: Tensor, own: Matrices, shared: Matrices) -> Tensor:
        """Y plus the bottleneck's output for y."""
        return y + bottleneck(y, expand(own, shared["rule"]), spec.activation)

    def nonlinearity(self, spec: CompacterSpec) -> Callable[[Tensor], Tensor]:
        """The activation of the bottleneck's units."""
        return activation_of(spec.activation)

    def expanded(self, spec: CompacterSpec, own: Matrices, shared: Matrices) -> dict[str, Tensor]:
        """The matrices of the adapter that the factors stand for."""
        return expand(own, shared["rule"])

    def condensed(
        self, spec: CompacterSpec, made: Parameters, slots: Mapping[str, Slot], shared: Mapping[str, Tensor]
    ) -> tuple[Parameters, dict[str, str]]:
        """The Compacter nearest to these adapters, searched for near the origin's rule; the notes state its errors."""
        shapes = {name: self.shapes(spec, slots[name]) for name in made}
        near = nearest_compacter(made, shapes, shared["rule"].double(), spec.phm_rank)
        return near.matrices, {name: f"nearest Compacter, error {error:.1e}" for name, error in near.errors.items()}

    def expanded_spec(self, spec: CompacterSpec, units: int, width: int) -> AdapterSpec | None:
        """A Houlsby adapter with the reduction factor that gives this number of units, if there is one."""
        factor = width // units
        if not factor or max(1, width // factor) != units:
            return None
        return AdapterSpec(placement="houlsby", reduction_factor=factor, activation=spec.activation)

    def effective(self, spec: CompacterSpec, slot: Slot, own: Matrices, shared: Matrices) -> Tensor:
        """W_up W_down, (K, D, D): the update without its nonlinearity."""
        full = expand(own, shared["rule"])
        return torch.bmm(full["up"], full["down"])

    def squared_norm(self, spec: CompacterSpec, slot: Slot, own: Matrices, shared: Matrices) -> Tensor:
        """Return the squared norm of the change that an entry makes, ||W_up W_down||_F^2, (K,)."""
        full = expand(own, shared["rule"])
        return squared_norm_of_product(full["up"], full["down"])


def expand(own: Matrices, rule: Tensor) -> dict[str, Tensor]:
    """The adapter matrices that the factors stand for: down (K, R, D), up (K, D, R) and the biases."""
    return {
        "down": kronecker_sum(rule, own["down_left"], own["down_right"]).mT,
        "down_bias": own["down_bias"],
        "up": kronecker_sum(rule, own["up_left"], own["up_right"]).mT,
        "up_bias": own["up_bias"],
    }


def kronecker_sum(rule: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """sum_i A_i (x) (s_i t_i). rule (K, n, n, n), left (K, n, a, q), right (K, n, q, b) -> (K, n a, n b)."""
    factors = left @ right  # (K, n, a, b)
    entries, n, a, b = factors.shape
    return torch.einsum("kiuv,kiab->kuavb", rule, factors).reshape(entries, n * a, n * b)


def _initial(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape)
    return uniform(rng, shape, math.sqrt(6 / (shape[1] + shape[2])))  # Glorot over one factor's own fans
