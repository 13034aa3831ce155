"""What a number came from besides its inputs: versions of software, and the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("peftport", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy")


def installed_versions() -> dict[str, str]:
    """Python's version and those of the libraries that numbers depend on."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in LIBRARIES}}


def version_of(library: str) -> str:
    """The version of a library that is installed, or that it is not."""
    try:
        return version(library)
    except PackageNotFoundError:  # run from a source tree
        return "not installed as a package"


def this_machine() -> dict[str, str]:
    """What a time in seconds depends on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"system": platform.system(), "processor": _processor(), "cores": str(cores or "unknown")}


def _processor() -> str:
    """The processor's name where the system tells it, its architecture otherwise."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
