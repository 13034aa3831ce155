"""Prefixes and watchers of attention blocks: other folders register them here, and hosts.attention reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Prefix:
    """The prefix keys and values of K entries for one attention block, (K, P, H * head width) each."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Watched:
    """The inputs of one attention block: queries (B, H, T, d), keys and values (B, H_kv, T, d), the factor of q k^T."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    scaling: float


# The prefixes that are attached now, by attention module. techniques.attach sets and removes them.
prefixes: dict[nn.Module, Prefix] = {}
# Functions called with the inputs of an attention block. porting.alignment.activations sets and removes them.
watchers: dict[nn.Module, Callable[[Watched], None]] = {}
