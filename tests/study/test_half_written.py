"""A worker that is killed in the middle of writing its result keeps nobody waiting for the rest of it."""

from __future__ import annotations

import struct
import sys
import time
from pathlib import Path

from peftport.study.executors import Processes


def write_half(marker: str) -> None:
    """Send the length of a result and its first byte, as a process does that is killed then."""
    frame = sys._getframe()
    while "result_queue" not in frame.f_locals:
        assert frame.f_back is not None
        frame = frame.f_back
    frame.f_locals["result_queue"]._writer._send(struct.pack("!i", 1000) + b"x")
    Path(marker).touch()
    time.sleep(600)


def test_half_a_result_keeps_no_thread_waiting(tmp_path: Path) -> None:
    """The thread that reads results ends, or Python would join it for ever as the driver ends."""
    workers, marker = Processes(1, 1), tmp_path / "half"
    pool = workers._pool(0)
    pool.submit(write_half, str(marker))
    reader = pool._executor_manager_thread  # type: ignore[attr-defined]
    end = time.monotonic() + 120
    while not marker.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert marker.exists()
    time.sleep(0.5)  # until the half is being read
    workers.close()
    reader.join(timeout=10)
    alive = reader.is_alive()
    if alive:  # let this process end
        queue = reader.result_queue
        queue._writer.close()
    assert not alive
