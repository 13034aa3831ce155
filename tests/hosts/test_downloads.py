"""A download that is stopped ends, whether or not it listens."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftport.hosts.offline import catalogue, install
from peftport.hosts.offline.converters import packages

SLEEPS = "import time; time.sleep(600)"
DEAF = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
{child}
print("ready", flush=True)
signal.pause()
"""
CHILD = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(20)'], stdout=subprocess.DEVNULL)"
Pip = subprocess.Popen[str]


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Pip]:
    """Begin a download with a process of this script in the place of pip, and stop it. Returns the process."""
    popen, running = subprocess.Popen, list[Pip]()

    def run(script: str, **changes: Any) -> Pip:
        def pip(_: list[str], **more: Any) -> Pip:
            running.append(popen([sys.executable, "-c", script], **(more | changes)))
            if running[0].stdout is not None:
                with running[0].stdout as said:
                    assert said.readline() == "ready\n"
            return running[0]

        spec = install.tables()["vader"]
        assert isinstance(spec, catalogue.Packaged)
        monkeypatch.setattr(packages.subprocess, "Popen", pip)
        packages.Download(spec, tmp_path).stop()
        return running[0]

    return run


@pytest.mark.parametrize("child", ["", CHILD])
def test_a_download_that_does_not_listen_is_ended_by_force(
    child: str, stopped: Callable[..., Pip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a process that it started keeps the pipe of its words open."""
    monkeypatch.setattr(packages, "STOP_SECONDS", 0.2)
    begun = time.monotonic()
    done = stopped(DEAF.format(child=child), stdout=subprocess.PIPE)
    assert done.returncode == -signal.SIGKILL and time.monotonic() - begun < 15


def test_a_download_that_listens_is_asked_to_end(stopped: Callable[..., Pip]) -> None:
    assert stopped(SLEEPS).returncode == -signal.SIGTERM
