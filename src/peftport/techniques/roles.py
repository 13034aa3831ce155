"""The roles of a technique's matrices: which vector space of a slot each matrix reads, writes or scales.

Porting methods carry a matrix between hosts by its role, so they need not know the technique. The spaces of a slot are:

    in              the inputs of a linear map
    out             its outputs; at a sum, the sum
    state           the inputs of a bottleneck: the outputs of a linear map; at a sum, the sum after its layer norm
    keys, values    the keys and values of an attention block, flat over heads

Some methods do better than to carry each matrix by itself, for two sets of roles that several techniques share:
`PRODUCT`, whose update is the product of two matrices, and `BOTTLENECK`, which has a nonlinearity between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Space = Literal["in", "out", "state", "keys", "values"]


@dataclass(frozen=True)
class Reads:
    """The matrix (R, D) is multiplied by vectors of the space."""

    space: Space


@dataclass(frozen=True)
class Writes:
    """Parts of the matrix are added to vectors of the space: its columns (D, R), the vector (D), or its rows (P, D)."""

    space: Space
    rows: bool = False


@dataclass(frozen=True)
class Scales:
    """A vector l (D): coordinate i of the space is multiplied by 1 + l_i, so that zeros change nothing."""

    space: Space


@dataclass(frozen=True)
class Inner:
    """A vector (R) that belongs to the technique's own hidden units and to no space of the host."""


Role = Reads | Writes | Scales | Inner
Roles = Mapping[str, Role]

PRODUCT: Roles = {"A": Reads("in"), "B": Writes("out")}
BOTTLENECK: Roles = {"down": Reads("state"), "down_bias": Inner(), "up": Writes("out"), "up_bias": Writes("out")}
ATTENTION: Roles = {"keys": Writes("keys", rows=True), "values": Writes("values", rows=True)}


def reads_inputs(roles: Roles) -> bool:
    """Whether any matrix reads the inputs of a linear map."""
    return Reads("in") in roles.values()


def only_scales(roles: Roles) -> bool:
    """Whether every matrix scales the coordinates of a space."""
    return all(isinstance(role, Scales) for role in roles.values())
