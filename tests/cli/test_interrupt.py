"""Control-C in the middle of training: exit 130, one line, nothing half-written, and the same command works again."""

from __future__ import annotations

import os
import pty
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
    said = [line.strip() for line in lines if line.strip() and "━" not in line]  # no bars
    assert said == ["peftport: interrupted; nothing half-written was left behind"]
    assert list(tmp_path.iterdir()) == []

    assert peftport(*arguments, "--steps", 2).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


STUDY = """
name = "long"
techniques = ["lora"]
pairs = [["HOST", "HOST"]]
tasks = ["own"]
budgets = [0]
seeds = [0]
[data.own]
source = "reviews.csv"
[training]
origin_steps = 1000000
"""
LONG: dict[str, Callable[[dict[str, Path], Path, Path], list[object]]] = {
    "train": lambda at, module, out: ["train", at["bert"], "reviews.csv", "-t", "lora", "--steps", 10**6, "--out", out],
    "compare": lambda at, module, out: [
        "compare", module, "--to", at["bert-updated"], "--task", "reviews.csv", "--budgets", 10**6, "--out", out,
    ],
    "port": lambda at, module, out: [
        "port", module, "--from", at["bert"], "--to", at["bert-updated"], "--method", "distill", "--task",
        "reviews.csv", "--steps", 10**6, "--out", out,
    ],
    "evaluate": lambda at, module, out: ["evaluate", at["bert"], "reviews.csv"],
    "study run": lambda at, module, out: ["study", "run", "long.toml", "--dir", out, "--workers", 2],
}  # fmt: skip


def in_session(leader: int) -> list[int]:
    """Processes of a session that live."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session, *_ = (place / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):  # it has ended
            continue
        if int(session) == leader and state not in "ZX":
            found.append(int(place.name))
    return found


@pytest.mark.parametrize("command", LONG)
def test_signals_again_and_again(
    command: str,
    environment: dict[str, str],
    hosts: dict[str, Path],
    modules: dict[str, Path],
    reviews: Path,
    tmp_path: Path,
) -> None:
    """Three and more within a tenth of a second, of any kind, to the whole group, at any moment after the start:
    one line, exit 130, nobody left, no litter."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng, home, temporary = random.Random(seed), tmp_path / "home", tmp_path / "temporary"
    home.mkdir(), temporary.mkdir()
    text = reviews.read_text(encoding="utf-8")
    (home / "reviews.csv").write_text(text, encoding="utf-8")
    (home / "long.toml").write_text(STUDY.replace("HOST", str(hosts["bert"])), encoding="utf-8")
    arguments = [sys.executable, "-m", "peftport", *map(str, LONG[command](hosts, modules["lora"], home / "out"))]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home, start_new_session=True,
        env={**unmeasured(environment), "TMPDIR": str(temporary)},
    ) as running:  # fmt: skip
        try:
            until_in_hand(running.pid)
            time.sleep(rng.choice((0, rng.uniform(0, 1), rng.uniform(0, 8))))
            for number in rng.choices((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), k=rng.randint(3, 5)):
                if running.poll() is None:
                    os.killpg(running.pid, number)
                    time.sleep(rng.uniform(0, 0.03))
            out, err = running.communicate(timeout=PATIENCE_SECONDS)
        finally:
            if running.poll() is None:  # a test that fails leaves nobody at work
                os.killpg(running.pid, signal.SIGKILL)
    if command == "evaluate" and running.returncode == 0:  # it was done before
        assert err == ""
        return
    assert (running.returncode, out, err) == (130, "", "peftport: interrupted; nothing half-written was left behind\n")
    end = time.monotonic() + 10
    while in_session(running.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert in_session(running.pid) == []
    assert list(temporary.iterdir()) == []
    assert not [path for path in home.rglob("*") if path.name.startswith(".")]
    assert command == "study run" or not (home / "out").exists()


def until_in_hand(pid: int) -> None:
    """Until a process catches SIGTERM: before that Python itself is starting, and ends as the system has it."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
        if caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1 and int(caught[1], 16) >> (signal.SIGHUP - 1) & 1:
            return
        time.sleep(0.002)
    raise AssertionError("it never took its signals in hand")


@pytest.mark.parametrize("close", [">&-", "2>&-", "<&-", "| head -1", "2>&1 | head -0", ">&- 2>&- <&-"])
def test_nobody_reads(close: str, environment: dict[str, str], tmp_path: Path) -> None:
    """Quiet, no traceback; as the work ended, or 1 where a reader went away before all was printed."""
    shell = f'set -o pipefail; "$PYTHON" -m peftport techniques {close}'
    given = {**unmeasured(environment), "PYTHON": sys.executable}
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=given, cwd=tmp_path, check=False)
    assert done.returncode in ((0, 1) if "head" in close else (0,)), done
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_standard_output_on_a_full_disk(options: tuple[str, ...], environment: dict[str, str], tmp_path: Path) -> None:
    """Whether the buffer is written at once or at the end."""
    command = [sys.executable, "-m", "peftport", "techniques", *options]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=unmeasured(environment), check=False
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "No space left on device" in done.stderr
