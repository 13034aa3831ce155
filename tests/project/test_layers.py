"""The architecture as tests: who may import whom, who may print, how long things may get."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "src" / "peftport"
# From low to high. A new module is placed here; it may import what is below it, and itself.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("metrics",),
    ("analysis", "store"),
    ("hosts",),
    ("techniques",),
    ("modules",),
    ("porting",),
    ("tasks",),
    ("objectives",),
    ("training",),
    ("workflows",),
    ("tracking",),
    ("study",),
    ("report",),
    ("api",),
    ("cli",),
    ("lm_eval",),
    ("__main__",),
)
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}
# Tasks are texts and labels: they know where offline texts lie, and nothing of models.
TASKS_MAY_IMPORT = ("peftport.core", "peftport.metrics", "peftport.hosts.offline.catalogue", "peftport.tasks")
MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 400, 60, 12
FILES = sorted(ROOT.rglob("*.py"))


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for file in FILES:
        yield file.relative_to(ROOT), ast.parse(file.read_text(encoding="utf-8"))


def top_of(file: Path) -> str:
    return file.parts[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module of peftport that a file imports, anywhere in it, as ``peftport.x[.y]``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            if node.module == "peftport":
                yield from (f"peftport.{alias.name}" for alias in node.names)
            elif (node.module or "").startswith("peftport."):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "peftport")


def violations(file: Path, tree: ast.Module) -> list[str]:
    own = top_of(file)
    found = []
    for name in imports(tree):
        other = name.split(".")[1] if "." in name else ""
        if other != own and (other not in LEVELS or LEVELS[other] >= LEVELS[own]):
            found.append(f"{file} (layer {own}) imports {name}")
    return found


def test_every_module_has_a_layer() -> None:
    found = {top_of(file.relative_to(ROOT)) for file in FILES} - {"__init__"}
    assert found == LEVELS.keys(), "place a new module in LAYERS; take a removed one out"


def test_no_module_imports_one_of_its_own_or_a_higher_layer() -> None:
    assert [
        line
        for file, tree in trees()
        if file.name != "__init__.py" or file.parts[1:]
        for line in violations(file, tree)
    ] == []
    package = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert {name.rsplit(".", 1)[0] for name in imports(package)} == {"peftport.api"}


@pytest.mark.parametrize(
    "source",
    [
        "from peftport.training.loop import train",
        "from peftport import training",
        "import peftport.training.loop",
        "import peftport",
        "def f():\n    from peftport.objectives.base import Row",
        "if TYPE_CHECKING:\n    from peftport.porting import PORTERS",
        "from peftport.newcomer import x",
    ],
)
def test_the_import_test_sees_every_way_to_import(source: str) -> None:
    assert violations(Path("modules/native.py"), ast.parse(source))
    assert not violations(Path("modules/native.py"), ast.parse("from peftport.hosts.load import Host"))


def test_tasks_know_nothing_of_models() -> None:
    for file, tree in trees():
        if top_of(file) == "tasks":
            wrong = [n for n in imports(tree) if not f"{n}.".startswith(tuple(f"{m}." for m in TASKS_MAY_IMPORT))]
            assert not wrong, file


def test_only_the_command_line_prints_and_exits() -> None:
    for file, tree in trees():
        if top_of(file) in ("cli", "__main__"):
            continue
        calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert not {"print", "sys.exit", "exit", "quit", "os._exit", "sys.stdout.write", "sys.stderr.write"} & set(
            calls
        ), file
        names = [ast.unparse(node.exc) for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
        assert not [name for name in names if name.startswith("SystemExit")], file


def test_files_and_functions_stay_readable() -> None:
    for file, tree in trees():
        lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
        assert lines <= MOST_LINES, f"{file}: {lines} lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= MOST_FUNCTION_LINES, f"{file}: {node.name}: {length} lines"


def test_signatures_stay_short() -> None:
    """What takes more is a request (core/request.py)."""
    for file, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                own = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                taken = [each.arg for each in own if each.arg not in ("self", "cls")]
                assert len(taken) <= MOST_PARAMETERS, f"{file}: {node.name}: {len(taken)} parameters"


def test_importing_the_package_imports_nothing_of_it() -> None:
    script = (
        "import sys, peftport; print([m for m in sys.modules if m.startswith('peftport.')], len(dir(peftport)) > 9)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT.parent)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[] True\n"


def test_help_starts_without_torch() -> None:
    script = (
        "import atexit, runpy, sys\n"
        "def tell():\n"
        "    heavy = {'torch', 'transformers', 'datasets', 'scipy', 'sklearn', 'safetensors'} & set(sys.modules)\n"
        "    print('heavy:', sorted(heavy), file=sys.stderr)\n"
        "atexit.register(tell)\n"
        "sys.argv = ['peftport', '--help']\n"
        "runpy.run_module('peftport', run_name='__main__')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT.parent)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "compare" in done.stdout
    assert done.stderr.splitlines()[-1] == "heavy: []"


# What takes long to import, and the files that define a class of its or speak to it as they are imported.
LATE = ("torch", "transformers", "polars", "scipy", "sklearn", "statsmodels", "datasets", "huggingface_hub")
EAGER = {
    "hosts/attention.py", "hosts/four_bits.py", "hosts/mixed.py", "hosts/rms_norms.py",
    "objectives/token_likelihood.py", "techniques/products.py", "workflows/masked_head.py",
}  # fmt: skip


def test_large_libraries_are_imported_when_they_are_used() -> None:
    """A command imports what it needs (core/libraries.py), so that a wrong name is told at once."""
    for file, tree in trees():
        own = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        named = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in own]
        found = [name for name in named if name.split(".")[0] in LATE or name == "safetensors.torch"]
        assert not found or file.as_posix() in EAGER, f"{file}: take {found[0]} from core/libraries.py"


def test_a_study_s_driver_starts_without_what_only_workers_need() -> None:
    """Those libraries take most of a start's time, and a driver neither loads a host nor computes a measure."""
    script = (
        "import sys, peftport.cli, peftport.study.execute\n"
        "from peftport.api import Study\n"
        "print(sorted({'transformers', 'datasets', 'scipy', 'sklearn', 'statsmodels'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT.parent)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"


def test_no_two_classes_have_one_name() -> None:
    """One name has one meaning, wherever a reader meets it."""
    names = Counter(node.name for _, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert sorted(name for name, count in names.items() if count > 1) == []


def test_nothing_lies_loose_at_the_top_and_every_folder_says_what_it_is_for() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}
    for folder in {file.parent for file in FILES}:
        told = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
        assert told and len(told.split()) > 5, f"{folder}: say in its __init__.py what lives there"
