"""Output folders are whole or not there, and nothing in the way is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.made import HOST, a_module
from peftport.core.errors import BadRequest, ModuleRefused, OutputRefused, PeftportError
from peftport.core.places import check_free
from peftport.modules.folders import write_module
from peftport.store.artifacts import new_folder, write_text


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder_that_holds_something_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputRefused, match="not empty; choose another --out") as refusal:
        write_module(a_module(), HOST, tmp_path / "out")
    assert refusal.value.exit_code == 2
    assert tree(tmp_path) == ["out", "out/mine.txt"]


@pytest.mark.parametrize("place", ["out", "out/deeper", "out/deeper/still"])
def test_a_file_in_the_way_is_not_written_to(tmp_path: Path, place: str) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    for attempt in (lambda: check_free(tmp_path / place), lambda: write_module(a_module(), HOST, tmp_path / place)):
        with pytest.raises(OutputRefused, match="choose another --out"):
            attempt()
    assert tree(tmp_path) == ["out"] and (tmp_path / "out").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("crash", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("exists", [False, True])
def test_a_crash_leaves_nothing(tmp_path: Path, crash: type[BaseException], exists: bool) -> None:
    if exists:
        (tmp_path / "out").mkdir()
    with pytest.raises(crash), new_folder(tmp_path / "out") as folder:
        (folder / "half.txt").write_text("half", encoding="utf-8")
        assert not exists or not any((tmp_path / "out").iterdir())
        raise crash
    assert tree(tmp_path) == (["out"] if exists else [])


def test_a_format_that_cannot_hold_a_module_leaves_nothing(tmp_path: Path) -> None:
    for module in (a_module("prefix"), a_module("lora", head=True)):
        with pytest.raises(ModuleRefused, match="--format peft"):
            write_module(module, HOST, tmp_path / "out", "peft")
        assert tree(tmp_path) == []


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    """Also below parents that are not there yet, and in the place of an empty folder; nothing else is left."""
    out = tmp_path / "a" / "b"
    with new_folder(out) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("x", encoding="utf-8")
        assert not out.exists() and folder.parent == out.parent
    assert tree(tmp_path) == ["a", "a/b", "a/b/deep", "a/b/deep/file"]
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "file").touch()
    assert tree(tmp_path / "empty") == ["file"]
    assert (tmp_path / "empty").stat().st_mode & 0o777 == (tmp_path / "a").stat().st_mode & 0o777


def test_a_text_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "page.md", "one\n")
    write_text(tmp_path / "new" / "page.md", "two\n")
    assert (tmp_path / "new" / "page.md").read_text(encoding="utf-8") == "two\n"
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "new" / "page.md", "half \ud800")
    assert tree(tmp_path) == ["new", "new/page.md"]
    assert (tmp_path / "new" / "page.md").read_text(encoding="utf-8") == "two\n"


def test_every_refusal_is_a_peftport_error() -> None:
    assert issubclass(ModuleRefused, PeftportError) and issubclass(OutputRefused, BadRequest)
