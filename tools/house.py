"""The measures of the house: files, folders and imports between them, names that stand twice, lengths, signatures.

    python tools/house.py [FOLDER ...]        one column a checkout, this one by default

Run it on two checkouts to see what a change of the layout did. Standard library only.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
AT_THE_TOP = {"__init__.py", "__main__.py"}  # files that belong at the top of a package
Function = ast.FunctionDef | ast.AsyncFunctionDef


def trees(package: Path) -> dict[Path, ast.Module]:
    """Every module of a package, parsed, by its path below the package."""
    return {p.relative_to(package): ast.parse(p.read_text(encoding="utf-8")) for p in sorted(package.rglob("*.py"))}


def room(path: Path) -> str:
    """The folder that a file lies in, or its own name where it lies loose at the top."""
    return path.parts[0].removesuffix(".py")


def arrows(modules: dict[Path, ast.Module]) -> set[tuple[str, str]]:
    """Which folder, or loose file, imports from which other."""
    found = set()
    for path, tree in modules.items():
        for name in imported(tree):
            other = name.split(".")[1] if "." in name else ""
            if other and other != room(path):
                found.add((room(path), other))
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules of the package that a file imports from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "peftport":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def classes_twice(modules: dict[Path, ast.Module]) -> list[str]:
    """Names of classes that are defined in more than one place."""
    names = Counter(node.name for tree in modules.values() for node in tree.body if isinstance(node, ast.ClassDef))
    return sorted(name for name, count in names.items() if count > 1)


def functions(modules: dict[Path, ast.Module]) -> list[Function]:
    """Every function and method."""
    return [node for tree in modules.values() for node in ast.walk(tree) if isinstance(node, Function)]


def parameters(function: Function) -> int:
    """How many parameters a function has, ``self`` not counted."""
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return sum(each.arg not in ("self", "cls") for each in every)


def short_docstrings(modules: dict[Path, ast.Module]) -> int:
    """Docstrings of fewer than four words."""
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = [node for tree in modules.values() for node in ast.walk(tree) if isinstance(node, documented)]
    texts = [ast.get_docstring(node) for node in nodes]
    return sum(text is not None and len(text.split()) < 4 for text in texts)


def spread(lengths: list[int]) -> tuple[int, int, int]:
    """Median, ninth decile and maximum of sorted lengths."""
    return int(median(lengths)), lengths[len(lengths) * 9 // 10], lengths[-1]


def measures(checkout: Path) -> dict[str, str]:
    """All measures of one checkout, as text."""
    package = checkout / "src" / "peftport"
    modules = trees(package)
    found = functions(modules)
    lengths = sorted((each.end_lineno or each.lineno) - each.lineno + 1 for each in found)
    twice = classes_twice(modules)
    return {
        "files": str(len(modules)),
        "folders at the top": str(len({path.parts[0] for path in modules if len(path.parts) > 1})),
        "files loose at the top": str(sum(len(p.parts) == 1 and p.name not in AT_THE_TOP for p in modules)),
        "imports between folders and loose files": str(len(arrows(modules))),
        "class names that stand twice": f"{len(twice)} {' '.join(twice[:4])}".strip(),
        "parameters of the longest signature": str(max(map(parameters, found))),
        "lines of a function: median / p90 / max": " / ".join(map(str, spread(lengths))),
        "docstrings of under four words": str(short_docstrings(modules)),
        "lines": str(sum(len((package / p).read_text(encoding="utf-8").splitlines()) for p in modules)),
    }


def main() -> None:
    """Print a Markdown table, a column for each checkout."""
    checkouts = [Path(each) for each in sys.argv[1:]] or [ROOT]
    columns = [measures(each) for each in checkouts]
    print(f"| measure | {' | '.join(each.resolve().name for each in checkouts)} |")
    print(f"| --- |{' ---: |' * len(checkouts)}")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(column[name] for column in columns)} |")


if __name__ == "__main__":
    main()
