"""Tables for a paper: booktabs, names and texts escaped, the same columns and formats as the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftport.core.errors import OutputRefused
from peftport.core.libraries import pl
from peftport.report.digest import derived
from peftport.report.findings import Findings
from peftport.report.shown import TABLES, Shown
from peftport.store.artifacts import write_text

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "→": r"$\rightarrow$",
    "−": "--",
}
WRITTEN = (
    "pooled", "aggregates", "verdicts", "retention", "lifts", "gains", "savings", "regret", "directions", "cells",
)  # fmt: skip
CAPTIONS = {
    "pooled": "Gains of the ported arm pooled over cells, with 95 % intervals over seeds and test items.",
    "aggregates": "Estimates over all pairs and seeds, with 95 % intervals.",
    "verdicts": "What to do, pair by pair.",
    "retention": "Zero-shot retention, (ported − bare) / (ceiling − bare), with 95 % intervals.",
    "lifts": "The gain of origins' modules at home, and of the ported ones without training, over the bare hosts.",
    "gains": "Accuracy of the ported arm minus that of the other arm at the same budget.",
    "savings": "Steps to the target share of the ceiling.",
    "regret": "What a rule for choosing costs: the best option's score minus the chosen one's, by host pairs.",
    "directions": "Retention in both directions of a pair.",
    "cells": "Accuracy of every cell, with 95 % intervals.",
}
LONG = 30  # rows: a longer table breaks over pages (package longtable)


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is. Line breaks become spaces."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))


def latex_tables(findings: Findings, folder: Path) -> list[Path]:
    """Write a ``.tex`` file for every table that has rows; each needs booktabs, a long one also longtable.

    Raises:
        OutputRefused: the folder cannot be written.

    """
    frames, written = derived(findings), []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in WRITTEN:
            if frames[name].height:
                path = folder / f"{name}.tex"
                write_text(path, latex_table(name, frames[name]))
                written.append(path)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise OutputRefused(f"{folder}: expected a folder that can be written, got {error}; choose another") from error
    return written


def latex_table(name: str, frame: pl.DataFrame) -> str:
    """One frame as a booktabs table. A column that says the same in every row, or nothing, goes to the caption."""
    columns = [shown for shown in TABLES[name] if _varies(shown, frame)]
    fixed = [shown for shown in TABLES[name] if shown not in columns and frame[shown.column].drop_nulls().len()]
    first = frame.row(0, named=True)
    said = "; ".join(f"{escaped(shown.title)}: {_cell(shown, first)}" for shown in fixed)
    caption = escaped(CAPTIONS[name]) + (f" In every row {said}." if said else "")
    kinds = "".join("l" if shown.form in ("text", "long", "badge") else "r" for shown in columns)
    head = " & ".join(escaped(shown.title) for shown in columns) + r" \\"
    rows = [" & ".join(_cell(shown, row) for shown in columns) + r" \\" for row in frame.iter_rows(named=True)]
    label = rf"\caption{{{caption}}}\label{{tab:{name}}}"
    if len(rows) > LONG:
        top = [rf"\begin{{longtable}}{{{kinds}}}", label + r" \\", r"\toprule", head, r"\midrule", r"\endhead"]
        return "\n".join([*top, *rows, r"\bottomrule", r"\end{longtable}", ""])
    top = [r"\begin{table}", r"\centering", label, rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", head, r"\midrule"]
    return "\n".join([*top, *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _varies(shown: Shown, frame: pl.DataFrame) -> bool:
    values = frame.select(name for name in (shown.column, shown.to, shown.low) if name)
    return values.height == 1 and values[shown.column].null_count() == 0 or values.n_unique() > 1


def _cell(shown: Shown, row: Mapping[str, Any]) -> str:
    value = row[shown.column]
    if shown.to:
        return _from_to(value, row[shown.to], merge=shown.column == "origin_task")
    if value is None:
        return "--"
    text = _number(shown, value) if isinstance(value, int | float) else escaped(str(value))
    if shown.mark and row[shown.mark]:
        return f"$>${text}"
    if shown.low and row[shown.low] is not None:
        text += f" [{_number(shown, row[shown.low])}, {_number(shown, row[shown.high])}]"
    return text


def _from_to(start: str | None, end: str | None, *, merge: bool) -> str:
    words = [escaped(word) for word in (start, end) if word is not None]
    words = list(dict.fromkeys(words)) if merge else words
    return r" $\rightarrow$ ".join(words) or "--"


def _number(shown: Shown, value: float) -> str:
    forms = {"whole": "{:.0f}", "seconds": "{:.1f}", "signed": "${:+.3f}$", "p": "{:.3f}"}
    if shown.form == "percent":
        return f"${100 * value:.0f}$\\,\\%"
    if shown.form == "p" and 0 < value < 0.001:
        power = math.floor(math.log10(value))
        return f"${value / 10**power:.0f} \\cdot 10^{{{power}}}$"
    return forms.get(shown.form, "${:.3f}$").format(value)
