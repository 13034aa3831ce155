"""Beside other processes torch computes with as many threads as cores are free, if nobody says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from peftport.training import threads
from peftport.training.threads import beside_others, busy_cores, free_threads


@pytest.mark.parametrize(
    ("threads", "cores", "load", "free"),
    [(2, 2, 0.0, 2), (2, 2, 0.4, 2), (2, 2, 1.0, 1), (2, 2, 5.2, 1), (8, 16, 9.0, 7), (8, 16, 3.0, 8), (1, 64, 0.0, 1)],
)
def test_as_many_as_are_free(threads: int, cores: int, load: float, free: int) -> None:
    assert free_threads(threads, cores, load) == free


def test_another_process_is_seen_as_soon_as_it_computes() -> None:
    """The load average would not yet tell of it, and would for a minute after its end."""
    forever = "print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", forever], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        during = busy_cores()
        other.kill()
    assert 0.4 < during <= (os.cpu_count() or 1)


@pytest.mark.parametrize("own", [{0, 1}, {2, 5, 7}, set()])
def test_work_on_cores_that_are_not_ours_takes_none_away(own: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight cores, of which the process may use some; an empty set: the system does not say which."""
    percent = [0.0, 50.0, 100.0, 100.0, 100.0, 0.0, 100.0, 25.0]
    monkeypatch.setattr(threads.psutil, "cpu_percent", lambda interval, percpu: percent)
    monkeypatch.setattr(threads, "own_cores", lambda: own)
    assert busy_cores() == pytest.approx(sum(percent[core] for core in own or range(8)) / 100)


@pytest.mark.parametrize("told", [True, False])
def test_within_the_block_only_and_not_against_users(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "busy_cores", lambda: 500.0)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if told:
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    try:
        with beside_others() as busy:
            assert torch.get_num_threads() == (2 if told else 1)
            assert busy is None if told else busy is not None and "1 of 2 threads" in busy
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
