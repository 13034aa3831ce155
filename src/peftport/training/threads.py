"""How many threads torch computes with beside other processes.

Threads of one product wait for each other. Where other processes keep the cores busy, each wait costs a turn of the
system's scheduler, and several threads are many times slower than one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from peftport.core.libraries import torch

TOLD_BY_USERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
WATCHED = 0.5  # seconds; the system's load average is that of a minute, so it still tells of what has ended


def free_threads(threads: int, cores: int, load: float) -> int:
    """Return how many of torch's threads find a core of their own, at least one; ``load`` is that of other processes.

    A load of less than half a core is none.
    """
    return max(1, min(threads, cores - int(load + 0.5)))


def busy_cores() -> float:
    """Return how many of its cores other processes keep busy, watched for half a second in which this one rests.

    Cores that this process may not use count for nothing.
    """
    percent: list[float] = psutil.cpu_percent(interval=WATCHED, percpu=True)
    cores = own_cores() or set(range(len(percent)))
    return sum(each for core, each in enumerate(percent) if core in cores) / 100


def own_cores() -> set[int]:
    """Return the numbers of the cores that this process may use; none where the system does not say."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


@contextmanager
def beside_others() -> Iterator[str | None]:
    """Within the block, use as many threads as there are cores free; yield a sentence about it if they are fewer.

    What users say by OMP_NUM_THREADS is left as it is.
    """
    before, cores = torch.get_num_threads(), len(own_cores()) or os.cpu_count() or 1
    if before == 1 or any(name in os.environ for name in TOLD_BY_USERS):
        yield None
        return
    load = busy_cores()
    threads = free_threads(before, cores, load)
    if threads == before:
        yield None
        return
    torch.set_num_threads(threads)
    try:
        yield (
            f"other processes keep the cores busy (a load of {load:.1f}), so {threads} of {before} threads compute; "
            "this takes longer than on a quiet machine"
        )
    finally:
        torch.set_num_threads(before)
