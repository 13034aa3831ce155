"""What a figure was measured on and with: written into every file of results."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy")


def machine_facts() -> dict[str, Any]:
    """Processor, cores, memory, versions, threads and the load average at this moment."""
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(pages * page / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "threads": os.environ.get("OMP_NUM_THREADS", "as torch chooses"),
        "load_average": round(os.getloadavg()[0], 2),
        **_accelerator(),
    }


def _accelerator() -> dict[str, str]:
    """The GPU where torch finds one."""
    import torch

    return {"accelerator": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
