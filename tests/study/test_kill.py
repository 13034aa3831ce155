"""Real drivers and real workers, killed: nothing recorded is lost or done twice, the end is the same to the byte."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from peftport.hosts.loading import Loading
from peftport.study.executors import Outcome, Processes
from peftport.study.messages import DistanceRequest, Request
from pico_folders import unmeasured
from pico_study import LONG, contents, files, plan_of, records, run_in

KILLS, PATIENCE_SECONDS = 10, 240.0
MARK = "PEFTPORT_TEST_MARK"
Driver = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def mark() -> str:
    """What the environments of a test's processes are marked with, so that orphans are found."""
    return uuid.uuid4().hex


@pytest.fixture
def drive(environment: dict[str, str], home: Path, tmp_path: Path, mark: str) -> Driver:
    """Start ``peftport study run`` as users do, with the seeds of `LONG`: no stop of these tests comes too late."""

    temporary = tmp_path / "temporary"
    temporary.mkdir()

    def start(*more: object, workers: int = 1) -> subprocess.Popen[str]:
        command = ["study", "run", "tiny.toml", "--set", f"seeds={LONG}", "--dir", str(tmp_path / "runs")]
        return subprocess.Popen(
            [sys.executable, "-m", "peftport", *command, "--workers", str(workers), *map(str, more)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home, start_new_session=True,
            env={**unmeasured(environment), MARK: mark, "TMPDIR": str(temporary)},
        )  # fmt: skip

    return start


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


def test_drivers_killed_at_random(drive: Driver, mark: str, tmp_path: Path, undisturbed_long: Path) -> None:
    """SIGKILL of the driver or of its whole group, ten times and more, at work; then one call that may end."""
    seed = int(os.environ.get("PEFTPORT_KILL_SEED", random.SystemRandom().randrange(2**32)))
    print(f"PEFTPORT_KILL_SEED={seed}")
    rng, folder, points = random.Random(seed), tmp_path / "runs", []
    for _ in range(KILLS):
        before = known(folder)
        driver = drive()
        until_at_work(driver, mark, folder, len(before) + rng.randint(0, 2))
        time.sleep(rng.uniform(0.0, 0.3))
        driver.kill() if rng.random() < 0.5 else os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
        assert driver.returncode == -signal.SIGKILL, "it was done before it was killed"
        after = known(folder)
        assert before.items() <= after.items(), "a job on record was lost or done again"
        points.append(len(after))
        until(lambda: not alive(mark), "the workers follow their driver")
    before = known(folder)
    assert len(set(points)) > 2
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(number: int, drive: Driver, mark: str, tmp_path: Path, undisturbed_long: Path) -> None:
    """Control-C and a lost terminal reach every process: one line, exit 130, nobody left; the same command goes on."""
    driver = drive(workers=2)
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
    second = drive()
    assert second.wait() == 0
    second.communicate()
    assert before.items() <= records(tmp_path / "runs").items()
    assert contents(tmp_path / "runs") == contents(undisturbed_long)
    assert files(tmp_path / "runs") == files(undisturbed_long)


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
