"""The moments of both hosts' activations in the spaces that a technique's matrices belong to, from one pass over texts.

A linear slot has a space of inputs and one of outputs. For outputs that go to the residual stream (of attention, FFN
and sums), the rows of the stream at the end of the layer are added: they have the same basis, and span more dimensions
if heads are few. For the FFN's units, rows before and after the nonlinearity are taken together: before it they span no
more dimensions than the residual stream, after it they span their own. Attention slots have keys, values and queries;
grouped queries are averaged over the group that shares a key head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot
from peftport.modules.module import HEAD
from peftport.porting.alignment.activations import Rows, SlotRows, paired_rows
from peftport.porting.alignment.inputs import AlignInputs
from peftport.porting.alignment.maps import Moments
from peftport.porting.pairs import Pair
from peftport.techniques.roles import reads_inputs

if TYPE_CHECKING:
    from torch import Tensor

RESIDUAL = ("attn_o", "cross_o", "ffn_out", "ffn_sum")  # sites whose output goes to the residual stream
UNITS = ("ffn_gate", "ffn_in")  # sites whose outputs are the FFN's units, the inputs of its last map
FUSED_UNITS = ("ffn_gate_in",)  # both in one matrix


@dataclass(eq=False)
class HeadMoments:
    """Moments of the keys, values and queries of two attention blocks, flat over key heads, and their scalings."""

    keys: Moments = field(default_factory=lambda: Moments(left=False, right=False))
    values: Moments = field(default_factory=lambda: Moments(right=False))
    queries: Moments = field(default_factory=lambda: Moments(left=False))
    scalings: tuple[float, float] = (1.0, 1.0)


@dataclass(eq=False)
class Spaces:
    """Moments by the receiver's slot; a are the origin's rows, b the receiver's."""

    into: dict[str, Moments] = field(default_factory=dict)
    out: dict[str, Moments] = field(default_factory=dict)
    heads: dict[str, HeadMoments] = field(default_factory=dict)
    hidden: Moments = field(default_factory=lambda: Moments(left=False))


def collect_spaces(inputs: AlignInputs, *, full: bool = False) -> Spaces:
    """Sum up the moments of both hosts on the texts, or take those of an earlier port from the cache.

    With ``full``, for regressions, all products of a host's rows with themselves are summed, not just the diagonal;
    ``into`` then has the outputs of linear maps if these are what a bottleneck reads.
    """
    taken = tuple((name, pair.origin) for name, pair in inputs.pairs.items())
    texts, shared = inputs.port_inputs.texts, inputs.port_inputs.shared
    key = ("spaces", inputs.origin, inputs.receiver, taken, reads_inputs(inputs.roles), full, tuple(texts))
    return shared.cached(key, lambda: _collect(inputs, full))


def _collect(inputs: AlignInputs, full: bool) -> Spaces:
    spaces, with_inputs = Spaces(), reads_inputs(inputs.roles)
    title = f"reading {len(inputs.port_inputs.texts)} texts with {inputs.origin.name} and {inputs.receiver.name}"
    for seen, met in watched_rows(inputs, title):
        for pair in inputs.pairs.values():
            _add_pair(spaces, pair, inputs.origin.slots[pair.origin], seen, met, with_inputs, full)
        if HEAD in seen and HEAD in met:
            spaces.hidden.add(seen[HEAD].y, met[HEAD].y)
    return spaces


def watched_rows(inputs: AlignInputs, title: str) -> Iterator[tuple[SlotRows, SlotRows]]:
    """The rows of both hosts, batch by batch, at the pairs' slots and where the spaces of their outputs recur."""
    ours = [name for pair in inputs.pairs.values() for name in _with_further(pair.origin, inputs.origin)]
    theirs = [name for slot in inputs.pairs for name in _with_further(slot, inputs.receiver)]
    ours, theirs = (list(dict.fromkeys(names)) for names in (ours, theirs))
    return paired_rows(inputs.origin, inputs.receiver, ours, theirs, inputs.port_inputs, title)


def _add_pair(
    spaces: Spaces, pair: Pair, origin: Slot, seen: SlotRows, met: SlotRows, with_inputs: bool, full: bool
) -> None:
    """Add one batch of one pair. The inputs of linear maps are summed up only if a matrix reads them.

    With ``with_inputs``, a matrix of the technique reads the inputs of linear maps; otherwise a bottleneck reads their
    outputs.
    """
    name, ours, theirs = pair.receiver.name, seen[pair.origin], met[pair.receiver.name]
    if pair.receiver.kind == "attention":
        moments = spaces.heads.setdefault(name, HeadMoments())
        moments.keys.add(ours.keys, theirs.keys)
        moments.values.add(ours.values, theirs.values)
        moments.queries.add(grouped(ours, origin), grouped(theirs, pair.receiver))
        moments.scalings = (ours.scaling, theirs.scaling)
        return
    if with_inputs or full or pair.receiver.kind != "linear":
        states = (state_rows(ours, origin), state_rows(theirs, pair.receiver))
        rows = (ours.x, theirs.x) if with_inputs else states
        spaces.into.setdefault(name, Moments(left=full, right=full)).add(*rows)
    out = spaces.out.setdefault(name, Moments(left=full, right=False))
    out.add(output_rows(seen, pair.origin), output_rows(met, name))


def state_rows(rows: Rows, slot: Slot) -> Tensor:
    """The vectors that a bottleneck reads at a slot: a linear map's outputs, or a sum after its layer norm."""
    return rows.y if slot.kind == "linear" else rows.x


def output_rows(rows: SlotRows, name: str) -> Tensor:
    """A slot's outputs and, from the same space, the stream at the end of the layer or the units after activation."""
    further = _further(name)
    if further == name or further not in rows:
        return rows[name].y
    again = rows[further].y if name.endswith(RESIDUAL) else rows[further].x
    return torch.cat([rows[name].y, torch.cat([again, again], dim=1) if name.endswith(FUSED_UNITS) else again])


def grouped(rows: Rows, slot: Slot) -> Tensor:
    """The mean of the queries in each group that shares a key head: (n, H_kv D_head)."""
    n, width = len(rows.queries), slot.out_width // slot.heads
    return rows.queries.view(n, slot.heads, -1, width).mean(2).flatten(1)


def _with_further(name: str, host: Host) -> list[str]:
    further = _further(name)
    return [name, further] if further in host.slots and further != name else [name]


def _further(name: str) -> str:
    """The slot where the space of a slot's outputs recurs; the slot itself if there is none."""
    layer, _, site = name.rpartition(".")
    if site in UNITS + FUSED_UNITS:
        return f"{layer}.ffn_out"
    return f"{layer}.ffn_sum" if site in RESIDUAL else name
