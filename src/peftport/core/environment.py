"""Record the environment that a result was computed in: versions of software, and the machine."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("peftport", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy")


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that affect numbers."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in LIBRARIES}}


@cache
def version_of(library: str) -> str:
    """Return the version of a library, or that it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:  # peftport runs from its source tree
        return "not installed as a package"


def this_machine() -> dict[str, str]:
    """Describe this machine as far as it affects the time that work takes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"system": platform.system(), "processor": _processor(), "cores": str(cores or "unknown")}


def _processor() -> str:
    """Return the name of the processor if the system reports it, and its architecture otherwise."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
