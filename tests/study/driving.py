"""Drivers of studies as real processes: who of them lives, and what is on record."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from pico_study import records

PATIENCE_SECONDS = 240.0
MARK = "PEFTPORT_TEST_MARK"
Driver = Callable[..., "subprocess.Popen[str]"]


def alive(mark: str) -> list[int]:
    """Processes that carry the mark."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
        except OSError:  # it has ended, or is not ours
            continue
    return found


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE_SECONDS:.0f} s in vain until {what}"
        time.sleep(0.05)


def until_at_work(driver: subprocess.Popen[str], mark: str, folder: Path, jobs: int) -> None:
    """Until a driver has workers and so many jobs are on record; it must not end before."""

    def at_work() -> bool:
        assert driver.poll() is None, f"the driver ended by itself: {driver.communicate()}"
        return len(known(folder)) >= jobs and len(alive(mark)) > 1

    until(at_work, f"{jobs} jobs are on record and the driver has workers")


def known(folder: Path) -> dict[str, tuple[int, float]]:
    return records(folder) if (folder / "ledger.sqlite").exists() else {}
