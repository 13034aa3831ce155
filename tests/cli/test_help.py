"""What the help pages say: as they were (tests/cli/help, at 100 columns), and the same as Python's `help`.

After an intended change, write the pages anew: ``python tests/cli/test_help.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from peftport.cli import app

PAGES = Path(__file__).parent / "help"


def commands(command: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and of every group, the application itself first."""
    command = command or typer.main.get_command(app)
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))


def file_of(words: tuple[str, ...]) -> Path:
    return PAGES / f"{'-'.join(('peftport', *words))}.txt"


def pages() -> dict[Path, str]:
    """The help page of every command, by its file; all in one process, which starts as a user's does."""
    script = (
        "import sys, typer.main\n"
        "from peftport.cli import app\n"
        "command = typer.main.get_command(app)\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    command.main([*line.split(), '--help'], prog_name='peftport', standalone_mode=False)\n"
        "    print('\\f', end='', flush=True)\n"
    )
    known = list(commands())
    environment = os.environ | {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", "TERMINAL_WIDTH": "100"}
    done = subprocess.run(
        [sys.executable, "-c", script], input="\n".join(" ".join(words) for words in known), capture_output=True,
        text=True, env=environment, check=True,
    )  # fmt: skip
    said = [page.rstrip() + "\n" for page in done.stdout.split("\f")[:-1]]
    return dict(zip(map(file_of, known), said, strict=True))


def test_help_pages_are_as_they_were() -> None:
    found = pages()
    assert {path.name for path in PAGES.iterdir()} == {path.name for path in found}
    for path, page in found.items():
        assert page == path.read_text(encoding="utf-8"), f"{path.name}: write the pages anew if this is intended"


if __name__ == "__main__":
    PAGES.mkdir(exist_ok=True)
    for path, page in pages().items():
        path.write_text(page, encoding="utf-8")
