"""Tables with a header line whose cells a delimiter separates: CSV and TSV. Every value is a string.

The delimiter is that of the suffix, unless the header line has none of it and has another.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from peftport.core.errors import TaskRefused

DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}


def read_delimited(path: Path, text: str, usual: str) -> tuple[dict[str, Sequence[object]], tuple[str, ...]]:
    """The columns of a table, and notes on what was guessed; ``usual`` is the delimiter that the suffix stands for.

    A text of digits stays a text, and the label 01 stays apart from 1.

    Raises:
        TaskRefused: the file is empty, a row has more cells than the header (by its line), or it is damaged.

    """
    import polars

    text = text.rstrip("\r\n")  # blank lines at the end are no items
    if not text:
        raise TaskRefused(f"{path}: the file is empty, expected a header line and items; check the path")
    delimiter = delimiter_of(path, text, usual)
    quoted = '"' if delimiter != "\t" or _tabs_are_quoted(text) else None
    try:
        frame = polars.read_csv(text.encode(), infer_schema=False, separator=delimiter, quote_char=quoted)
    except polars.exceptions.PolarsError as error:
        raise _damaged(path, text, delimiter, error) from error
    notes = () if delimiter == usual else (f"cells separated by {DELIMITERS[delimiter]}",)
    return {name: frame[name].to_list() for name in frame.columns}, notes


def delimiter_of(path: Path, text: str, usual: str) -> str:
    """The delimiter of a table, told by its header line. Raises TaskRefused where two others could be meant."""
    header = text.lstrip("\r\n").partition("\n")[0]
    cells = {each: len(_cells(header, each)) for each in DELIMITERS}
    if cells[usual] > 1:
        return usual
    others = [each for each, count in cells.items() if count > 1]
    if len(others) > 1:
        meant = " and ".join(DELIMITERS[each] for each in others)
        raise TaskRefused(
            f"{path}, line 1: {meant} in the header line {_shown(header)}, expected one delimiter; "
            "save the file with commas (.csv) or tabs (.tsv)"
        )
    return others[0] if others else usual


def no_header(table: dict[str, Sequence[object]]) -> bool:
    """Whether the first line looks like an item: a cell of it is empty, a number, or found again below itself."""
    return any(
        not name.strip() or name.strip().lstrip("+-").replace(".", "", 1).isdigit() or name in set(values)
        for name, values in table.items()
    )


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line.rstrip("\r")], delimiter=delimiter), [])


def _tabs_are_quoted(text: str) -> bool:
    """Whether quotes enclose cells. They are part of the texts where each line is whole without them, not with them."""
    if '"' not in text:
        return True
    lines = [line for line in text.split("\n") if line.strip()]
    whole = len({line.count("\t") for line in lines}) == 1
    try:
        return not whole or sum(1 for _ in _rows(text, "\t")) == len(lines)
    except csv.Error:  # a cell of more than 128 KiB
        return not whole


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the number of its last line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    for row in reader:
        if row:
            yield reader.line_num, row


def _damaged(path: Path, text: str, delimiter: str, error: Exception) -> TaskRefused:
    """The refusal of a table that cannot be read, by the first row that does not fit the header."""
    width, end = len(_cells(text.partition("\n")[0], delimiter)), 0
    try:
        for line, row in _rows(text, delimiter):
            if len(row) > width:
                return TaskRefused(
                    f"{path}, line {end + 1}: cannot be read ({len(row)} cells, the header has {width}), expected as "
                    f'many; put texts that have {DELIMITERS[delimiter]} in them between quotes (")'
                )
            end = line
    except csv.Error as wrong:
        error = wrong
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return TaskRefused(f"{path}: cannot be read ({first}), expected CSV with one header line; write the file anew")


def short_row(path: Path, text: str, usual: str) -> None:
    """Refuse the first row that has fewer cells than the header, by its line. Raises TaskRefused."""
    delimiter, width, end = delimiter_of(path, text, usual), 0, 0
    try:
        for line, row in _rows(text, delimiter):
            width = width or len(row)
            if len(row) < width:
                raise TaskRefused(
                    f"{path}, line {end + 1}: a row of {len(row)}, expected {width} cells as in the header; "
                    "complete the row or delete it"
                )
            end = line
    except csv.Error:
        return


def _shown(line: str) -> str:
    return repr(line if len(line) <= 60 else f"{line[:57]}...")
