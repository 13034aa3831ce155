"""Slots: the named places of a host where a technique's matrices attach. Families are TOML files, read here.

There are three kinds of slot:

    linear      y = W x + b; a technique changes y. A slot may be one part of a fused matrix (GPT-2's q, k and v).
    sum         the residual stream after a block, before the layer norm that follows it where the norm comes after
                the sum ("sum_into": the norm's path), or the block's output where it does not ("sum_from").
    attention   keys and values of one attention block; a technique adds keys and values to them.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict
from torch import Tensor, nn

from peftport.core.errors import HostRefused

HostKind = Literal["encoder", "encoder_decoder", "decoder"]
SlotKind = Literal["linear", "sum_into", "sum_from", "attention"]
SiteName = Literal[
    "attn", "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_o",
    "cross", "cross_q", "cross_k", "cross_v", "cross_o",
    "ffn_gate", "ffn_in", "ffn_out", "ffn_sum",
]  # fmt: skip
Paths = Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else tuple(v))]


class Site(BaseModel):
    """Where one site lies inside a layer: exactly one of the four paths (alternatives: the first that exists)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    linear: Paths = ()
    attention: Paths = ()
    sum_into: Paths = ()
    sum_from: Paths = ()
    part: tuple[int, int] | None = None
    optional: bool = False

    @property
    def kind(self) -> SlotKind:
        """The kind of slot, by which of the four paths is given."""
        kinds: tuple[SlotKind, ...] = ("linear", "attention", "sum_into", "sum_from")
        [kind] = [kind for kind in kinds if getattr(self, kind)]
        return kind

    @property
    def paths(self) -> tuple[str, ...]:
        """The alternative paths, in order of preference."""
        return self.linear or self.attention or self.sum_into or self.sum_from


class LayerStack(BaseModel):
    """A list of equal layers: ``layers`` is the path of its ModuleList below the base model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    layers: str
    sites: dict[SiteName, Site]


class Layout(BaseModel):
    """A host family: its kind and its stacks of layers.

    ``rotary``: queries and keys are rotated by position, so that the order of a head's units has a meaning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    family: str
    kind: HostKind
    model_types: tuple[str, ...]
    rotary: bool = False
    stacks: tuple[LayerStack, ...]


@dataclass(frozen=True)
class Slot:
    """A place in a host. Widths are D_in and D_out of a linear map, or heads x head width of an attention's keys."""

    name: str
    site: str
    kind: SlotKind
    path: str
    in_width: int
    out_width: int
    start: int = 0
    heads: int = 0


@cache
def layouts() -> dict[str, Layout]:
    """Read every family, by name, from the TOML files in the folder ``families``."""
    folder = resources.files("peftport.hosts") / "families"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    tables = {f.name.removesuffix(".toml"): tomllib.loads(f.read_text(encoding="utf-8")) for f in files}
    return {family: Layout(family=family, **data) for family, data in tables.items()}


def layout_for(model_type: str, where: str) -> Layout:
    """Return the family that lists ``model_type``.

    Raises:
        HostRefused: no family lists it.

    """
    for layout in layouts().values():
        if model_type in layout.model_types:
            return layout
    known = sorted(t for layout in layouts().values() for t in layout.model_types)
    raise HostRefused(
        f"{where}: model type {model_type!r} is not supported, expected one of {', '.join(known)}; use a base model of "
        f"one of these types, or ask where you got peftport for {model_type!r} to be added (docs/files.md#a-host)"
    )


def find_slots(base: nn.Module, layout: Layout, where: str) -> dict[str, Slot]:
    """Find all slots of a model, by name, in the order of its layers.

    Raises:
        HostRefused: a path in the layout does not exist in the model.

    """
    slots: dict[str, Slot] = {}
    for stack in layout.stacks:
        for index, _ in enumerate(base.get_submodule(stack.layers).children()):
            for site_name, site in stack.sites.items():
                prefix = f"{stack.layers}.{index}"
                slot = _slot(base, prefix, f"{stack.name}.{index}.{site_name}", site_name, site)
                if slot is None and not site.optional:
                    raise HostRefused(
                        f"{where}: {stack.name}.{index}.{site_name}: expected a module at {prefix}.{site.paths[0]}, "
                        f"found none; the layout {layout.family}.toml does not describe this model"
                    )
                if slot is not None:
                    slots[slot.name] = slot
    return slots


def _slot(base: nn.Module, prefix: str, name: str, site_name: str, site: Site) -> Slot | None:
    for path in site.paths:
        full = prefix if path == "." else f"{prefix}.{path}"
        try:
            module = base.get_submodule(full)
        except AttributeError:
            continue
        if site.kind == "linear":
            out_width, in_width = linear_shape(module)
            index, parts = site.part or (0, 1)
            width = out_width // parts
            return Slot(name, site_name, "linear", full, in_width, width, start=index * width)
        if site.kind == "attention":
            heads, head_width = _key_heads(base.config, module)
            return Slot(name, site_name, "attention", full, heads * head_width, heads * head_width, heads=heads)
        config: Any = base.config
        width = int(config.hidden_size)
        return Slot(name, site_name, site.kind, full, width, width)
    return None


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """Return (D_out, D_in) of a Linear, or of GPT-2's Conv1D, whose weight is transposed."""
    if isinstance(module, nn.Linear):  # from its attributes, because the weights of 4-bit layers have a packed shape
        return module.out_features, module.in_features
    weight = module.weight
    assert isinstance(weight, Tensor)
    rows, columns = (int(size) for size in weight.shape)
    return columns, rows


def _key_heads(config: Any, attention: nn.Module) -> tuple[int, int]:
    """Return the number and width of the key heads from the config, including grouped-query attention."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(attention, "key_value_proj_dim", None) or getattr(config, "head_dim", None)
    return int(heads), int(width or config.hidden_size // config.num_attention_heads)
