"""The leading singular vectors of both hosts' matrices at a pair of slots, read one matrix at a time.

With W = U diag(s) V^T, the columns of U span the outputs of a linear map and those of V its inputs. Adapters after a
map use its U, adapters at a sum the U of the FFN's last map, and prefixes the U of the maps that make keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peftport.hosts.host import Host
from peftport.hosts.slots import Slot
from peftport.hosts.weights import HostWeights
from peftport.porting.alignment.low_rank import Leading, leading
from peftport.porting.pairs import Pair

LARGEST_K = 256  # of the singular vectors of one matrix


@dataclass(frozen=True, eq=False)
class BasePair:
    """The leading singular vectors of the origin's and of the receiver's matrix."""

    origin: Leading
    receiver: Leading

    @property
    def error(self) -> str:
        """For the record: the share of the matrices' norm that may lie outside these vectors."""
        share = max(float(side.bound / side.s[0].clamp(min=1e-30)) for side in (self.origin, self.receiver))
        return f", all but {share:.0%} of the norm" if share > 0 else ""


class Bases:
    """At most `LARGEST_K` singular vectors of both hosts' matrices. The last pair is cached, as both sides are read."""

    def __init__(self, origin: Host, receiver: Host, rng: np.random.Generator) -> None:
        self.origin, self.receiver, self.rng = HostWeights(origin), HostWeights(receiver), rng
        self._last: tuple[str, str] = ("", "")
        self._pair: BasePair | None = None

    def at(self, pair: Pair, site: str = "") -> BasePair:
        """The singular vectors at a pair of linear slots, or at another site of the same layers."""
        ours, theirs = (
            linear_slot(self.origin.host, pair.origin, site),
            linear_slot(self.receiver.host, pair.receiver.name, site),
        )
        if self._last != (ours.name, theirs.name) or self._pair is None:
            self._pair = None
            first, second = self.origin.matrix(ours), self.receiver.matrix(theirs)
            k = max(1, min(LARGEST_K, *first.shape, *second.shape))
            seed = int(self.rng.integers(2**63))  # the same probes for both: equal matrices have equal vectors
            left, right = (leading(matrix, k, np.random.default_rng(seed)) for matrix in (first, second))
            self._pair = BasePair(left, right)
            self._last = (ours.name, theirs.name)
        return self._pair


def linear_slot(host: Host, name: str, site: str = "") -> Slot:
    """The linear slot whose basis a slot has: itself, or the FFN's last map for a sum; or another site of its layer."""
    layer, _, leaf = name.rpartition(".")
    return host.slots[f"{layer}.{site or ('ffn_out' if leaf == 'ffn_sum' else leaf)}"]


def key_and_value_sites(pair: Pair) -> tuple[str, str]:
    """The sites of the maps that make an attention block's keys and values."""
    kind = pair.receiver.site
    return f"{kind}_k", f"{kind}_v"
