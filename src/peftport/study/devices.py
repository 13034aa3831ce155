"""Assign accelerators to the workers of a study: one each, or all to one worker where a host is spread over them."""

from __future__ import annotations

import os
from collections.abc import Mapping

from peftport.core.libraries import torch
from peftport.hosts.loading import Loading, chosen_device

VISIBLE = "CUDA_VISIBLE_DEVICES"  # the variable that limits the devices that a process can use


def devices_of_workers(loading: Loading) -> tuple[str, ...]:
    """Return the value of `VISIBLE` for each worker of this machine, one per device; empty where workers use cores.

    A host that is spread over all devices has one worker, which has the same devices as this process.
    """
    if chosen_device(loading) == "cpu":
        return ()
    seen = os.environ.get(VISIBLE) or ",".join(map(str, range(torch.cuda.device_count())))
    return (seen,) if loading.spread else tuple(seen.split(","))


def accelerators() -> str:
    """Return the names of the accelerators of this machine, each once, such as ``NVIDIA H200``."""
    return ", ".join(sorted({torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}))


def devices_of_task(loading: Loading, nodes: list[Mapping[str, float]]) -> int:
    """Return how many GPUs a stack on a Ray cluster needs; ``nodes`` holds the resources of each node by name."""
    most = int(max((node.get("GPU", 0) for node in nodes), default=0))
    if loading.device == "cpu" or (loading.device == "auto" and not most):
        return 0
    return max(1, most) if loading.spread else 1
