"""Disks that are full at any moment, and disks and folders that can only be read."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peftport.core.errors import BadRequest
from peftport.store.ledger import FILE, JobRow, Ledger, open_ledger
from peftport.study import executors
from pico_folders import Result, Run
from pico_study import Here, contents, files, records

Study = Callable[..., Result]


@contextmanager
def disk(place: Path, options: str) -> Iterator[None]:
    """A file system of its own, where one may be mounted."""
    place.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


@pytest.fixture
def study(peftport: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Study:
    """A study command on the tiny study in ``disk/runs``, worked on in this process."""
    monkeypatch.setattr(executors, "make_executor", lambda *_: Here())
    return lambda command, *more: peftport("study", command, tiny, "--dir", tmp_path / "disk" / "runs", *more)


def test_a_disk_that_is_full_at_any_moment(study: Study, tmp_path: Path, undisturbed: Path) -> None:
    """Sizes at random: exit 1 and words about room, whichever file did not fit; with room it goes on."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng, place = random.Random(seed), tmp_path / "disk"
    sizes = sorted({4, 24, 56, *(4 * rng.randint(1, 30) for _ in range(5))})
    for kib in sizes:
        with disk(place, f"size={kib}k"):
            ran = study("run")
            assert ran.code == 1, (kib, ran)
            assert ran.err.count("\n") == 1 and "--dir" not in ran.err, (kib, ran.err)
            assert any(word in ran.err for word in ("No space left", "is full", "make room")), (kib, ran.err)
            status = study("status", "--json")
            begun = (place / "runs" / FILE).is_file() and status.code == 0
            assert begun or (status.code == 2 and "expected a study that was begun" in status.err), (kib, status)
            before = records(place / "runs") if begun else {}
            if kib == sizes[-1]:
                remount(place, "size=16m")
                assert study("run").code == 0
                assert before.items() <= records(place / "runs").items()
                assert contents(place / "runs") == contents(undisturbed)
                assert files(place / "runs") == files(undisturbed)


@pytest.mark.parametrize("what", ["export", "report", "figures", "latex"])
def test_results_on_a_full_disk(what: str, study: Study, tmp_path: Path, undisturbed: Path) -> None:
    """Exit 1, and nothing half-written beside what was there."""
    shutil.copytree(undisturbed, tmp_path / "disk" / "runs")
    arguments = {
        "export": ("export", "--out"), "report": ("report", "--out"), "figures": ("report", "--figures"),
        "latex": ("report", "--latex"),
    }[what]  # fmt: skip
    place = tmp_path / "small"
    with disk(place, "size=4k"):
        ran = study(*arguments, place / ("page.html" if what == "report" else "out"))
        assert (ran.code, ran.err.count("\n")) == (1, 1), ran
        assert "No space left on device" in ran.err
        assert not [path for path in place.rglob("*") if path.name.startswith(".") or path.is_file()]


def killed_writing(folder: Path) -> None:
    """A driver that was killed: its last row is in the WAL only."""
    child = os.fork()
    if not child:
        Ledger(folder).record([JobRow("zz", "chain", "failed", 0, error="ValueError: last words")])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (folder / f"{FILE}-wal").stat().st_size


@pytest.mark.parametrize("state", ["whole", "killed", "killed and moved"])
def test_a_disk_that_can_only_be_read(state: str, study: Study, tmp_path: Path, undisturbed: Path) -> None:
    """What reads reads everything, rows in the WAL too, and leaves nothing; what writes says that it cannot."""
    place = tmp_path / "disk"
    with disk(place, "size=16m"):
        shutil.copytree(undisturbed, place / "runs")
        if state != "whole":
            killed_writing(place / "runs")
        if state == "killed and moved":  # as to a medium: SQLite's shared memory does not come along
            (place / "runs" / f"{FILE}-shm").unlink()
        remount(place, "ro")
        listed = sorted(path.name for path in (place / "runs").iterdir())
        ledger = open_ledger(place / "runs")
        assert ("zz" in ledger.states()) == (state != "whole")
        ledger.close()
        for command in (
            ("status", "--json"), ("export", "--out", tmp_path / "out"), ("report", "--out", tmp_path / "page.html"),
            ("watch",),
        ):  # fmt: skip
            ran = study(*command)
            assert ran.code == 0, ran
        assert json.loads(study("status", "--json").out)["left"] == 0
        assert sorted(path.name for path in (place / "runs").iterdir()) == listed
        ran = study("run")
        assert (ran.code, ran.err.count("\n")) == (2, 1), ran
        assert "expected a place that can be written" in ran.err


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that every user can enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield Path(place)


def test_a_folder_that_may_only_be_read(undisturbed: Path, open_to_all: Path) -> None:
    """Without the right to write, as another user of the machine."""
    folder = open_to_all / "runs"
    shutil.copytree(undisturbed, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    expected = len(contents(undisturbed))
    child = os.fork()
    if not child:
        code = 1
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            code = 0 if len(open_ledger(folder).states()) == expected else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not list(folder.glob("*-wal")) and not list(folder.glob("*-shm"))


def test_reading_where_there_is_no_room(tmp_path: Path) -> None:
    """The status of a study whose disk is full to the last byte."""
    place = tmp_path / "disk"
    with disk(place, "size=1m"):
        ledger = Ledger(place)
        ledger.record([JobRow("a", "chain", "done", 0)])
        ledger.close()
        with pytest.raises(OSError, match="No space left"), (place / "rest").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        ledger = open_ledger(place)
        assert ledger.states() == {"a": "done"}
        ledger.close()


def test_a_ledger_with_nothing_in_it_was_not_begun(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    with pytest.raises(BadRequest, match="empty ledger; start it: peftport study run"):
        open_ledger(tmp_path)


def test_the_disk_is_told_from_the_file(tmp_path: Path) -> None:
    from peftport.store.opening import in_the_way

    base = sqlite3.connect(tmp_path / "x")
    base.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.OperationalError) as full:
        base.execute("CREATE TABLE x (y)")
    base.close()
    assert in_the_way(full.value)
    (tmp_path / "y").write_bytes(b"no ledger" * 500)
    base = sqlite3.connect(tmp_path / "y")
    with pytest.raises(sqlite3.DatabaseError) as other:
        base.execute("SELECT * FROM sqlite_master")
    base.close()
    assert not in_the_way(other.value)
