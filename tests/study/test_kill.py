"""Real drivers and real workers, killed: nothing recorded is lost or done twice, the end is the same to the byte."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from peftport.hosts.loading import Loading
from peftport.study.executors import Outcome, Processes
from peftport.study.messages import DistanceRequest, Request
from pico_study import contents, files, plan_of, records, run_in
from study.driving import PATIENCE_SECONDS, Driver, alive, known, until, until_at_work

KILLS = int(os.environ.get("PEFTPORT_KILLS", "4"))  # other ones in every run; CONTRIBUTING.md has many at once


def test_drivers_killed_at_random(drive: Driver, mark: str, tmp_path: Path, undisturbed_long: Path) -> None:
    """SIGKILL of the driver or of its whole group, again and again, at work; then one call that may end."""
    seed = int(os.environ.get("PEFTPORT_KILL_SEED", random.SystemRandom().randrange(2**32)))
    print(f"PEFTPORT_KILL_SEED={seed}")
    rng, folder, points = random.Random(seed), tmp_path / "runs", []
    for kill in range(KILLS):
        before = known(folder)
        driver = drive()
        until_at_work(driver, mark, folder, len(before) + kill % 3)  # at once, after one more job, after two more
        time.sleep(rng.uniform(0.0, 0.3))
        driver.kill() if rng.random() < 0.5 else os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
        assert driver.returncode == -signal.SIGKILL, "it was done before it was killed"
        after = known(folder)
        assert before.items() <= after.items(), "a job on record was lost or done again"
        points.append(len(after))
        until(lambda: not alive(mark), "the workers follow their driver")
    before = known(folder)
    assert len(set(points)) >= min(3, KILLS), "each wait for more jobs is another point of the study"
    last = drive("--json")
    _, said = last.communicate()
    assert last.returncode == 0, said
    assert before.items() <= records(folder).items()
    assert contents(folder) == contents(undisturbed_long)
    assert set(files(folder)) >= set(files(undisturbed_long))
    assert not [name for name in files(folder) if name.startswith(".")], "what a kill left half-written"
    on_record = {f"{artifact}.safetensors" for _, _, artifact, _ in contents(folder).values() if artifact}
    assert on_record == set(files(undisturbed_long))
    until(lambda: not alive(mark), "the workers end with their driver")
    assert list((tmp_path / "temporary").iterdir()) == []


class Murderous(Processes):
    """Kills its one worker in the middle of the fourth stack."""

    count = 0

    def submit(self, stack: int, request: Request, blobs: Mapping[str, Path]) -> None:
        super().submit(stack, request, blobs)
        self.count += 1
        if self.count == 4:  # the worker is warm: it has begun by now
            time.sleep(0.02)
            pool = self._pools[0]
            assert pool is not None
            for process in (pool._processes or {}).values():
                process.kill()


def test_a_killed_worker_takes_only_its_stack(
    tiny: Path, tmp_path: Path, undisturbed: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    summary = run_in(tmp_path, plan_of(tiny), Murderous(1, 1))
    assert (summary.failed, summary.left) == (0, 0)
    assert sorted(attempt for attempt, _ in records(tmp_path).values())[-1] == 1
    assert contents(tmp_path) == contents(undisturbed)
    assert files(tmp_path) == files(undisturbed)


def test_a_worker_killed_while_idle_takes_nothing(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The next stack gets a new worker, once the death is known."""
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    executor = Processes(1, 1)
    request = DistanceRequest(job="x", origin="nowhere", receiver="nowhere")
    try:
        executor.submit(0, request, {})
        [before] = wait_for(executor)
        pool = executor._pools[0]
        assert pool is not None
        for process in (pool._processes or {}).values():
            process.kill()
        until(lambda: bool(pool._broken), "the death is known")
        executor.submit(1, request, {})
        [after] = wait_for(executor)
        assert "unknown host 'nowhere'" in str(before.error)
        assert (after.stack, str(after.error)) == (1, str(before.error))
    finally:
        executor.close()


class Homesick(Exception):
    """An exception that cannot be made again from its message."""

    def __init__(self, one: str, *, other: str) -> None:
        super().__init__(one + other)


def test_an_exception_that_cannot_travel_is_no_death(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back as its text, and the worker lives on."""
    monkeypatch.setenv("PYTHONPATH", f"{environment['PYTHONPATH']}{os.pathsep}{Path(__file__).parents[1]}")
    executor = Processes(1, 1)
    request = DistanceRequest(job="x", origin="nowhere", receiver="nowhere")
    try:
        pids = set()
        for _ in range(2):
            executor.submit(0, request, {})
            [outcome] = wait_for(executor)
            assert outcome.error is not None
            assert "unknown host 'nowhere'" in str(outcome.error)
            pool = executor._pools[0]
            assert pool is not None
            pids |= set(pool._processes or {})
        assert len(pids) == 1
    finally:
        executor.close()


def wait_for(executor: Processes) -> list[Outcome]:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if found := executor.outcomes(0.5):
            return found
    raise AssertionError("the worker never answered")


def test_exceptions_that_travel_and_those_that_do_not() -> None:
    from peftport.study.executors import _travels

    assert _travels(ValueError("x"))
    assert not _travels(Homesick("a", other="b"))


def test_workers_by_cores_and_threads(tmp_path: Path) -> None:
    from peftport.study.executors import make_executor, usable_cores

    for threads in (1, usable_cores(), usable_cores() + 1):
        executor = make_executor("processes", None, threads, Loading())
        assert isinstance(executor, Processes)
        assert len(executor._pools) == max(1, usable_cores() // threads)
