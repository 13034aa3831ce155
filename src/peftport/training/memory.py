"""Compute how many entries train at once: the free memory divided by the measured need of one entry.

    K = floor(budget / (activations kept for the backward pass + 4 x parameters))

The factor 4 counts the parameters of an entry, their gradient, and Adam's two moments. The activations are those of the
longest batch of one entry. They are measured: everything that autograd keeps in one forward pass is added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.objectives.base import Objective, row_length
from peftport.techniques.base import TechniqueSpec
from peftport.training.loop import Entry, TrainSettings, entry_loss

if TYPE_CHECKING:
    from torch import Tensor

SHARE = 0.5  # share of the free memory; the rest is for tensors that live for less than a step
UNKNOWN_FREE_BYTES = 4 * 2**30  # assumed where the system does not report its free memory


@dataclass(frozen=True)
class EntryMemory:
    """The memory that one entry of a stack needs."""

    activation_bytes: int
    parameter_bytes: int

    @property
    def total_bytes(self) -> int:
        """The bytes of activations, parameters, their gradient, and the two moments."""
        return self.activation_bytes + 4 * self.parameter_bytes


def largest_stack(entry: EntryMemory, budget_bytes: int) -> int:
    """Return the largest number of entries that fits in the budget, at least one."""
    return max(1, budget_bytes // max(1, entry.total_bytes))


def entry_memory(
    host: Host, objective: Objective, spec: TechniqueSpec, entry: Entry, settings: TrainSettings
) -> EntryMemory:
    """Measure one entry on its longest batch, by the forward pass of one step without its backward pass."""
    lengths = np.array([row_length(row) for row in entry.rows])
    longest = np.argsort(-lengths, kind="stable")[: min(settings.batch_size, len(lengths))]
    weights = {p.untyped_storage().data_ptr() for p in (*host.model.parameters(), *host.model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        entry_loss(host, objective, spec, entry, longest)
    numbers = sum(tensor.numel() for matrices in entry.start.values() for tensor in matrices.values())
    return EntryMemory(sum(kept.values()), numbers * host.wide_dtype.itemsize)


def free_bytes(device: torch.device) -> int:
    """Return the free bytes of the accelerator, or of this machine and the container that the process runs in."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [size for size in (_of_machine(), _of_container()) if size is not None]
    return min(free) if free else UNKNOWN_FREE_BYTES


def _of_machine(file: Path = Path("/proc/meminfo")) -> int | None:
    if not file.is_file():
        return None
    lines = dict(line.split(":", 1) for line in file.read_text(encoding="utf-8").splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None


def _of_container(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that the control group still allows; its page cache counts as free."""
    limit, used, stat = (folder / name for name in ("memory.max", "memory.current", "memory.stat"))
    if not (limit.is_file() and used.is_file()) or limit.read_text().strip() == "max":
        return None
    cached = 0
    if stat.is_file():
        counters = dict(line.split() for line in stat.read_text(encoding="utf-8").splitlines())
        cached = int(counters.get("inactive_file", 0))
    return max(0, int(limit.read_text()) - int(used.read_text()) + cached)
