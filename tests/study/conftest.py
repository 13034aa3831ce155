from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from peftport.study import work
from pico_folders import Run, cut_off, in_process, process_environment, save_hosts, save_reviews, unmeasured
from pico_study import HOSTS, LONG, SHORTER, TINY, plan_of, run_in
from study.driving import MARK, Driver


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No hub and no offline hosts: nothing outside the test's own folders answers."""
    cut_off(monkeypatch, tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small hosts, reviews and the tiny study."""
    folder = tmp_path_factory.mktemp("home")
    save_hosts(folder, HOSTS)
    save_reviews(folder / "reviews.csv")
    (folder / "tiny.toml").write_text(TINY, encoding="utf-8")
    return folder


@pytest.fixture
def tiny(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny study, seen from the folder where its hosts are; nothing is in memory from tests before."""
    monkeypatch.chdir(home)
    forget()
    return Path("tiny.toml")


@pytest.fixture(scope="session")
def undisturbed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny study, run in one go in this process."""
    return in_one_go(home, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="session")
def undisturbed_long(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the tiny study with the seeds of `LONG`."""
    return in_one_go(home, tmp_path_factory.mktemp("undisturbed"), seeds=str(LONG))


@pytest.fixture(scope="session")
def undisturbed_shorter(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the seeds of `SHORTER`."""
    return in_one_go(home, tmp_path_factory.mktemp("undisturbed"), seeds=str(SHORTER))


def in_one_go(home: Path, folder: Path, **changes: str) -> Path:
    """A folder with the tiny study at its end, worked on by nobody but this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        forget()
        run_in(folder, plan_of(Path("tiny.toml"), **changes))
    return folder


@pytest.fixture
def peftport(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""
    return in_process(monkeypatch, capfd)


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of a real process: these sources, no hub."""
    return process_environment()


def forget() -> None:
    """What a worker keeps from one stack to the next goes, as it does when a worker ends."""
    work._open_bound_task.cache_clear()
    work.open_task.cache_clear()


@pytest.fixture
def mark() -> str:
    """What the environments of a test's processes are marked with, so that orphans are found."""
    return uuid.uuid4().hex


@pytest.fixture
def drive(environment: dict[str, str], home: Path, tmp_path: Path, mark: str) -> Driver:
    """Start ``peftport study run`` as users do, by default with the seeds of `LONG`: no stop comes too late."""
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
