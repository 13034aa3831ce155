"""Large tensors taken and freed again and again do not ask the system for memory every time."""

import subprocess
import sys

import pytest

from pico_folders import process_environment

PROGRAM = """
import resource, sys, torch
from peftport.hosts.allocation import keep_freed_memory
torch.set_num_threads(1)
print(keep_freed_memory())
for _ in range(4):
    torch.empty(2**22).fill_(1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.empty(2**22).fill_(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 20 * 2**24 // 4096  # were every tensor's memory new


def run(environment: dict[str, str]) -> tuple[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    return done[0], int(done[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_memory_is_kept() -> None:
    everything = process_environment()
    plain = {key: value for key, value in everything.items() if not key.startswith(("MALLOC_", "LD_PRELOAD"))}
    done, faults = run(plain)
    assert done == "True" and faults < PAGES / 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_who_set_malloc_keeps_it() -> None:
    done, faults = run({**process_environment(), "MALLOC_MMAP_THRESHOLD_": "65536"})
    assert done == "False" and faults > PAGES * 0.9
