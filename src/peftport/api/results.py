"""The results of commands: objects with a summary line, a table, a JSON document and a view in notebooks.

The command line prints these objects. Each holds the request that it answers and the result of the workflow.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from peftport.api.result import Result, addressed, chosen, measures, text_of, write_page, written_to
from peftport.modules.folders import Format
from peftport.modules.module import Module, PortRecord
from peftport.report.checked import check_sentences, check_tables, trial_table
from peftport.report.tables import Table, comparison_sentence, comparison_table
from peftport.training.evaluation import Scores
from peftport.workflows.checking import MethodChoice, PortCheck
from peftport.workflows.compare_tables import verdict_of
from peftport.workflows.comparison import Comparison
from peftport.workflows.continued_pretraining import HostUpdate
from peftport.workflows.demo import Demo
from peftport.workflows.evaluate import EvaluatedHost
from peftport.workflows.job_inputs import path_of
from peftport.workflows.method_selection import MethodSelection
from peftport.workflows.port import PortedModule
from peftport.workflows.requests import (
    CheckRequest,
    CompareRequest,
    DemoRequest,
    EvaluateRequest,
    HostUpdateRequest,
    PortRequest,
    TrainRequest,
)
from peftport.workflows.train import TrainedModule


@dataclass(frozen=True, eq=False, repr=False)
class Evaluated(Result):
    """The scores of a host on a task, alone (``module`` None) or with a module."""

    request: EvaluateRequest
    found: EvaluatedHost

    @property
    def host(self) -> str:
        """The host, as the request names it."""
        return str(self.request.host)

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.found.task

    @property
    def module(self) -> Path | None:
        """The folder of the module; None if there is none."""
        return path_of(self.request.module)

    @property
    def scores(self) -> Scores:
        """The scores of every test item."""
        return self.found.scores

    @property
    def accuracy(self) -> float:
        """The share of the test items that were predicted correctly."""
        return self.scores.accuracy

    def __str__(self) -> str:
        s = self.scores
        more = (
            f", AUROC {s.auroc:.3f}, accuracy at the median threshold {s.accuracy_at_median:.3f}"
            if s.auroc is not None
            else ""
        )
        module = f" with {self.module}" if self.module else ""
        return f"{self.host} on {self.task}{module}: accuracy {s.accuracy:.3f}{more} ({len(s.labels)} test items)"

    def to_polars(self) -> pl.DataFrame:
        """Return one row: host, task, module, accuracy, auroc, accuracy_at_median, n_items."""
        return pl.DataFrame([self.as_json()])

    def as_json(self) -> dict[str, Any]:
        """Return host, task, module and measures."""
        module = str(self.module) if self.module else None
        return {"host": self.host, "task": self.task, "module": module} | measures(self.scores)


@dataclass(frozen=True, eq=False, repr=False)
class Trained(Result):
    """A trained module, its folder if it was written, and the scores of the host without and with it."""

    request: TrainRequest
    found: TrainedModule

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.found.task

    @property
    def out(self) -> Path | None:
        """The folder of the module; None if there is none."""
        return path_of(self.request.out)

    @property
    def module(self) -> Module:
        """The module that was trained."""
        return self.found.module

    @property
    def bare(self) -> Scores:
        """The scores of the host alone."""
        return self.found.bare

    @property
    def scores(self) -> Scores:
        """The scores of the host with the module."""
        return self.found.scores

    @property
    def accuracy(self) -> float:
        """The share of the test items that were predicted correctly with the module."""
        return self.scores.accuracy

    def __str__(self) -> str:
        module = self.module
        return (
            f"{addressed(self.out)}{module.spec.kind} on {module.host.name}, {module.parameters:,} parameters, "
            f"{self.request.steps} steps; accuracy on {self.task} {self.accuracy:.3f}, "
            f"host alone {self.bare.accuracy:.3f} ({len(self.bare.labels)} test items)"
        )

    def to_polars(self) -> pl.DataFrame:
        """Return two rows: the bare host, and the host with the module."""
        tests = (("bare host", self.bare), (self.module.spec.kind, self.scores))
        return pl.DataFrame([{"what": name} | measures(scores) for name, scores in tests])

    def as_json(self) -> dict[str, Any]:
        """Return what was trained, how, and the measures without and with it."""
        module, request = self.module, self.request
        return {
            "out": text_of(self.out), "technique": module.spec.model_dump(mode="json"),
            "host": module.host.model_dump(),
            "parameters": module.parameters, "steps": request.steps, "seed": request.seed, "task": self.task,
            "bare": measures(self.bare), "with_module": measures(self.scores),
        }  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Ported(Result):
    """A module on its new host, its folder if it was written, and its file format."""

    request: PortRequest
    found: PortedModule

    @property
    def out(self) -> Path | None:
        """The folder of the ported module; None if it was not written."""
        return path_of(self.request.out)

    @property
    def module(self) -> Module:
        """The module on its new host."""
        return self.found.module

    @property
    def format(self) -> Format:
        """The format in which the module is, or would be, written."""
        return self.found.file_format

    @property
    def choice(self) -> MethodChoice | None:
        """How ``auto`` chose the method; None if the user named it."""
        return self.found.choice

    @property
    def trial(self) -> MethodSelection | None:
        """How several methods compared; None if only one was used."""
        return self.found.selection

    @property
    def record(self) -> PortRecord:
        """The record of the port that the module keeps."""
        return self.module.ports[-1]

    def __str__(self) -> str:
        done, notes = self.record, list(self.record.slots.values())
        did = ", ".join(f"{notes.count(note)} slots {note}" for note in dict.fromkeys(notes))
        return (
            f"{addressed(self.out)}{self.module.spec.kind} from {done.origin.name} on {done.receiver.name} "
            f"by {done.method} ({self.format}): {did}"
        )

    def to_polars(self) -> pl.DataFrame:
        """Return one row for each slot: what the method did there."""
        slots = self.record.slots
        return pl.DataFrame({"slot": list(slots), "did": list(slots.values())})

    def as_json(self) -> dict[str, Any]:
        """Return the record of the port, and how its method was chosen."""
        document = {"out": text_of(self.out), "format": self.format, "technique": self.module.spec.kind}
        document |= self.record.model_dump()
        if self.trial is not None:
            return document | {"trial": self.trial.as_json()}
        return document | {"choice": asdict(self.choice) if self.choice else None}

    def tables(self) -> list[Table]:
        """Return a table of the methods, if several were tried."""
        return [trial_table(self.trial)] if self.trial is not None else []

    def lines(self) -> list[str]:
        """Say what was ported and, of several methods, which was kept and why."""
        if self.trial is None:
            return [str(self)]
        return [f"{self.trial.sentence}.", *written_to(self.out)]

    def remarks(self) -> list[str]:
        """Say how ``auto`` chose the method, if it did."""
        return chosen(self.choice)


@dataclass(frozen=True, eq=False, repr=False)
class Checked(Result):
    """What is known about a port before it is made."""

    request: CheckRequest
    found: PortCheck

    @property
    def choice(self) -> MethodChoice:
        """The method to use (None: train a new module instead), the verdict in a word, and the reason."""
        return self.found.choice

    def __str__(self) -> str:
        return " ".join(self.lines())

    def to_polars(self) -> pl.DataFrame:
        """Return one row for each method: whether it can be used, why not, and the expected gain and retention."""
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
        """Return one row for each slot of the receiver: what it receives, whether that fits, the overlap of weights."""
        return pl.DataFrame([asdict(one) for one in self.found.slots.slots], infer_schema_length=None)

    def as_json(self) -> dict[str, Any]:
        """Return all findings, and the conclusion."""
        return {"module": str(self.request.module), **self.found.as_json(), "summary": str(self)}

    def tables(self) -> list[Table]:
        """Return tables of hosts, slots, layers (if they were compared) and methods."""
        return check_tables(self.found)

    def lines(self) -> list[str]:
        """Return the conclusion from the tables, and what to do."""
        return check_sentences(self.found)


@dataclass(frozen=True, eq=False, repr=False)
class Compared(Result):
    """The arms on a receiver at every budget and seed, and the verdict."""

    request: CompareRequest
    comparison: Comparison

    @cached_property
    def verdict(self) -> dict[str, Any] | None:
        """Copy, align, refresh, retrain or not enough evidence, with a sentence; None without a ported arm."""
        return verdict_of(self.comparison)

    @cached_property
    def summary(self) -> str:
        """Compare ported with sampled at the smallest budget, in one sentence."""
        return comparison_sentence([self.comparison])

    def difference(self, one: str, other: str, budget: int) -> dict[str, float]:
        """Return the paired difference in accuracy of two arms, with its 95 % interval over test items."""
        found = self.comparison.difference(one, other, budget)
        return {"estimate": found.estimate, "low": found.low, "high": found.high}

    def __str__(self) -> str:
        return str(self.verdict["sentence"]) if self.verdict else self.summary

    def to_polars(self) -> pl.DataFrame:
        """Return one row for each run."""
        return pl.DataFrame([asdict(row) for row in self.comparison.rows])

    def as_json(self) -> dict[str, Any]:
        """Return every run, the plan, the summary and the verdict."""
        return {**self.comparison.as_json(), "summary": self.summary, "verdict": self.verdict}

    def tables(self) -> list[Table]:
        """Return the mean accuracy by arm and budget."""
        return [comparison_table([self.comparison])]

    def lines(self) -> list[str]:
        """Return the summary, and the verdict if there is one."""
        verdict = [str(self.verdict["sentence"])] if self.verdict is not None else []
        return [self.summary, *verdict, *written_to(path_of(self.request.out))]

    def remarks(self) -> list[str]:
        """Say how ``auto`` chose the method, if it did."""
        return chosen(self.comparison.choice)

    def report(self, out: str | Path) -> Path:
        """Write a self-contained page and return its path."""
        from peftport.report.compared import comparison_page  # imported here because figures are slow to import

        return write_page(out, comparison_page(self.comparison, self.request.command))


@dataclass(frozen=True, eq=False, repr=False)
class Demonstrated(Result):
    """The results of the demonstration: a comparison for each technique."""

    request: DemoRequest
    demo: Demo

    def __str__(self) -> str:
        return comparison_sentence(self.demo.comparisons)

    def to_polars(self) -> pl.DataFrame:
        """Return one row for each run of all techniques."""
        return pl.DataFrame([asdict(row) for one in self.demo.comparisons for row in one.rows])

    def as_json(self) -> dict[str, Any]:
        """Return every run of every technique, with the settings and versions."""
        return self.demo.as_json()

    def tables(self) -> list[Table]:
        """Return the mean accuracy by technique, arm and budget."""
        return [comparison_table(self.demo.comparisons)]

    def lines(self) -> list[str]:
        """Return the summary, and where the files are."""
        if self.request.out is None:
            return [str(self)]
        out = Path(self.request.out)
        files = f"Page: {out / 'report.html'}   table: {out / 'table.md'}   every run: {out / 'results.json'}"
        return [str(self), f"\n{files}   ({self.demo.seconds:.0f} s)"]

    def report(self, out: str | Path) -> Path:
        """Write a self-contained page and return its path."""
        from peftport.report.compared import demo_findings
        from peftport.report.html import render

        return write_page(out, render(demo_findings(self.demo)))


@dataclass(frozen=True, eq=False, repr=False)
class UpdatedHost(Result):
    """A host whose pretraining was continued: its checkpoints, each a host in a folder of its own."""

    request: HostUpdateRequest
    checkpoints: list[HostUpdate]

    def __str__(self) -> str:
        return "; ".join(self.lines())

    def to_polars(self) -> pl.DataFrame:
        """Return one row for each checkpoint: its folder, steps, loss and distances."""
        return pl.DataFrame([
            {"folder": str(one.folder), "steps": one.record.steps, "loss": one.record.loss}
            | {"weights": one.record.distance.weights, "function": one.record.distance.function}
            for one in self.checkpoints
        ])  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """Return the folder, and the record of every checkpoint."""
        found = [{"folder": str(one.folder), **one.record.model_dump(mode="json")} for one in self.checkpoints]
        return {"out": str(self.request.out), "checkpoints": found}

    def lines(self) -> list[str]:
        """Say how far each checkpoint is from the original host."""
        return [
            f"{one.folder}: weights {one.record.distance.weights:.3%}, function {one.record.distance.function:.5f} "
            f"from {self.request.host}; loss {one.record.loss:.3f}"
            for one in self.checkpoints
        ]
