"""Which accelerators the workers of a study take: one each, filled by its stack; all of them where a host is spread."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from peftport.hosts.loading import Loading, chosen_device

VISIBLE = "CUDA_VISIBLE_DEVICES"  # how CUDA is told which devices a process may see


def devices_of_workers(loading: Loading) -> tuple[str, ...]:
    """What `VISIBLE` says in each worker of this machine, one worker a device; empty: workers share out cores.

    A host spread over all devices has one worker, which sees what this process sees.
    """
    if chosen_device(loading) == "cpu":
        return ()
    seen = os.environ.get(VISIBLE) or ",".join(map(str, range(torch.cuda.device_count())))
    return (seen,) if loading.spread else tuple(seen.split(","))


def devices_of_task(loading: Loading, nodes: list[Mapping[str, float]]) -> int:
    """How many GPUs a stack on a Ray cluster asks for; ``nodes``: what each node has, by Ray's names of resources."""
    most = int(max((node.get("GPU", 0) for node in nodes), default=0))
    if loading.device == "cpu" or (loading.device == "auto" and not most):
        return 0
    return max(1, most) if loading.spread else 1
