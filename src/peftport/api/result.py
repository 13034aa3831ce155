"""The base class of the results of all commands, and helpers that several results share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from peftport.report.tables import Table
from peftport.store.artifacts import write_text
from peftport.training.evaluation import Scores
from peftport.workflows.checking import MethodChoice


class Result(ABC):
    """The result of a command: ``str()`` is one line, ``to_polars()`` a table; notebooks show both."""

    @abstractmethod
    def __str__(self) -> str:
        """Summarise the result in one line."""

    @abstractmethod
    def to_polars(self) -> pl.DataFrame:
        """Return the result as a table."""

    @abstractmethod
    def as_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` prints."""

    def tables(self) -> list[Table]:
        """Return the tables that the command line prints first."""
        return []

    def lines(self) -> list[str]:
        """Return the lines that the command line prints after the tables."""
        return [str(self)]

    def remarks(self) -> list[str]:
        """Return the lines that the command line prints on stderr, such as how ``auto`` chose the method."""
        return []

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"  # one line, without the numbers of a module

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>{self.to_polars()._repr_html_()}"


def measures(scores: Scores) -> dict[str, Any]:
    """Return the measures of one test as columns of a table."""
    return {
        "accuracy": scores.accuracy,
        "auroc": scores.auroc,
        "accuracy_at_median": scores.accuracy_at_median,
        "n_items": len(scores.labels),
    }


def chosen(choice: MethodChoice | None) -> list[str]:
    """Say how ``auto`` chose the method, if it did."""
    return [f"auto: {choice.method} ({choice.word}): {choice.why}"] if choice is not None else []


def addressed(out: Path | None) -> str:
    """Return the start of a line about a folder, which is empty if nothing was written."""
    return "" if out is None else f"{out}: "


def text_of(out: Path | None) -> str | None:
    """Convert a path to text for JSON; None stays None."""
    return None if out is None else str(out)


def written_to(out: Path | None) -> list[str]:
    """Say where something was written, if it was."""
    return [] if out is None else [f"written: {out}"]


def write_page(out: str | Path, page: str) -> Path:
    """Write a page, and return its path."""
    write_text(Path(out), page)
    return Path(out)
