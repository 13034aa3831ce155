"""What is printed on a terminal of 80 columns: as it was (tests/cli/terminal), aligned, and with no word broken.

After an intended change, write the pages anew: ``python tests/cli/test_terminal.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftport.cli.console import GAP, print_table
from peftport.report.table import Table

PAGES = Path(__file__).parent / "terminal"
COMMANDS = ("methods", "techniques", "tasks list")
WORD = st.text("abcdefgh-,()", min_size=1, max_size=14)
PROSE = st.lists(WORD, max_size=9).map(" ".join)
NUMBERS = st.tuples(*[st.floats(-20, 20)] * 3).map(lambda n: f"{n[0]:+.3f} [{n[1]:+.3f}, {n[2]:+.3f}]")


def printed(words: str) -> str:
    command = [sys.executable, "-m", "peftport", *words.split()]
    done = subprocess.run(command, env=os.environ | {"COLUMNS": "80"}, capture_output=True, text=True, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()).rstrip() + "\n"


@pytest.mark.parametrize("words", COMMANDS)
def test_the_terminal_is_as_it_was(words: str) -> None:
    text = printed(words)
    assert text == (PAGES / f"{words.replace(' ', '-')}.txt").read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 80


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(WORD, PROSE, NUMBERS, PROSE), min_size=1, max_size=6, unique_by=lambda row: row[2]),
    width=st.integers(40, 160),
)
def test_no_word_is_broken_and_numbers_are_aligned(
    rows: list[tuple[str, str, str, str]],
    width: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    table = Table("a table", ("name", "about", "gain", "more"), tuple(rows))
    assert table.holds_numbers(2) and not table.holds_numbers(0)
    print_table(table)
    text = capsys.readouterr().out
    shown, cells = Counter(text.split()), Counter(word for row in rows for cell in row for word in cell.split())
    assert not cells - shown
    lines = text.splitlines()
    if sum(each + GAP for each in table.least_widths()) + GAP - 1 <= width:
        assert max(map(len, lines)) <= width
        ends = {line.index(row[2]) + len(row[2]) for row in rows for line in lines if row[2] in line}
        assert len(ends) == 1


def test_the_version_is_told() -> None:
    assert printed("--version").startswith("peftport ")


if __name__ == "__main__":
    PAGES.mkdir(exist_ok=True)
    for name in COMMANDS:
        (PAGES / f"{name.replace(' ', '-')}.txt").write_text(printed(name), encoding="utf-8")
