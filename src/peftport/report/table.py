"""A table of text, as the terminal, files and pages show it."""

from __future__ import annotations

import re
from dataclasses import dataclass

NUMBER = re.compile(r"[+-]?\d*[.,\d]+ ?(%|[a-z]{0,3})( ?[\[(].*)?$")
EMPTY = ("", "-", "n/e")


@dataclass(frozen=True)
class Table:
    """A titled table of text cells."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def holds_numbers(self, column: int) -> bool:
        """Whether every cell of a column that has a content is a number, with or without what is beside it."""
        cells = [row[column] for row in self.rows if row[column] not in EMPTY]
        return column > 0 and bool(cells) and all(NUMBER.match(cell) for cell in cells)

    def least_widths(self) -> list[int]:
        """The width of each column below which words, or numbers with what is beside them, would have to be broken."""
        widths = []
        for index, column in enumerate(self.columns):
            cells = [column, *(row[index] for row in self.rows)]
            parts = cells if self.holds_numbers(index) else [word for cell in cells for word in cell.split()]
            widths.append(max(map(len, parts), default=0))
        return widths

    def markdown(self) -> str:
        """The table for a file."""
        lines = [self.columns, tuple(["---"] + ["---:"] * (len(self.columns) - 1)), *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"{self.title}\n\n{body}\n"
