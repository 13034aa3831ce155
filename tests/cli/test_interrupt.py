"""Control-C in the middle of training: exit 130, one line, nothing half-written, and the same command works again."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pico_folders import unmeasured

PATIENCE_SECONDS = 240.0
Run = Callable[..., Any]


def test_interrupt(
    environment: dict[str, str], peftport: Run, hosts: dict[str, Path], reviews: Path, tmp_path: Path
) -> None:
    """Progress is drawn on a terminal, so that the test can see that training is under way."""
    arguments = ["train", str(hosts["bert"]), str(reviews), "-t", "lora", "--out", str(tmp_path / "out")]
    master, slave = pty.openpty()
    shown, sent = b"", False
    command = [sys.executable, "-m", "peftport", *arguments, "--steps", "1000000"]
    terminal = {**unmeasured(environment), "TERM": "xterm"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, env=terminal) as running:
        os.close(slave)
        late = threading.Timer(PATIENCE_SECONDS, running.kill)
        late.start()
        try:
            while chunk := os.read(master, 1024):
                shown += chunk
                if not sent and b"training lora" in shown:
                    running.send_signal(signal.SIGINT)
                    sent = True
        except OSError:  # how Linux says that the other end is closed
            pass
        finally:
            late.cancel()
            os.close(master)
        assert running.stdout is not None
        assert running.stdout.read() == b""
    assert running.returncode == 130
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).replace("\r", "\n").split("\n")
    said = [line.strip() for line in lines if line.strip() and "training lora" not in line]
    assert said == ["peftport: interrupted; nothing half-written was left behind"]
    assert list(tmp_path.iterdir()) == []

    assert peftport(*arguments, "--steps", 2).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
