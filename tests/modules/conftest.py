from __future__ import annotations

from pathlib import Path

import pytest

from modules.made import HOST, a_module
from peftport.modules.folders import write_module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_module(a_module(), HOST, tmp_path / "module")
    return tmp_path / "module"
