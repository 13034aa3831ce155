"""The same host in another basis: a change of its weights that leaves its function as it is.

Rows x of the residual stream become x Q, heads are permuted and rotated within, FFN units permuted. Q is a permutation,
or any rotation where all norms are RMS norms whose gains have been folded into the next maps (Llama).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from peftport.hosts.host import Host
from peftport.hosts.load import wrap_host
from peftport.hosts.slots import OUTSIDE, Slot
from peftport.hosts.weights import HostWeights
from pico import WORDS

READS_RESIDUAL = ("attn_q", "attn_k", "attn_v", "cross_q", "cross_k", "cross_v", "ffn_in", "ffn_gate")


Draw = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Rebased:
    """The host in another basis, and Q (D, D): its hidden states are those of the first times Q."""

    host: Host
    basis: Tensor


def rebase(
    host: Host, seed: int = 7, *, rotate: bool = False, residual: bool = True, units_only: bool = False
) -> Rebased:
    """``residual`` False leaves the residual stream's basis; ``units_only`` permutes within heads, and rotates not."""
    g = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(host.model).double()
    mark = host.fingerprint.model_copy(update={"name": "rebased", "weights": f"{host.fingerprint.weights}-rebased"})
    other = wrap_host("rebased", model, host.tokenizer, host.layout, mark, None, host.text_prefix)
    width = host.width
    basis = orthogonal(width, g) if rotate else permutation(width, g)
    basis = basis if residual else torch.eye(width).double()
    if rotate:
        fold_gains(other)
    _change_outside_slots(other, basis)
    heads = _head_order(other, g)
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in other.slots if not name.startswith(OUTSIDE)):
        _change_layer(other, layer, basis, heads, g, permutation if units_only else orthogonal)
    return Rebased(as_dtype(other, host.dtype), basis)


def as_dtype(host: Host, dtype: torch.dtype) -> Host:
    host.model.to(dtype)
    return host


def permutation(size: int, g: torch.Generator) -> Tensor:
    return torch.eye(size).double()[:, torch.randperm(size, generator=g)]


def orthogonal(size: int, g: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=g).double()).Q


def fold_gains(host: Host) -> None:
    """Llama: every RMS norm's gain into the maps behind it."""
    for name, slot in host.slots.items():
        if slot.site in READS_RESIDUAL:
            layer = host.base.get_submodule(f"layers.{name.split('.')[1]}")
            norm = layer.post_attention_layernorm if slot.site.startswith("ffn") else layer.input_layernorm
            HostWeights(host).matrix(slot).mul_(norm.weight)
    host.model.lm_head.weight.data.mul_(host.base.norm.weight)
    for module in host.base.modules():
        if "RMSNorm" in type(module).__name__:
            module.weight.data.fill_(1.0)


def _change_outside_slots(host: Host, basis: Tensor) -> None:
    width, done = host.width, set()
    for module in host.model.modules():
        weight = getattr(module, "weight", None)
        if weight is None or id(weight) in done:
            continue
        if isinstance(module, nn.Embedding) and weight.shape[1] == width:
            weight.data = weight.data @ basis
            done.add(id(weight))
        elif weight.ndim == 1 and len(weight) == width:
            for vector in (weight, getattr(module, "bias", None)):
                if vector is not None and not torch.equal(vector, torch.ones_like(vector)):
                    vector.data = vector.data @ basis
    head = getattr(host.model, "lm_head", None)
    if head is not None and id(head.weight) not in done:
        head.weight.data = head.weight.data @ basis


def _head_order(host: Host, g: torch.Generator) -> dict[int, list[int]]:
    """One order of heads for all layers: T5's position bias is shared between them."""
    orders = {}
    for heads in {slot.heads for slot in host.slots.values() if slot.kind == "attention"}:
        order = torch.randperm(heads, generator=g).tolist()
        orders[heads] = order if order != sorted(order) else order[1:] + order[:1]
    for name, module in host.base.named_modules():
        if name.endswith("relative_attention_bias"):
            module.weight.data = module.weight.data[:, orders[module.weight.shape[1]]]
    return orders


def _change_layer(
    host: Host, layer: str, basis: Tensor, orders: dict[int, list[int]], g: torch.Generator, within: Draw
) -> None:
    slots = {name.rpartition(".")[2]: slot for name, slot in host.slots.items() if name.rpartition(".")[0] == layer}
    for kind in ("attn", "cross"):
        if kind in slots:
            _change_attention(host, slots, kind, basis, orders[slots[kind].heads], g, within)
    units = permutation(slots["ffn_in"].out_width, g)
    for site in ("ffn_in", "ffn_gate"):
        if site in slots:
            change(host, slots[site], basis, units)
    change(host, slots["ffn_out"], units, basis)


def _change_attention(
    host: Host, slots: dict[str, Slot], kind: str, basis: Tensor, order: list[int], g: torch.Generator, draw: Draw
) -> None:
    block = slots[kind]
    width = block.out_width // block.heads
    group = slots[f"{kind}_q"].out_width // block.out_width
    keys = [draw(width, g) for _ in range(block.heads)]
    if rotary(host):
        plane = plane_rotation if draw is orthogonal else unmoved
        keys = [plane(width, g) for _ in range(block.heads)]
    values = [draw(width, g) for _ in range(block.heads)]
    within = torch.randperm(group, generator=g).tolist()
    change(host, slots[f"{kind}_k"], basis, blocks(keys, order))
    change(host, slots[f"{kind}_v"], basis, blocks(values, order))
    many = [i * group + r for i in order for r in within]
    repeated = [[each for each in kinds for _ in range(group)] for kinds in (keys, values)]
    change(host, slots[f"{kind}_q"], basis, blocks(repeated[0], many))
    change(host, slots[f"{kind}_o"], blocks(repeated[1], many), basis)


def rotary(host: Host) -> bool:
    return host.layout.rotary


def plane_rotation(width: int, g: torch.Generator) -> Tensor:
    """Rotations of the planes (i, i + d/2): those that rotary positions commute with."""
    half, angles = width // 2, torch.rand(width // 2, generator=g).double() * 6
    cos, sin = torch.diag(angles.cos()), torch.diag(angles.sin())
    return torch.cat([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)]) if half else torch.eye(width).double()


def unmoved(width: int, g: torch.Generator) -> Tensor:
    return torch.eye(width).double()


def blocks(each: list[Tensor], order: list[int]) -> Tensor:
    """Flat heads to flat heads: new head j is old head order[j] times its own matrix."""
    width = len(each[0])
    whole = torch.zeros(len(order) * width, len(order) * width).double()
    for j, i in enumerate(order):
        whole[i * width : (i + 1) * width, j * width : (j + 1) * width] = each[i]
    return whole


@torch.no_grad()
def change(host: Host, slot: Slot, into: Tensor, out: Tensor) -> None:
    """Inputs become x into, outputs y out."""
    weight = HostWeights(host).matrix(slot)
    weight.copy_(out.T @ weight @ into)
    bias = getattr(host.slot_module(slot), "bias", None)
    if bias is not None:
        part = bias[slot.start : slot.start + slot.out_width]
        part.copy_(part @ out)


def named(host: Host, name: str) -> Host:
    mark = host.fingerprint.model_copy(
        update={"name": name, "layers": host.config.num_hidden_layers, "width": host.width}
    )
    return replace(host, name=name, fingerprint=mark)


def sentences(count: int, seed: int = 5) -> list[str]:
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 10, (count,), generator=g).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=g).tolist()) for n in lengths]
