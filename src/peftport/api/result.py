"""What every result can do, whichever command it is of, and the words that several results share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftport.core.libraries import pl
from peftport.metrics import metric_named
from peftport.metrics.choice import MetricChoice, measures_with
from peftport.report.table import Table
from peftport.store.artifacts import write_text
from peftport.tasks.spec import Predictions

if TYPE_CHECKING:
    from peftport.workflows.checking import MethodChoice


class Result(ABC):
    """A result: ``str()`` is one line, ``to_polars()`` its rows, a notebook shows both; the command line prints it.

    ``remarks()`` are sentences about how it came about.
    """

    @abstractmethod
    def __str__(self) -> str:
        """What came out, in one line."""

    @abstractmethod
    def document(self) -> dict[str, Any]:
        """What was found, in values that JSON has."""

    def as_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints: what was found, and under ``remarks`` what is said beside it."""
        return {**self.document(), "remarks": self.remarks()}

    def to_polars(self) -> pl.DataFrame:
        """The result as a table; by default one row, of what was found."""
        return pl.DataFrame([self.document()])

    def answer(self) -> list[str]:
        """The lines that the command line prints before the tables; most results have theirs below, in `lines`."""
        return []

    def tables(self) -> list[Table]:
        """The tables that the command line prints."""
        return []

    def lines(self) -> list[str]:
        """The lines that the command line prints after the tables."""
        return [str(self)]

    def remarks(self) -> list[str]:
        """What a reader should know besides: guesses, texts that were cut, how ``auto`` chose; a sentence each.

        The command line says them on stderr, and ``--json`` has them.
        """
        return []

    def next_words(self) -> tuple[str, ...]:
        """The words of the command that comes next, after ``peftport``; none where nothing is to be done, or known."""
        return ()

    def failure(self) -> str | None:
        """What failed of the work, for which the command line ends with exit code 1; None where nothing did."""
        return None

    @property
    def exit_code(self) -> int:
        """The exit code of the command line where nothing failed; most results have only 0."""
        return 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"  # the line, and not every number of a module

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>{self.to_polars()._repr_html_()}"


def measures(scores: Predictions, judged: MetricChoice) -> dict[str, Any]:
    """The measures of one test, as a row of a table has them: the metrics of its kind, and the one it is judged by."""
    return {**measures_with(scores, judged.name), "n_items": len(scores)}


def value_of(judged: MetricChoice, scores: Predictions) -> str:
    """A metric of a test in text."""
    value = metric_named(judged.name).aggregate(scores)
    return "undefined" if value is None else f"{value:.3f}"


def said_first(scores: Predictions, judged: MetricChoice) -> str:
    """Every metric that is defined, the one that counts first."""
    others = [
        f"{metric_named(name).title} {value:.3f}"
        for name, value in scores.measures().items()
        if value is not None and name != judged.name
    ]
    return ", ".join([f"{judged.title} {value_of(judged, scores)}", *others])


def noted(judged: MetricChoice) -> list[str]:
    """Why a test is not judged by accuracy, where nobody asked for another metric."""
    return [judged.note] if judged.note else []


def chosen(choice: MethodChoice | None) -> list[str]:
    """How ``auto`` chose the method, where it did."""
    return [f"auto: {choice.method} ({choice.word}): {choice.why}"] if choice is not None else []


def addressed(out: Path | None) -> str:
    """The folder that a line is about, before the line."""
    return "" if out is None else f"{out}: "


def text_of(out: Path | None) -> str | None:
    """A path as JSON has it."""
    return None if out is None else str(out)


def written_to(out: Path | None) -> list[str]:
    """Where something was written, if it was."""
    return [] if out is None else [f"written: {out}"]


def write_page(out: str | Path, page: str) -> Path:
    """Write a page, and say where it is."""
    write_text(Path(out), page)
    return Path(out)
