"""What the Python interface returns: small objects that say themselves in a line, in a table, and in a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from peftport.modules.folders import Format
from peftport.modules.module import Module, PortRecord
from peftport.report.checked import check_sentences
from peftport.report.compared import comparison_findings, demo_findings
from peftport.report.html import render
from peftport.report.tables import comparison_sentence
from peftport.store.artifacts import write_text
from peftport.training.evaluation import Scores
from peftport.workflows.checking import MethodChoice
from peftport.workflows.checking import PortCheck as Check
from peftport.workflows.compare_tables import verdict_of
from peftport.workflows.comparison import Comparison
from peftport.workflows.demo import Demo
from peftport.workflows.method_selection import MethodSelection


class Result(ABC):
    """A result: ``str()`` is one line, ``to_polars()`` its rows, a notebook shows both."""

    @abstractmethod
    def __str__(self) -> str:
        """What came out, in one line."""

    @abstractmethod
    def to_polars(self) -> pl.DataFrame:
        """The result as a table."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"  # the line, and not every number of a module

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>{self.to_polars()._repr_html_()}"


@dataclass(frozen=True, eq=False, repr=False)
class Evaluated(Result):
    """A host's test on a task, alone (``module`` None) or with a module."""

    host: str
    task: str
    module: Path | None
    scores: Scores

    @property
    def accuracy(self) -> float:
        """Share of the test items that were right."""
        return self.scores.accuracy

    def __str__(self) -> str:
        carrying = f" with {self.module}" if self.module else ""
        return (
            f"{self.host} on {self.task}{carrying}: accuracy {self.accuracy:.3f} ({len(self.scores.labels)} test items)"
        )

    def to_polars(self) -> pl.DataFrame:
        """One row: host, task, module, accuracy, auroc, accuracy_at_median, n_items."""
        return pl.DataFrame([
            {"host": self.host, "task": self.task, "module": str(self.module) if self.module else None}
            | measures(self.scores)
        ])  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Trained(Result):
    """A module just trained, its folder if it was written, and the host's test without and with it."""

    task: str
    out: Path | None
    module: Module
    bare: Scores
    scores: Scores

    @property
    def accuracy(self) -> float:
        """Share of the test items that were right with the module."""
        return self.scores.accuracy

    def __str__(self) -> str:
        return (
            f"{self.module.spec.kind} on {self.module.host.name}, {self.module.parameters:,} parameters: accuracy on "
            f"{self.task} {self.accuracy:.3f}, host alone {self.bare.accuracy:.3f} ({len(self.bare.labels)} test items)"
        )

    def to_polars(self) -> pl.DataFrame:
        """Two rows: the bare host, and the host with the module."""
        tests = (("bare host", self.bare), (self.module.spec.kind, self.scores))
        return pl.DataFrame([{"what": name} | measures(scores) for name, scores in tests])


@dataclass(frozen=True, eq=False, repr=False)
class Ported(Result):
    """A module on its new host, its folder if it was written, and the format it was written in.

    ``choice``: how ``auto`` chose the method; ``trial``: how several methods did, where several were tried.
    """

    out: Path | None
    module: Module
    format: Format
    choice: MethodChoice | None = None
    trial: MethodSelection | None = None

    @property
    def record(self) -> PortRecord:
        """The port as the module remembers it."""
        return self.module.ports[-1]

    def __str__(self) -> str:
        done = self.record
        return (
            f"{self.module.spec.kind} from {done.origin.name} on {done.receiver.name} by {done.method}: "
            f"{len(done.slots)} slots"
        )

    def to_polars(self) -> pl.DataFrame:
        """One row a slot: what the method did there."""
        slots = self.record.slots
        return pl.DataFrame({"slot": list(slots), "did": list(slots.values())})


@dataclass(frozen=True, eq=False, repr=False)
class Checked(Result):
    """What can be said of a port before it is made."""

    found: Check

    @property
    def choice(self) -> MethodChoice:
        """The method to use (None: none, train another module), its word, and why."""
        return self.found.choice

    def __str__(self) -> str:
        return " ".join(check_sentences(self.found))

    def to_polars(self) -> pl.DataFrame:
        """One row a method: whether it can, why not, and the gain and retention to expect where records say."""
        rows = [
            {
                "method": one.name, "able": one.able, "refusal": one.refusal, "lacking": one.lacking,
                "expected_gain": one.predicted.gain.estimate if one.predicted.gain else None,
                "expected_retention": one.predicted.retention.estimate if one.predicted.retention else None,
                "unknown": one.predicted.unknown,
            }
            for one in self.found.methods
        ]  # fmt: skip
        return pl.DataFrame(rows, infer_schema_length=None)

    def slots(self) -> pl.DataFrame:
        """One row a slot of the receiver: what it takes, whether that fits, overlap of the hosts' weights there."""
        return pl.DataFrame([asdict(one) for one in self.found.slots.slots], infer_schema_length=None)


@dataclass(frozen=True, eq=False, repr=False)
class Compared(Result):
    """The arms on a receiver at every budget and seed, and the verdict."""

    comparison: Comparison

    @cached_property
    def verdict(self) -> dict[str, Any] | None:
        """Copy, align, refresh, retrain or not enough evidence, with its sentence; None without a ported arm."""
        return verdict_of(self.comparison)

    def difference(self, one: str, other: str, budget: int) -> dict[str, float]:
        """Paired difference of two arms in accuracy, with its 95 % interval over test items."""
        found = self.comparison.difference(one, other, budget)
        return {"estimate": found.estimate, "low": found.low, "high": found.high}

    def __str__(self) -> str:
        return str(self.verdict["sentence"]) if self.verdict else comparison_sentence([self.comparison])

    def to_polars(self) -> pl.DataFrame:
        """One row a run."""
        return pl.DataFrame([asdict(row) for row in self.comparison.rows])

    def report(self, out: str | Path) -> Path:
        """Write one self-contained page."""
        one = self.comparison
        about = f"{one.technique} from {one.origin} on {one.receiver}, {one.task}."
        return _written(out, render(comparison_findings([one], study="comparison", about=about, command="")))


@dataclass(frozen=True, eq=False, repr=False)
class Demonstrated(Result):
    """What the demonstration found: a comparison for each technique."""

    demo: Demo

    def __str__(self) -> str:
        return comparison_sentence(self.demo.comparisons)

    def to_polars(self) -> pl.DataFrame:
        """One row a run, all techniques."""
        return pl.DataFrame([asdict(row) for one in self.demo.comparisons for row in one.rows])

    def report(self, out: str | Path) -> Path:
        """Write one self-contained page."""
        return _written(out, render(demo_findings(self.demo)))


def measures(scores: Scores) -> dict[str, Any]:
    """The measures of one test, as a row of a table has them."""
    return {
        "accuracy": scores.accuracy,
        "auroc": scores.auroc,
        "accuracy_at_median": scores.accuracy_at_median,
        "n_items": len(scores.labels),
    }


def _written(out: str | Path, page: str) -> Path:
    write_text(Path(out), page)
    return Path(out)
