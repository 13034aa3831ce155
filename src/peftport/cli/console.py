"""Print for the commands: results (or one JSON document) on stdout, progress and remarks on stderr."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from inspect import Parameter
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from peftport.core.progress import duration, watched

if TYPE_CHECKING:
    from peftport.api.result import Result
    from peftport.core.progress import Progress
    from peftport.report.table import Table

SECONDS_A_LINE = 60.0
GAP = 3  # columns between two cells of a table
PIPED_COLUMNS = 120  # the width of tables that are not printed on a terminal
JSON_OPTION = typer.Option("--json", help="Print one JSON document on stdout; progress goes to stderr.")
layouts: list[str] = []  # the words of --layout, which each further command needs as well
AsJson = Annotated[bool, JSON_OPTION]
AS_JSON = Parameter("json_", Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)


def show(result: Result, as_json: bool, next_words: Sequence[str] = ()) -> None:
    """Print a result as its JSON document, or as its answer, tables and lines, and on a terminal the next command."""
    for line in result.remarks():
        remark(line)
    if as_json:
        print_json(result.as_json())
        return
    for line in result.answer():
        say(line)
    for table in result.tables():
        print_table(table)
    for line in result.lines():
        say(line)
    if sys.stdout.isatty() and result.failure() is None and (words := next_words or result.next_words()):
        say(f"Next: {shlex.join(['peftport', *layouts, *words])}")


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(table: Table) -> None:
    """Print a table, as wide as the terminal allows, or as COLUMNS says where there is none.

    Where words would have to be broken, each row is printed as a list.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(width=None if sys.stdout.isatty() else _columns())
    widths = table.least_widths()
    if sum(width + GAP for width in widths) + GAP - 1 > console.width:
        say("\n".join(_as_lists(table, console.width)))
        return
    widths = _shared_out(table, widths, console.width - GAP * len(widths) - GAP + 1)
    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for index, column in enumerate(table.columns):
        numbers = table.holds_numbers(index)
        side: Literal["left", "right"] = "right" if numbers else "left"
        shown.add_column(column, justify=side, no_wrap=numbers, overflow="fold", width=widths[index])
    for row in table.rows:
        shown.add_row(*(cell.replace("[", "\\[") for cell in row))
    console.print(shown)


def _shared_out(table: Table, least: Sequence[int], room: int) -> list[int]:
    """Widths of a table's columns, at least these: what is left of the room goes where most text is cut, bit by bit."""
    widths, whole = list(least), [max(map(len, cells)) for cells in zip(table.columns, *table.rows, strict=True)]
    for _ in range(room - sum(least)):
        lacking = [wanted - width for wanted, width in zip(whole, widths, strict=True)]
        if max(lacking) <= 0:
            break
        widths[lacking.index(max(lacking))] += 1
    return widths


def _as_lists(table: Table, width: int) -> Iterator[str]:
    """A row as its first cell, and below it a line for each other column."""
    indent = max(map(len, table.columns)) + 4
    yield f"{table.title}\n"
    for row in table.rows:
        yield row[0]
        for column, cell in zip(table.columns[1:], row[1:], strict=True):
            lines = wrap(cell, max(20, width - indent), break_on_hyphens=False) or [""]
            yield f"  {column:{indent - 2}}{lines[0]}"
            yield from (" " * indent + line for line in lines[1:])
        yield ""


def _columns() -> int:
    said = os.environ.get("COLUMNS", "")
    return int(said) if said.isdecimal() and int(said) > 0 else PIPED_COLUMNS


def say(text: str) -> None:
    """Print a line on stdout."""
    print(text)


def remark(text: str) -> None:
    """Print a line on stderr during the work."""
    print(text, file=sys.stderr)


@contextmanager
def bars() -> Iterator[Progress]:
    """Show progress bars as `plain_bars` does, and quiet the libraries that load and run hosts."""
    quiet_libraries()
    with plain_bars() as progress:
        yield progress


@contextmanager
def plain_bars() -> Iterator[Progress]:
    """Show progress bars with the remaining time on stderr; where that is no terminal, a line a minute."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines()
        with watched(lines):
            yield lines
        return
    from peftport.cli.bars import drawn_bars

    with drawn_bars(console) as drawn, watched(drawn):
        yield drawn


class _Lines:
    """Progress for logs: of work that takes longer than a minute, a line now and then."""

    def stage(self, title: str, total: int) -> Callable[[int], None]:
        done, begun = 0, time.monotonic()
        told = begun

        def advance(units: int) -> None:
            nonlocal done, told
            done, now = done + units, time.monotonic()
            if units and now - told >= SECONDS_A_LINE:
                told = now
                left = duration((now - begun) / done * (total - done))
                self.tell(f"{title}: {done} of {total}, {left} left")

        return advance

    def tell(self, line: str) -> None:
        with suppress(OSError):  # nobody reads it, which is no reason to stop
            remark(line)


def quiet_libraries() -> None:
    """Silence the progress bars and warnings of other libraries; what matters is in peftport's errors.

    Where they are not imported yet they are told by variables: importing them takes seconds, and some commands do
    without.
    """
    if "transformers" not in sys.modules:
        os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
