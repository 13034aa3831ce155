"""Choose the number format that a machine computes frozen products fastest in: a timing of about a second.

``dtype=auto`` becomes ``mixed`` where a product with its casts (hosts.mixed) takes clearly less time than in float32,
as on processors with units for bfloat16, and ``float32`` elsewhere: without such units, bfloat16 is slow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from peftport.core.libraries import F, nn, torch, without_gradients
from peftport.hosts.allocation import keep_freed_memory

ROWS, WIDTH, ROUNDS = 1024, 512, 9
WORTH = 1.3  # times as fast: less would be lost in the casts of smaller products


@dataclass(frozen=True)
class ChosenFormat:
    """The number format that was chosen, and how many times as fast as float32 a mixed product is here."""

    dtype: Literal["float32", "mixed"]
    ratio: float

    def __str__(self) -> str:
        return f"dtype auto: {self.dtype}, as a mixed product is {self.ratio:.1f} times as fast as one in float32 here"


@cache
def chosen_format(device: str) -> ChosenFormat:
    """Time both kinds of product on a device and choose; a process does so once."""
    keep_freed_memory()  # as for a host that is loaded
    ratio = _seconds(device, mixed=False) / _seconds(device, mixed=True)
    return ChosenFormat("mixed" if ratio >= WORTH else "float32", ratio)


@without_gradients
def _seconds(device: str, *, mixed: bool) -> float:
    layer = nn.Sequential(nn.Linear(WIDTH, WIDTH)).to(device)
    from peftport.hosts.mixed import multiply_in_bfloat16  # it defines a function of torch's autograd

    if mixed:
        multiply_in_bfloat16(layer)
    x = torch.randn(ROWS, WIDTH, device=device)
    return min(_timed(lambda: F.relu(layer(x)), device) for _ in range(ROUNDS))


def _timed(run: Callable[[], object], device: str) -> float:
    begun = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begun
