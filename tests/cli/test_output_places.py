"""Where a command writes is looked at before it begins, so that no work is lost: nothing is loaded, nothing changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from peftport.core import places
from peftport.workflows.upgrading.ledger import check_upgrade_folder

Words = Sequence[object]
Tell = Callable[..., list[dict[str, object]]]
Folders = dict[str, Path]
STUDY = """
name = "tiny"
techniques = ["lora"]
pairs = [["bert", "bert-updated"]]
tasks = ["words"]
budgets = [0]
seeds = [0]
data.words.source = "reviews.csv"
"""
NEW_FOLDERS = ("train", "port", "merge", "hosts update", "upgrade", "study merge")
FOLDERS = ("demo", "study export", "study report --figures", "study report --latex", "study run")
FILES = ("compare", "study report")
NEW_FILES = ("gguf",)
ALL = (*NEW_FOLDERS, *FOLDERS, *FILES, *NEW_FILES)


@pytest.fixture
def command(hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path) -> Callable[[str, object], Words]:
    """A command by name that writes to a place, with everything else as it should be."""
    bert, other, lora = hosts["bert"], hosts["bert-updated"], modules["lora"]
    study = tmp_path / "tiny.toml"
    study.write_text(STUDY, encoding="utf-8")
    task, to = ("--task", reviews), ("--to", other)

    def words(name: str, out: object) -> Words:
        return {
            "demo": ("demo", "--out", out),
            "train": ("train", bert, reviews, "-t", "lora", "--out", out),
            "port": ("port", lora, *to, "--out", out),
            "compare": ("compare", lora, *to, *task, "--out", out),
            "upgrade": ("upgrade", bert, other, lora, *task, "--out", out),
            "merge": ("merge", bert, lora, "--out", out),
            "gguf": ("gguf", bert, lora, "--out", out),
            "hosts update": ("hosts", "update", bert, "--text", reviews, "--steps", 1, "--out", out),
            "study run": ("study", "run", study, "--dir", out),
            "study merge": ("study", "merge", out, "runs/one", "runs/two"),
            "study export": ("study", "export", study, "--out", out),
            "study report": ("study", "report", study, "--out", out),
            "study report --figures": ("study", "report", study, "--figures", out),
            "study report --latex": ("study", "report", study, "--latex", out),
        }[name]

    return words


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_loaded(
    tell: Tell, command: Callable[[str, object], Words], tmp_path: Path
) -> None:
    """In one process of its own, which tells what is imported by then: no model library."""
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine", encoding="utf-8")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    wrong = [(command(name, "file/deep/out"), "expected a place that can be written, ") for name in ALL]
    wrong += [(command(name, "file"), "got a file; choose another") for name in (*NEW_FOLDERS, *FOLDERS)]
    wrong += [(command(name, "full"), "got one that is not empty; choose another") for name in NEW_FOLDERS]
    wrong += [(command(name, "dangling"), "got a link to nothing; choose another") for name in (*NEW_FOLDERS, *FOLDERS)]
    wrong += [(command(name, "full"), "got a folder; give --out full/report.html") for name in FILES]
    wrong += [(command(name, "full"), "expected a new file, got a folder") for name in NEW_FILES]
    wrong += [(command(name, "file"), "expected a new file, got one that exists") for name in NEW_FILES]
    before = sorted(tmp_path.rglob("*"))
    for told, (_, says) in zip(tell(*(words for words, _ in wrong)), wrong, strict=True):
        assert (told["code"], told["out"]) == (2, ""), told
        assert says in str(told["err"]) and "\n" not in str(told["err"]), told
        assert set(told["heavy"]) <= {"polars"}, told  # which a study's driver imports
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ALL)
def test_a_folder_without_the_right_to_write_is_refused(
    name: str,
    command: Callable[[str, object], Words],
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Told as the system tells it to other users than root, who may write anywhere."""
    shut = tmp_path / "shut"
    shut.mkdir()
    allowed = os.access
    monkeypatch.setattr(
        places.os,
        "access",
        lambda path, mode, **more: not (mode & os.W_OK and Path(path) == shut) and allowed(path, mode, **more),
    )
    refused(*command(name, shut / "new" / "out"), says=("expected a place that can be written", f"{shut} cannot"))
    if name in FOLDERS:
        refused(*command(name, shut), says=("expected a place that can be written", f"{shut} cannot"))


def test_an_upgrade_that_was_begun_goes_on_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}", encoding="utf-8")
    check_upgrade_folder(tmp_path)
