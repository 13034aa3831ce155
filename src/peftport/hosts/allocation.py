"""Freed memory is kept for the next step's tensors, where glibc would give it back and take zeroed pages again.

Measured in benchmarks/README.md. Every step takes and frees the same large tensors.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # malloc.h
MOST = 2**31 - 1  # mallopt takes an int


@cache
def keep_freed_memory() -> bool:
    """Tell glibc's malloc so, once a process; whoever set their own malloc (MALLOC_*, LD_PRELOAD) keeps it.

    Returns whether it was done: not elsewhere than on Linux with glibc.
    """
    if not sys.platform.startswith("linux") or any(name.startswith(("MALLOC_", "LD_PRELOAD")) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, MOST) == 1 for option in (TRIM_THRESHOLD, MMAP_THRESHOLD))
