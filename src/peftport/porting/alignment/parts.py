"""The map that is expected between two hosts' spaces before any row is read: it follows from their place in a layer.

    heads      queries, keys, values and the inputs of W_o: heads are matched, with one rotation per head
    units      outputs of the FFN's first maps and inputs of its last: an assignment of units, by correlation
    stream     all others are the residual stream or share its basis: the identity

Nothing is expected where widths or numbers of heads differ. The outputs of a fused matrix have parts with a map each:
queries, keys and values, in whatever order a family has them, since a query never corresponds to a key; or the FFN's
gate and its units. A linear map of no named site is treated like one of the residual stream. alignment.rotations
completes maps by what is expected here; `regress`, `theseus` and `lorasuite` use both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot
from peftport.porting.alignment.heads import Heads, rotated
from peftport.porting.alignment.maps import Coordinates, Dense, Moments, Prior, SecondMoments, assignment, put
from peftport.porting.alignment.rotations import Expect, Rotation, rotation, scaled, unmoved
from peftport.porting.alignment.spaces import FUSED_UNITS, UNITS
from peftport.porting.pairs import Pair

if TYPE_CHECKING:
    from torch import Tensor

Side = Literal["in", "out"]


@dataclass(frozen=True)
class Part:
    """A part of a space that has a map of its own: its coordinates in both hosts, and the map expected between them."""

    ours: Coordinates
    theirs: Coordinates
    expect: Expect

    @property
    def swapped(self) -> Part:
        """The same part of the map from the receiver's space to the origin's."""
        return Part(self.theirs, self.ours, self.expect)


def parts(origin: Host, receiver: Host, pair: Pair, side: Side) -> list[Part]:
    """The parts of the inputs ("in") or outputs ("out") of a pair of slots; most have one part."""
    site, sides = pair.receiver.site, ((origin, pair.origin), (receiver, pair.receiver.name))
    if side == "out" and site in FUSED_UNITS:
        ours, theirs = (part_rows(host, name, UNITS) for host, name in sides)
        return [Part(one, other, _assigned) for one, other in zip(ours, theirs, strict=True)]
    mixed = site in ("attn_o", "cross_o") if side == "in" else _letters(site) != ""
    if not mixed or not all(_block(host, name) for host, name in sides):
        units = (site, pair.receiver.kind) == ("ffn_out", "linear") if side == "in" else site in UNITS
        return [Part(slice(None), slice(None), _assigned if units else unmoved)]
    heads = [_head_parts(host, name, side) for host, name in sides]
    return [
        Part(one, other, partial(_rotated, heads=(first, second)))
        for (one, first), (other, second) in zip(*heads, strict=True)
    ]


def part_rows(host: Host, name: str, sites: Sequence[str]) -> list[Coordinates]:
    """Which outputs of a fused matrix belong to each of these sites of its layer."""
    layer = name.rpartition(".")[0]
    return [host.slots[f"{layer}.{site}"].rows for site in sites]


def _letters(site: str) -> str:
    """Which of queries, keys and values are the outputs of a site; empty for other sites."""
    kind, _, letters = site.partition("_")
    return letters if kind in ("attn", "cross") and letters in ("q", "k", "v", "qkv") else ""


def _block(host: Host, name: str) -> Slot | None:
    """The attention block that a slot belongs to; None where the layout does not name it."""
    layer, _, site = name.rpartition(".")
    return host.slots.get(f"{layer}.{site.partition('_')[0]}")


def _head_parts(host: Host, name: str, side: Side) -> list[tuple[Coordinates, int]]:
    """The coordinates of a slot's parts and their numbers of heads: all, or queries, keys and values if it is fused."""
    slot, block = host.slots[name], _block(host, name)
    assert block is not None
    width = block.out_width // block.heads
    if side == "out" and _letters(slot.site) == "qkv":
        kind = block.site
        sizes = [slot.out_width - 2 * block.out_width, block.out_width, block.out_width]
        rows = part_rows(host, name, [f"{kind}_{letter}" for letter in "qkv"])
        return [(own, size // width) for own, size in zip(rows, sizes, strict=True)]
    return [(slice(None), (slot.in_width if side == "in" else slot.out_width) // width)]


def _assigned(sums: SecondMoments) -> Tensor | None:
    if not _square(sums):
        return None
    return assignment(sums.correlation()).write(torch.eye(len(sums.ab), dtype=torch.float64))


def _rotated(sums: SecondMoments, heads: Heads) -> Tensor | None:
    return rotated(sums, heads).there if _square(sums) and heads[0] == heads[1] else None


def _square(sums: SecondMoments) -> bool:
    return bool(sums.count) and sums.ab.shape[0] == sums.ab.shape[1]


def rotation_of(moments: Moments, of: Sequence[Part]) -> Dense:
    """The best orthogonal map, fitted part by part."""
    rotations = [rotation(moments.part(part.ours, part.theirs), part.expect) for part in of]
    if len(rotations) == 1:
        return rotations[0].dense
    there = torch.zeros_like(moments.all.ab)
    for part, fitted in zip(of, rotations, strict=True):
        put(there, part.ours, part.theirs, fitted.there)
    return Dense(there, there.mT, _notes(rotations))


def multiple_of(moments: Moments, of: Sequence[Part]) -> Prior:
    """The best multiples of these maps, towards which a regression is drawn where the rows say little."""
    half, everything = (torch.zeros_like(moments.all.ab) for _ in range(2))
    for part in of:
        own = moments.part(part.ours, part.theirs)
        by_half, by_all = scaled(rotation(own, part.expect), own)
        put(half, part.ours, part.theirs, by_half)
        put(everything, part.ours, part.theirs, by_all)
    return half, everything


def expected(sums: SecondMoments, of: Sequence[Part]) -> Tensor | None:
    """The map that is expected of the whole space, by these rows; None where nothing is."""
    whole = torch.zeros_like(sums.ab)
    for part in of:
        block = part.expect(sums.part(part.ours, part.theirs))
        if block is None:
            return None
        put(whole, part.ours, part.theirs, block)
    return whole


def _notes(rotations: Sequence[Rotation]) -> str:
    notes = list(dict.fromkeys(fitted.note for fitted in rotations))
    return "; ".join(notes)
