"""What a matrix of a technique has to do with its host: which space of a slot it reads, writes or scales.

Porters carry a matrix between hosts by its role, whatever the technique is called. The spaces of a slot:

    in              what goes into a linear map
    out             what comes out of it; at a sum, the sum
    state           what a bottleneck reads: what comes out of a linear map; at a sum, the sum behind its layer norm
    keys, values    those of an attention block, flat over heads

Two sets of roles are shared by several techniques, and some methods have a better way for them than to carry one matrix
after the other: `PRODUCT`, whose update is the product of two matrices, and `BOTTLENECK`, which has units between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Space = Literal["in", "out", "state", "keys", "values"]


@dataclass(frozen=True)
class Reads:
    """The rows of the matrix, (R, D), are multiplied with rows of the space."""

    space: Space


@dataclass(frozen=True)
class Writes:
    """What the matrix holds is added to rows of the space: its columns, (D, R), a vector (D), or its rows, (P, D)."""

    space: Space
    rows: bool = False


@dataclass(frozen=True)
class Scales:
    """A vector l (D): coordinate i of the space is multiplied by 1 + l_i, so zero changes nothing."""

    space: Space


@dataclass(frozen=True)
class Inner:
    """A vector (R) that belongs to the technique's own units and to no space of the host."""


Role = Reads | Writes | Scales | Inner
Roles = Mapping[str, Role]

PRODUCT: Roles = {"A": Reads("in"), "B": Writes("out")}
BOTTLENECK: Roles = {"down": Reads("state"), "down_bias": Inner(), "up": Writes("out"), "up_bias": Writes("out")}
ATTENTION: Roles = {"keys": Writes("keys", rows=True), "values": Writes("values", rows=True)}


def reads_inputs(roles: Roles) -> bool:
    """Whether a matrix reads what goes into a linear map."""
    return Reads("in") in roles.values()


def only_scales(roles: Roles) -> bool:
    """Whether every matrix scales the coordinates of a space."""
    return all(isinstance(role, Scales) for role in roles.values())
