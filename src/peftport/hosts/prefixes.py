"""What an attention block attends with besides its text, and who is told: filled by others, read by hosts.attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Prefix:
    """Keys and values of K entries before one attention block: each (K, P, H * head width)."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Watched:
    """What one attention block attends with: queries (B, H, T, d), keys and values (B, H_kv, T, d), q k^T's factor."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    scaling: float


# The prefixes now attached, by attention module. Filled and emptied by techniques.attach.
prefixes: dict[nn.Module, Prefix] = {}
# Who is told what an attention block attends with. Filled and emptied by porting.alignment.activations.
watchers: dict[nn.Module, Callable[[Watched], None]] = {}
