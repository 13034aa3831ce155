"""Moments of both hosts' rows in the spaces that a technique's matrices live in, collected in one pass over the texts.

Linear slots have a space of inputs and one of outputs; what is written to the residual stream (attention's and FFN's
output, sums) is seen together with the stream itself at the end of its layer, which has the same basis and, where heads
are few, more dimensions. The FFN's units are seen before and behind their nonlinearity: before it they span no more
dimensions than the residual stream, behind it they span their own. Attention slots have keys, values and queries;
grouped queries are averaged over their group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from peftport.hosts.host import Host
from peftport.hosts.slots import Slot
from peftport.modules.module import HEAD
from peftport.porting.alignment.activations import Rows, SlotRows, paired_rows
from peftport.porting.alignment.maps import Moments
from peftport.porting.base import PortInputs
from peftport.porting.pairs import Pair

RESIDUAL = ("attn_o", "cross_o", "ffn_out", "ffn_sum")  # sites whose output is the residual stream's
UNITS = ("ffn_in", "ffn_gate")  # sites whose output is the FFN's units, which the FFN's last map takes in


@dataclass(eq=False)
class HeadMoments:
    """Keys, values and queries of two attention blocks, flat over key heads; scalings of q k^T."""

    keys: Moments = field(default_factory=lambda: Moments(left=False, right=False))
    values: Moments = field(default_factory=lambda: Moments(right=False))
    queries: Moments = field(default_factory=lambda: Moments(left=False))
    scalings: tuple[float, float] = (1.0, 1.0)


@dataclass(eq=False)
class Spaces:
    """Moments by receiver slot: the origin's rows are a, the receiver's b."""

    into: dict[str, Moments] = field(default_factory=dict)
    out: dict[str, Moments] = field(default_factory=dict)
    heads: dict[str, HeadMoments] = field(default_factory=dict)
    hidden: Moments = field(default_factory=lambda: Moments(left=False))


def collect_spaces(
    origin: Host,
    receiver: Host,
    pairs: Mapping[str, Pair],
    with_inputs: bool,
    inputs: PortInputs,
    *,
    full: bool = False,
) -> Spaces:
    """Read the texts with both hosts and sum up, or take what an earlier port summed up.

    ``inputs``: what goes into linear maps is read by a matrix; else a bottleneck there reads what comes out of them.
    ``full``: all products of the rows of a host with themselves, for regressions; adapters behind linear maps then
    have what they read, the map's output, among what goes in.
    """
    taken = tuple((name, pair.origin) for name, pair in pairs.items())
    key = ("spaces", origin, receiver, taken, with_inputs, full, tuple(inputs.texts))
    return inputs.shared.cached(key, lambda: _collect(origin, receiver, pairs, with_inputs, inputs, full))


def _collect(
    origin: Host, receiver: Host, pairs: Mapping[str, Pair], with_inputs: bool, inputs: PortInputs, full: bool
) -> Spaces:
    spaces = Spaces()
    ours, theirs = watched(pairs, origin, receiver)
    title = f"reading {len(inputs.texts)} texts with {origin.name} and {receiver.name}"
    for seen, met in paired_rows(origin, receiver, ours, theirs, inputs, title):
        for pair in pairs.values():
            _add_pair(spaces, pair, origin.slots[pair.origin], seen, met, with_inputs, full)
        if HEAD in seen and HEAD in met:
            spaces.hidden.add(seen[HEAD].y, met[HEAD].y)
    return spaces


def watched(pairs: Mapping[str, Pair], origin: Host, receiver: Host) -> tuple[list[str], list[str]]:
    """The slots to watch in each host: the pairs' own and those where their outputs are seen again."""
    ours = [_with_further(pair.origin, origin) for pair in pairs.values()]
    theirs = [_with_further(name, receiver) for name in pairs]
    return list(dict.fromkeys(n for names in ours for n in names)), list(dict.fromkeys(n for ns in theirs for n in ns))


def _add_pair(
    spaces: Spaces, pair: Pair, origin: Slot, seen: SlotRows, met: SlotRows, with_inputs: bool, full: bool
) -> None:
    """Take one batch of one pair in. Where no matrix reads inputs, what goes into linear maps is not summed up."""
    name, one, other = pair.receiver.name, seen[pair.origin], met[pair.receiver.name]
    if pair.receiver.kind == "attention":
        own = spaces.heads.setdefault(name, HeadMoments())
        own.keys.add(one.keys, other.keys)
        own.values.add(one.values, other.values)
        own.queries.add(grouped(one, origin), grouped(other, pair.receiver))
        own.scalings = (one.scaling, other.scaling)
        return
    if with_inputs or full or pair.receiver.kind != "linear":
        rows = (one.x, other.x) if with_inputs or pair.receiver.kind != "linear" else (one.y, other.y)
        spaces.into.setdefault(name, Moments(left=full, right=full)).add(*rows)
    out = spaces.out.setdefault(name, Moments(left=full, right=False))
    out.add(output_rows(seen, pair.origin), output_rows(met, name))


def output_rows(rows: SlotRows, name: str) -> Tensor:
    """What comes out at a slot and, in the same space, the stream at the end of the layer or the units' output."""
    further = _further(name)
    if further == name or further not in rows:
        return rows[name].y
    return torch.cat([rows[name].y, rows[further].y if name.endswith(RESIDUAL) else rows[further].x])


def grouped(rows: Rows, slot: Slot) -> Tensor:
    """Queries averaged over the groups that share a key head: (n, H_kv D_head)."""
    n, width = len(rows.queries), slot.out_width // slot.heads
    return rows.queries.view(n, slot.heads, -1, width).mean(2).flatten(1)


def _with_further(name: str, host: Host) -> list[str]:
    further = _further(name)
    return [name, further] if further in host.slots and further != name else [name]


def _further(name: str) -> str:
    """The slot where the space of a slot's output is seen again."""
    layer, _, site = name.rpartition(".")
    if site in UNITS:
        return f"{layer}.ffn_out"
    return f"{layer}.ffn_sum" if site in RESIDUAL else name
