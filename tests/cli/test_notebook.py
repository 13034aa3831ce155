"""The example notebook: its page and its file are what was executed, and it executes still."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "make_notebook.py"


def committed() -> Any:
    return nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)


def outputs(notebook: Any) -> list[list[tuple[str, tuple[str, ...]]]]:
    """What kinds of output each cell has. A stream counts once, in however many pieces the kernel sent it."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kinds = [[(each.output_type, tuple(sorted(each.get("data", ())))) for each in cell.outputs] for cell in cells]
    return [[kind for kind, _ in groupby(each)] for each in kinds]


def test_the_committed_files_are_of_one_piece() -> None:
    spec = importlib.util.spec_from_file_location("make_notebook", TOOL)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    script = jupytext.read(ROOT / "docs" / "notebook.py")
    assert [cell.source for cell in committed().cells] == [cell.source for cell in script.cells]
    assert tool.page_of(committed()) == (ROOT / "docs" / "notebook.md").read_text(encoding="utf-8")
    assert all(outputs(committed())), "a cell that shows nothing"


@pytest.mark.real
def test_the_notebook_executes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without an error, with outputs of the same kinds, the module felt and gone; numbers are the machine's."""
    monkeypatch.delenv("PEFTPORT_CACHE")  # the offline hosts of this machine
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(TOOL), "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = nbformat.read(tmp_path / "notebook.ipynb", as_version=4)
    assert outputs(again) == outputs(committed())
    assert "".join(each.text for each in again.cells[-1].outputs) == committed().cells[-1].outputs[0].text
    assert "</table>" in (tmp_path / "notebook.md").read_text(encoding="utf-8")
