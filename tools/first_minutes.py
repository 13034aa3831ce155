"""Time every command of the README: a fresh clone, an empty home, then each command as it is written, in order.

    python3.11 tools/first_minutes.py [--test] [--folder DIR]

`make demo` first (it sets up the environment), then the `peftport` lines of README.md as they stand, with the
environment's programs on the path, then its Python ("the same") in a folder of its own; with --test, `make test` at the
end. Prints a Markdown table of what took how long. Stops at the first command that fails. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_OURS = ("PEFTPORT_", "PYTHON", "HF_", "OMP_", "VIRTUAL_ENV")  # settings that a new machine has not


def shown(page: str, language: str) -> list[str]:
    """The page's blocks of a language."""
    return [code for name, code in FENCE.findall(page) if name == language]


def commands_of(page: str) -> list[list[str]]:
    """What a reader types, in order: shell lines without their comments, then each Python block."""
    lines = [line for block in shown(page, "bash") for line in block.splitlines()]
    typed = [shlex.split(line, comments=True) for line in lines]
    return [words for words in typed if words] + [["python", "-c", code] for code in shown(page, "python")]


def timed(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Seconds of one command; its output goes by."""
    print("$", command[0], *command[1:2], "..." if command[1:2] == ["-c"] else shlex.join(command[2:]), flush=True)
    begun = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> None:
    """Clone, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", action="store_true", help="`make test` at the end")
    parser.add_argument("--folder", type=Path, help="a folder that does not exist yet, instead of a temporary one")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="peftport-first-"))
    clone, home = folder / "peftport", folder / "home"
    home.mkdir(parents=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
    environment = {**kept, "HOME": str(home)}
    found = [("`make demo`", timed(["make", "demo"], clone, environment))]
    environment["PATH"] = f"{clone / '.venv' / 'bin'}{os.pathsep}{environment['PATH']}"  # what `activate` does
    apart = folder / "python"
    apart.mkdir()
    for command in commands_of((clone / "README.md").read_text(encoding="utf-8")):
        of_python = command[0] == "python"
        name = "the same in Python" if of_python else f"`{shlex.join(command)}`"
        found.append((name, timed(command, apart if of_python else clone, environment)))
    if asked.test:
        found.append(("`make test`", timed(["make", "test"], clone, environment)))
    print("\n| command | seconds |\n| --- | ---: |")
    for name, seconds in [*found, ("all of it", sum(seconds for _, seconds in found))]:
        print(f"| {name} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
