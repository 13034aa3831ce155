"""The map that is expected between two hosts' spaces before any row is read: it follows from their place in a layer.

    heads      queries, keys, values and the inputs of W_o: heads are matched, with one rotation per head
    units      outputs of the FFN's first maps and inputs of its last: an assignment of units, by correlation
    stream     all others are the residual stream or share its basis: the identity

Nothing is expected where widths or numbers of heads differ. The outputs of a fused matrix (GPT-2's queries, keys and
values) have three parts with a map each, since a query never corresponds to a key. alignment.rotations completes maps
by what is expected here; `regress`, `theseus` and `lorasuite` use both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from peftport.hosts.host import Host
from peftport.porting.alignment.heads import Heads, rotated
from peftport.porting.alignment.maps import Dense, Moments, Prior, SecondMoments, assignment
from peftport.porting.alignment.rotations import Expect, Rotation, rotation, scaled, unmoved
from peftport.porting.alignment.spaces import UNITS
from peftport.porting.pairs import Pair

Side = Literal["in", "out"]


@dataclass(frozen=True)
class Part:
    """A part of a space that has a map of its own: its coordinates in both hosts, and the map expected between them."""

    ours: slice
    theirs: slice
    expect: Expect

    @property
    def swapped(self) -> Part:
        """The same part of the map from the receiver's space to the origin's."""
        return Part(self.theirs, self.ours, self.expect)


def parts(origin: Host, receiver: Host, pair: Pair, side: Side) -> list[Part]:
    """The parts of the inputs ("in") or outputs ("out") of a pair of slots; most have one part."""
    site = pair.receiver.site
    mixed = site in ("attn_o", "cross_o") if side == "in" else _letters(site) != ""
    if not mixed:
        units = site == "ffn_out" if side == "in" else site in UNITS
        return [Part(slice(None), slice(None), _assigned if units else unmoved)]
    ours, theirs = (
        _head_parts(host, name, side) for host, name in ((origin, pair.origin), (receiver, pair.receiver.name))
    )
    return [
        Part(left, right, partial(_rotated, heads=(first, second)))
        for (left, first), (right, second) in zip(ours, theirs, strict=True)
    ]


def _letters(site: str) -> str:
    """Which of queries, keys and values are the outputs of a site; empty for other sites."""
    kind, _, letters = site.partition("_")
    return letters if kind in ("attn", "cross") and letters in ("q", "k", "v", "qkv") else ""


def _head_parts(host: Host, name: str, side: Side) -> list[tuple[slice, int]]:
    """The coordinates of a slot's parts and their numbers of heads; a fused matrix has queries, keys, then values."""
    layer, _, site = name.rpartition(".")
    slot, block = host.slots[name], host.slots[f"{layer}.{site.partition('_')[0]}"]
    width = block.out_width // block.heads
    widths = [slot.in_width if side == "in" else slot.out_width]
    if side == "out" and _letters(site) == "qkv":
        widths = [slot.out_width - 2 * block.out_width, block.out_width, block.out_width]
    starts = [sum(widths[:i]) for i in range(len(widths))]
    return [(slice(start, start + size), size // width) for start, size in zip(starts, widths, strict=True)]


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
        there[part.ours, part.theirs] = fitted.there
    return Dense(there, there.mT, _notes(rotations))


def multiple_of(moments: Moments, of: Sequence[Part]) -> Prior:
    """The best multiples of these maps, towards which a regression is drawn where the rows say little."""
    half, everything = (torch.zeros_like(moments.all.ab) for _ in range(2))
    for part in of:
        sums = moments.part(part.ours, part.theirs)
        half[part.ours, part.theirs], everything[part.ours, part.theirs] = scaled(rotation(sums, part.expect), sums)
    return half, everything


def expected(sums: SecondMoments, of: Sequence[Part]) -> Tensor | None:
    """The map that is expected of the whole space, by these rows; None where nothing is."""
    whole = torch.zeros_like(sums.ab)
    for part in of:
        block = part.expect(sums.part(part.ours, part.theirs))
        if block is None:
            return None
        whole[part.ours, part.theirs] = block
    return whole


def _notes(rotations: Sequence[Rotation]) -> str:
    notes = list(dict.fromkeys(fitted.note for fitted in rotations))
    return "; ".join(notes)
