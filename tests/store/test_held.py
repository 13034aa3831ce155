"""Temporary files and folders of processes that are gone are removed by the next call; those of living ones never."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peftport.store.artifacts import Artifacts, new_folder, write_text
from peftport.store.held import HeldFolder, hidden_file, hidden_folder, sweep_temporary

Use = Callable[[Path], None]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the system's temporary one too."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def system_temporary(place: Path) -> None:
    home = HeldFolder("host")
    (Path(home.name) / "weights").write_text("x", encoding="utf-8")
    os.write(written, b"1"), signal.pause()


def beside_folder(place: Path) -> None:
    with hidden_folder(place / "out") as folder:
        (folder / "weights").write_text("x", encoding="utf-8")
        os.write(written, b"1"), signal.pause()


def beside_file(place: Path) -> None:
    with hidden_file(place / ("report" * 40 + ".html")):
        os.write(written, b"1"), signal.pause()


written = -1


def child_in(use: Use, place: Path) -> int:
    """A process that is in the middle of it."""
    global written
    read, written = os.pipe()
    child = os.fork()
    if not child:
        try:
            use(place)
        finally:
            os._exit(1)
    os.close(written)
    assert os.read(read, 1) == b"1"
    os.close(read)
    return child


def next_calls(place: Path) -> Iterator[None]:
    sweep_temporary()
    yield
    write_text(place / "other.txt", "x")
    yield


@pytest.mark.parametrize("use", [system_temporary, beside_folder, beside_file])
def test_the_dead_are_swept_and_the_living_are_not(use: Use, place: Path) -> None:
    child = child_in(use, place)
    try:
        [mine] = place.iterdir()
        for _ in next_calls(place):
            assert mine.exists(), "it was taken from a living process"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    for _ in next_calls(place):
        pass
    assert [path.name for path in place.iterdir()] == ["other.txt"]


def test_what_only_looks_like_ours_stays(place: Path) -> None:
    names = [".lora.original", ".vimrc.swp", "peftport-notes", "peftport-host-mine", ".x.backup.peftport"]
    for name in names:
        (place / name).write_text("x", encoding="utf-8")
    os.symlink(place / names[0], place / ".link.abcdefgh.peftport")
    for _ in next_calls(place):
        pass
    assert {path.name for path in place.iterdir()} == {*names, ".link.abcdefgh.peftport", "other.txt"}


def test_an_end_in_order_leaves_nothing(place: Path) -> None:
    home = HeldFolder("host")
    with pytest.raises(ValueError), new_folder(place / "out"):
        raise ValueError
    home.cleanup()
    assert list(place.iterdir()) == []


def test_the_driver_sweeps_its_artifacts(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    kept = artifacts.path(artifacts.put(b"x"))
    for name in (f".{kept.name}.abcdefgh", f".{kept.stem[:40]}.abcdefgh.peftport"):
        (kept.parent / name).write_bytes(b"half")
    artifacts.sweep()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]
