"""Make glibc keep freed memory for the tensors of the next step.

Every training step allocates and frees the same large tensors. By default glibc returns their memory to the system and
requests zeroed pages again, which takes time; docs/measurements.md has the measurements.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # constants of malloc.h
MOST = 2**31 - 1  # mallopt takes an int


@cache
def keep_freed_memory() -> bool:
    """Set glibc's malloc to keep freed memory, once in a process. Returns whether that was possible.

    It is possible on Linux with glibc only, and is not done where the user configured malloc (MALLOC_*, LD_PRELOAD).
    """
    if not sys.platform.startswith("linux") or any(name.startswith(("MALLOC_", "LD_PRELOAD")) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, MOST) == 1 for option in (TRIM_THRESHOLD, MMAP_THRESHOLD))
