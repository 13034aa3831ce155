"""The wheel and the sdist: everything in them, and the commands work where only the wheel is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(out), "-t", "wheel", "-t", "sdist"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def sources() -> set[str]:
    found = (path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT / "src").as_posix() for path in found if path.is_relative_to(ROOT / "src/peftport")}


def test_the_wheel_holds_every_file_of_the_package(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if name.startswith("peftport/")}
        licences = [name for name in opened.namelist() if name.endswith("LICENSE")]
    assert names == sources() and len(licences) == 1
    kinds = {"peftport/py.typed", "peftport/hosts/offline/catalogue.toml", "peftport/report/templates/page.html.j2"}
    assert kinds < names


def test_the_sdist_holds_what_a_wheel_is_built_from(built: Path) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as opened:
        names = {name.split("/", 1)[1] for name in opened.getnames()}
    assert {f"src/{name}" for name in sources()} | {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff"} <= names
    assert not any(name.startswith((".venv", "runs")) for name in names)


def test_the_citation_speaks_of_this_version() -> None:
    assert f"version: {VERSION}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_commands_work_from_the_wheel_alone(built: Path, tmp_path: Path) -> None:
    """The environment has the libraries of this one, and peftport from the wheel."""
    [wheel] = built.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True)
    [site] = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"COLUMNS": "100"}

    def said(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import peftport, importlib.metadata as m; print(peftport.__file__, m.version('peftport'))"
    place, version = said(str(python), "-c", where).split()
    assert Path(place).is_relative_to(tmp_path / "venv") and version == VERSION
    peftport = str(tmp_path / "venv" / "bin" / "peftport")
    assert said(peftport, "--help").count("compare") > 0
    assert said(str(python), "-m", "peftport", "--help") == said(peftport, "--help")
    assert len(json.loads(said(peftport, "techniques", "--json"))["techniques"]) == 4
    assert {"all-MiniLM-L6-v2", "sre"} <= {
        h["name"] for h in json.loads(said(peftport, "hosts", "list", "--json"))["hosts"]
    }
    checked = "from peftport.report.html import own_script; print(len(own_script()) > 0)"
    assert said(str(python), "-c", checked) == "True\n"
    assert "_peftport_completion" in said("env", "_PEFTPORT_COMPLETE=source_bash", peftport)
