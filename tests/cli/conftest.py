from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from peftport.tasks import load_task
from peftport.workflows.requests import TrainRequest
from peftport.workflows.train import train_module
from pico_folders import HOSTS, Result, Run, cut_off, in_process, process_environment, save_hosts, save_reviews

SETTINGS = {
    "lora": {"rank": "2"},
    "adapter": {"reduction_factor": "4"},
    "compacter": {"reduction_factor": "4", "phm_dim": "2"},
    "prefix": {"length": "3", "hidden": "8"},
}
Tensors = dict[str, torch.Tensor]
Tell = Callable[..., list[dict[str, object]]]
# Runs commands as `python -m peftport` does, and tells exit code, last line of stderr, and what is imported by then.
SCRIPT = """
import contextlib, io, json, sys
from peftport.cli import main

told = []
for words in json.load(sys.stdin):
    sys.argv, out, err = ["peftport", *words], io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    large = {"torch", "transformers", "scipy", "sklearn", "statsmodels", "datasets", "polars"}
    heavy = sorted(large & set(sys.modules))
    told.append({"words": words, "code": code, "out": out.getvalue(), "err": err.getvalue().strip(), "heavy": heavy})
print(json.dumps(told))
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No hub and no offline hosts: nothing outside the test's own folders answers."""
    cut_off(monkeypatch, tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small hosts gain nothing from more, and lose much where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def peftport(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""
    return in_process(monkeypatch, capfd)


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of a real process: these sources, no hub."""
    return process_environment()


@pytest.fixture
def process(environment: dict[str, str], tmp_path: Path) -> Run:
    """Run a command as users do, in a process of its own."""

    def run(*arguments: object) -> Result:
        command = [sys.executable, "-m", "peftport", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def tell(environment: dict[str, str], tmp_path: Path) -> Tell:
    """Run commands in one fresh process, in a folder of their own."""

    def run(*commands: Sequence[object]) -> list[dict[str, object]]:
        given = json.dumps([[str(word) for word in words] for words in commands])
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], input=given, env=environment, cwd=tmp_path, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told: list[dict[str, object]] = json.loads(done.stdout)
        return told

    return run


@pytest.fixture
def refused(peftport: Run, tmp_path: Path) -> Callable[..., str]:
    """Run a command that must be refused: exit 2, one line with all ``fragments`` in it, and no file touched."""

    def run(*arguments: object, says: tuple[str, ...]) -> str:
        before = _files(tmp_path)
        result = peftport(*arguments)
        lines = [line for line in result.err.splitlines() if line.strip()]
        assert result.code == 2, result
        assert len(lines) == 1, result.err
        assert lines[0].startswith("peftport: ")
        assert "Traceback" not in result.err
        assert not result.out
        assert not [part for part in says if part not in lines[0]], lines[0]
        assert _files(tmp_path) == before
        return lines[0]

    return run


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of small hosts, by name."""
    return save_hosts(tmp_path_factory.mktemp("hosts"), HOSTS)


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 labelled texts of the small hosts' words, far from each other."""
    return save_reviews(tmp_path_factory.mktemp("data") / "reviews.csv")


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory, hosts: dict[str, Path], reviews: Path) -> dict[str, Path]:
    """Modules on the host ``bert``: one a technique, a LoRA with a linear readout (``linear``) and a PEFT one."""
    home, task = tmp_path_factory.mktemp("modules"), load_task(str(reviews))
    for name in (*SETTINGS, "linear", "peft"):
        technique = name if name in SETTINGS else "lora"
        train_module(TrainRequest(
            hosts["bert"], task, technique, out=home / name, set=SETTINGS[technique], steps=2,
            readout="linear" if name == "linear" else None, format="peft" if name == "peft" else "native",
        ))  # fmt: skip
    return {path.name: path for path in home.iterdir()}


@pytest.fixture
def training() -> Callable[..., tuple[object, ...]]:
    """The arguments of a short training."""

    def arguments(host: object, task: object, out: Path, *more: object, technique: str = "lora") -> tuple[object, ...]:
        return ("train", host, task, "--technique", technique, "--steps", 2, "--out", out, *more)

    return arguments


@pytest.fixture
def edit() -> Callable[..., None]:
    """Set keys of a JSON file; None removes a key."""
    return _edit


def _edit(path: Path, **changes: object) -> None:
    values = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}), encoding="utf-8")


@pytest.fixture
def cut() -> Callable[[Path, int], object]:
    """Keep the first bytes of a file only."""
    return lambda path, size: path.write_bytes(path.read_bytes()[:size])


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A file that code of strangers would make; at the test's end it is not there."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


@pytest.fixture
def bomb(marker: Path) -> Callable[[Path], None]:
    """Write a pickle that makes the marker if anyone unpickles it."""
    return lambda path: torch.save(_Marker(marker), path)


class _Marker:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


@pytest.fixture
def broken(modules: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a module; the function changes its tensors, and the card too where ``reseal`` says so."""

    def make(name: str, change: Callable[[Tensors], object] | None = None, *, reseal: bool = False) -> Path:
        folder = Path(shutil.copytree(modules[name], tmp_path / "module"))
        if change is not None:
            path = next(folder.glob("*.safetensors"))
            tensors = load_file(path)
            change(tensors)
            save_file(dict(sorted(tensors.items())), path)
            if reseal:
                shapes = {n: list(t.shape) for n, t in sorted(tensors.items())}
                _edit(folder / "module.json", tensors=shapes, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        return folder

    return make
