"""Prefix tuning: trained keys and values that precede those of the text in every attention block.

    attend(q, [P_k; k], [P_v; v])          Li & Liang 2021, arXiv 2101.00190, sec. 4

In encoder-decoders every attention block has its own prefix: the encoder's and the decoder's self-attention, and
cross-attention. On decoder-only hosts a prefix takes the place of P tokens before the text, so the positions of the
text start at P, as in the paper and in `peft`. On other hosts the positions stay as they are, as in `adapters`. In
layers that see only a window of the text (Gemma 3, Mistral), the whole text sees the prefix. In `peft` the prefix
leaves the window like other tokens, so its numbers differ for texts that do not fit into the window with the prefix.

The paper does not train keys and values directly, but through an MLP of which only the output is kept:

    [P_k; P_v] of all layers of a stack = MLP(E)        E (P, D), one tanh layer of width 512

So does a fresh prefix here, with one MLP for each stack of layers and kind of attention. A module holds the plain keys
and values; if it is trained further (as a ported module is), these are trained directly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from peftport.core.hashing import rng_for
from peftport.core.libraries import torch
from peftport.hosts.layouts import HostKind
from peftport.hosts.slots import Slot
from peftport.techniques.base import (
    AttentionTechnique,
    Matrices,
    Parameters,
    Shapes,
    StackedMatrices,
    TechniqueSpec,
    normal,
    uniform,
)
from peftport.techniques.roles import ATTENTION

if TYPE_CHECKING:
    from torch import Tensor

MLP = "mlp:"  # begins the names of an MLP's parameters, which lie beside those of the slots


class PrefixSpec(TechniqueSpec):
    """Prefix length, and hidden width of the MLP that fresh prefixes train through (0: none)."""

    kind: Literal["prefix"] = "prefix"
    length: PositiveInt = 30
    hidden: NonNegativeInt = 512


class PrefixTuning(AttentionTechnique[PrefixSpec]):
    """Prefix tuning: keys (P, H * head width) and values (P, H * head width) for each attention block."""

    name = "prefix"
    title = "Prefix tuning"
    source = "Li & Liang 2021, arXiv 2101.00190"
    spec_class = PrefixSpec
    learning_rates: ClassVar[Mapping[HostKind, float]] = {"encoder": 3e-4, "encoder_decoder": 1e-3, "decoder": 1e-3}
    roles = ATTENTION
    output_matrices = ("keys", "values")
    cannot_fold = "keys and values before the text are no weights of the host"
    can_be_left_out = False  # even keys and values of zero take a share of the attention

    def sites(self, spec: PrefixSpec) -> tuple[str, ...]:
        """The sites of the technique: every attention block."""
        return ("attn", "cross")

    def shapes(self, spec: PrefixSpec, slot: Slot) -> Shapes:
        """Keys and values, flat over heads."""
        return {"keys": (spec.length, slot.out_width), "values": (spec.length, slot.out_width)}

    def fresh(self, spec: PrefixSpec, slot: Slot, rng: np.random.Generator) -> dict[str, Tensor]:
        """Plain keys and values from N(0, 0.02^2)."""
        return {name: normal(rng, shape, 0.02) for name, shape in self.shapes(spec, slot).items()}

    def start(self, spec: PrefixSpec, slots: Mapping[str, Slot], seed: int) -> Parameters:
        """One MLP for each stack and kind of attention, or plain keys and values if ``hidden`` is 0."""
        if not spec.hidden:
            return super().start(spec, slots, seed)
        return {
            MLP + place: _mlp(spec, group, rng_for(seed, "initialisation", place))
            for place, group in by_place(slots).items()
        }

    def materialise(self, spec: PrefixSpec, slots: Mapping[str, Slot], parameters: StackedMatrices) -> StackedMatrices:
        """Run each MLP: E (K, P, D) -> (K, P, hidden) -> (K, P, layers * 2 * D), split into keys and values."""
        if not any(name.startswith(MLP) for name in parameters):
            return parameters
        made: dict[str, Matrices] = {name: m for name, m in parameters.items() if not name.startswith(MLP)}
        for place, group in by_place(slots).items():
            m = parameters[MLP + place]
            hidden = torch.tanh(torch.baddbmm(m["in_bias"].unsqueeze(1), m["embedding"], m["in"].mT))
            flat = torch.baddbmm(m["out_bias"].unsqueeze(1), hidden, m["out"].mT)  # (K, P, L * 2 * D)
            for slot, part in zip(group, flat.chunk(len(group), dim=-1), strict=True):
                keys, values = part.chunk(2, dim=-1)
                made[slot.name] = {"keys": keys, "values": values}
        return made

    def prefix_length(self, spec: PrefixSpec) -> int:
        """The length of the prefix."""
        return spec.length

    def keys_values(self, spec: PrefixSpec, slot: Slot, own: Matrices) -> tuple[Tensor, Tensor]:
        """The module's matrices are the keys and values themselves."""
        return own["keys"], own["values"]

    def effective(self, spec: PrefixSpec, slot: Slot, own: Matrices, shared: Matrices) -> Tensor:
        """Keys and values side by side, (K, P, 2 H * head width)."""
        return torch.cat([own["keys"], own["values"]], dim=-1)


def by_place(slots: Mapping[str, Slot]) -> dict[str, list[Slot]]:
    """Slots by stack and kind of attention: ``encoder.layers.attn``, ``decoder.layers.cross``, ..."""
    places: dict[str, list[Slot]] = {}
    for slot in slots.values():
        stack = slot.name.rsplit(".", 2)[0]
        places.setdefault(f"{stack}.{slot.site}", []).append(slot)
    return places


def _mlp(spec: PrefixSpec, group: list[Slot], rng: np.random.Generator) -> dict[str, Tensor]:
    """Embedding from N(0, 1), linear layers uniform within 1/sqrt(fan in), as torch starts them."""
    width, out_width = group[0].out_width, sum(2 * slot.out_width for slot in group)
    narrow, wide = 1 / math.sqrt(spec.hidden), 1 / math.sqrt(width)
    return {
        "embedding": normal(rng, (spec.length, width), 1.0),
        "in": uniform(rng, (spec.hidden, width), wide),
        "in_bias": uniform(rng, (spec.hidden,), wide),
        "out": uniform(rng, (out_width, spec.hidden), narrow),
        "out_bias": uniform(rng, (out_width,), narrow),
    }
