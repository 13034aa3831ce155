"""Real drivers and real workers, interrupted: one line, nobody left, and the same command goes on."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from pico_study import SHORTER, contents, files, records
from study.driving import PATIENCE_SECONDS, Driver, alive, known, until, until_at_work

SEEDS = ("--set", f"seeds={SHORTER}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(number: int, drive: Driver, mark: str, tmp_path: Path, undisturbed_shorter: Path) -> None:
    """Control-C and a lost terminal reach every process: one line, exit 130, nobody left; the same command goes on."""
    driver = drive(*SEEDS, workers=2)
    until_at_work(driver, mark, tmp_path / "runs", 3)
    if number != signal.SIGTERM:
        os.killpg(driver.pid, number)
    else:
        driver.send_signal(number)
    out, said = driver.communicate(timeout=PATIENCE_SECONDS)
    assert (driver.returncode, out) == (130, "")
    assert said.splitlines() == ["peftport: interrupted; nothing half-written was left behind"]
    until(lambda: not alive(mark), "nobody is left")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not [name for name in files(tmp_path / "runs") if name.startswith(".")]
    before = records(tmp_path / "runs")
    second = drive(*SEEDS)
    assert second.wait() == 0
    second.communicate()
    assert before.items() <= records(tmp_path / "runs").items()
    assert contents(tmp_path / "runs") == contents(undisturbed_shorter)
    assert files(tmp_path / "runs") == files(undisturbed_shorter)


def test_a_second_driver_waits_for_nobody(drive: Driver, mark: str, tmp_path: Path) -> None:
    """It is refused while the first works, and leaves it alone."""
    many = ("--set", f"seeds={list(range(200))}")
    first = drive(*many)
    until(lambda: bool(known(tmp_path / "runs")), "the first works")
    second = drive(*many)
    _, said = second.communicate()
    assert second.returncode == 2
    assert re.fullmatch(r"peftport: .*another process is running this study.*\n", said)
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=PATIENCE_SECONDS)
    assert first.returncode == 130
    until(lambda: not alive(mark), "nobody is left")
