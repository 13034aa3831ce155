"""Pages that commands write: one file, whole, or a refusal before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def test_compare_writes_a_page(
    peftport: Callable[..., object], hosts: dict[str, Path], modules: dict[str, Path], reviews: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    arguments = ("--budgets", "0,2", "--seeds", "2", "--test-items", "10", "--out", page)
    result = peftport("compare", modules["lora"], "--to", hosts["bert-updated"], "--task", reviews, *arguments)
    assert result.code == 0, result  # type: ignore[attr-defined]
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "Learning curves" in text
    assert str(page) in result.out  # type: ignore[attr-defined]


def test_a_folder_is_no_page(
    refused: Callable[..., str], hosts: dict[str, Path], modules: dict[str, Path], reviews: Path, tmp_path: Path
) -> None:
    task = ("--task", reviews, "--out", tmp_path)
    refused("compare", modules["lora"], "--to", hosts["bert-updated"], *task, says=("--out", "got a folder"))
