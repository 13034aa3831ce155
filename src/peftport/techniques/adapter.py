"""Bottleneck adapter: two small matrices with a nonlinearity between them, added to the output of a sub-layer.

    y' = y + W_up f(W_down h + b_down) + b_up

    houlsby     after the attention and after the FFN; h = y is the sub-layer's output, before it is added to the
                residual stream (Houlsby et al. 2019, arXiv 1902.00751, sec. 2.1)
    pfeiffer    after the FFN only; y is the sum of its output and the residual stream, and h this sum after the
                layer norm that follows it, if one does (Pfeiffer et al. 2020, arXiv 2005.00052, sec. 3; placed as in
                the library `adapters`)

Weights start from N(0, 0.02^2) and biases at zero, so a fresh adapter changes its host slightly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import PositiveInt

from peftport.core.libraries import F, torch
from peftport.hosts.layouts import HostKind, SiteName
from peftport.hosts.slots import Slot
from peftport.techniques.base import (
    Matrices,
    MatrixTechnique,
    Shapes,
    TechniqueSpec,
    normal,
    squared_norm_of_product,
)
from peftport.techniques.roles import BOTTLENECK

if TYPE_CHECKING:
    from torch import Tensor

Activation = Literal["relu", "swish", "gelu"]
ACTIVATIONS: dict[Activation, str] = {"relu": "relu", "swish": "silu", "gelu": "gelu"}  # as torch calls them
PLACEMENTS: dict[str, tuple[SiteName, ...]] = {"houlsby": ("attn_o", "ffn_out"), "pfeiffer": ("ffn_sum",)}
INITIAL_STD = 0.02


class AdapterSpec(TechniqueSpec):
    """Placement, reduction factor (the bottleneck has D / reduction_factor units, at least 1) and nonlinearity."""

    kind: Literal["adapter"] = "adapter"
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    reduction_factor: PositiveInt = 16
    activation: Activation = "swish"


class Adapter(MatrixTechnique[AdapterSpec]):
    """Bottleneck adapter: down (R, D), down_bias (R), up (D, R), up_bias (D)."""

    name = "adapter"
    title = "Bottleneck adapter"
    source = "Houlsby et al. 2019, arXiv 1902.00751; Pfeiffer et al. 2020, arXiv 2005.00052"
    spec_class = AdapterSpec
    learning_rates: ClassVar[Mapping[HostKind, float]] = {"encoder": 1e-3, "encoder_decoder": 1e-3, "decoder": 1e-3}
    roles = BOTTLENECK
    output_matrices = ("up", "up_bias")
    cannot_fold = "a nonlinearity stands between its two matrices"

    def sites(self, spec: AdapterSpec) -> tuple[str, ...]:
        """The sub-layers after which the adapters are placed."""
        return PLACEMENTS[spec.placement]

    def shapes(self, spec: AdapterSpec, slot: Slot) -> Shapes:
        """The down and the up matrix and their biases."""
        width = slot.out_width
        rank = max(1, width // spec.reduction_factor)
        return {"down": (rank, width), "down_bias": (rank,), "up": (width, rank), "up_bias": (width,)}

    def fresh(self, spec: AdapterSpec, slot: Slot, rng: np.random.Generator) -> dict[str, Tensor]:
        """Weights from N(0, 0.02^2) and zero biases, like BERT's own."""
        shapes = self.shapes(spec, slot)
        return {
            "down": normal(rng, shapes["down"], INITIAL_STD),
            "down_bias": torch.zeros(shapes["down_bias"]),
            "up": normal(rng, shapes["up"], INITIAL_STD),
            "up_bias": torch.zeros(shapes["up_bias"]),
        }

    def apply(self, spec: AdapterSpec, slot: Slot, x: Tensor, y: Tensor, own: Matrices, shared: Matrices) -> Tensor:
        """Y plus the bottleneck's output for y (linear slots) or for x, the sum after its layer norm (sums)."""
        return y + bottleneck(y if slot.kind == "linear" else x, own, spec.activation)

    def nonlinearity(self, spec: AdapterSpec) -> Callable[[Tensor], Tensor]:
        """The activation of the bottleneck's units."""
        return activation_of(spec.activation)

    def effective(self, spec: AdapterSpec, slot: Slot, own: Matrices, shared: Matrices) -> Tensor:
        """W_up W_down, (K, D, D): the update without its nonlinearity."""
        return torch.bmm(own["up"], own["down"])

    def squared_norm(self, spec: AdapterSpec, slot: Slot, own: Matrices, shared: Matrices) -> Tensor:
        """Return the squared norm of the change that an entry makes, ||W_up W_down||_F^2, (K,)."""
        return squared_norm_of_product(own["up"], own["down"])


def activation_of(name: Activation) -> Callable[[Tensor], Tensor]:
    """The function of that name."""
    function: Callable[[Tensor], Tensor] = getattr(F, ACTIVATIONS[name])
    return function


def bottleneck(h: Tensor, m: Matrices, activation: Activation) -> Tensor:
    """W_up f(W_down h + b_down) + b_up, each entry with its own matrices. h (K, N, D)."""
    from peftport.techniques.products import add_product  # defines a class of torch's

    low = add_product(m["down_bias"].unsqueeze(1), h, m["down"])  # (K, N, R)
    return add_product(m["up_bias"].unsqueeze(1), activation_of(activation)(low), m["up"])  # (K, N, D)
