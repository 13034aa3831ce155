"""What ``compare`` and ``demo`` return: sentence, verdict, JSON and page, all read off one analysis of their runs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from peftport.api.following import beside, follow, unused
from peftport.api.result import Result, chosen, noted, write_page, written_to
from peftport.core.libraries import pl
from peftport.hosts.loading import loading_remarks
from peftport.report.table import Table
from peftport.report.tables import (
    comparison_sentence,
    comparison_table,
    demo_page,
    few_shot_sentence,
    reference_sentences,
)
from peftport.workflows.compare_tables import ComparisonAnalysis
from peftport.workflows.comparison import Comparison
from peftport.workflows.demo import Demo
from peftport.workflows.job_inputs import path_of
from peftport.workflows.requests import CompareRequest, DemoRequest, PortRequest, TrainRequest

TRAINING_STEPS = next(each.default for each in fields(TrainRequest) if each.name == "steps")


@dataclass(frozen=True, eq=False, repr=False)
class Compared(Result):
    """The arms on a receiver at every budget and seed, and the verdict."""

    request: CompareRequest
    comparison: Comparison

    @cached_property
    def analysis(self) -> ComparisonAnalysis:
        """What all that is said here is read off."""
        return ComparisonAnalysis([self.comparison])

    @cached_property
    def verdict(self) -> dict[str, Any] | None:
        """Copy, align, refresh, retrain or not enough evidence, with its sentence; None without a ported arm."""
        verdicts = self.analysis.verdicts
        return verdicts.row(0, named=True) if len(verdicts) else None

    @cached_property
    def summary(self) -> str:
        """Ported against sampled at the smallest budget, in one sentence."""
        return comparison_sentence(self.analysis)

    def difference(self, one: str, other: str, budget: int) -> dict[str, float]:
        """Paired difference of two arms in the judged metric, with its 95 % interval over seeds and test items."""
        difference = self.analysis.difference(one, other, budget)
        return {"estimate": difference.estimate, "low": difference.low, "high": difference.high}

    def __str__(self) -> str:
        return str(self.verdict["sentence"]) if self.verdict else self.summary

    def to_polars(self) -> pl.DataFrame:
        """One row a run."""
        return pl.DataFrame([row.as_row() for row in self.comparison.rows])

    def document(self) -> dict[str, Any]:
        """Every run, the plan, the gains, the summary and the verdict."""
        said: dict[str, Any] = {"summary": self.summary, "verdict": self.verdict}
        beside = few_shot_sentence(self.analysis)
        said |= {"few_shot_summary": beside} if beside else {}
        references = reference_sentences(self.analysis)
        said |= {"references_summary": references} if references else {}
        return {**self.comparison.as_json(), "gains": self.analysis.gains.rows(named=True), **said}

    def tables(self) -> list[Table]:
        """Mean of the judged metric by arm and budget."""
        return [comparison_table(self.analysis)]

    def lines(self) -> list[str]:
        """The summary, and the verdict where there is one."""
        verdict = [str(self.verdict["sentence"])] if self.verdict is not None else []
        beside = few_shot_sentence(self.analysis)
        sides = [*([beside] if beside else []), *reference_sentences(self.analysis)]
        return [self.summary, *sides, *verdict, *written_to(path_of(self.request.out))]

    def remarks(self) -> list[str]:
        """How the task was read, what ``auto`` became, and why accuracy does not judge the arms, where it does not."""
        told = (*self.comparison.remarks, *loading_remarks(self.request.load))
        return [*told, *chosen(self.comparison.choice), *noted(self.comparison.judged)]

    def next_words(self) -> tuple[str, ...]:
        """The port, the training or the larger comparison that the verdict asks for."""
        request, verdict = self.request, self.verdict
        if verdict is None:
            return ()
        out = beside(request.module, request.to)
        if verdict["verdict"] == "retrain":
            technique = self.comparison.technique
            return follow("train", TrainRequest, request, out=out, technique=technique, steps=TRAINING_STEPS)
        if verdict["method"] is not None:
            task = {"task": None, "readout": None} if verdict["method"] == "copy" else {}
            return follow("port", PortRequest, request, out=out, method=verdict["method"], test_items=None, **task)
        return follow("compare", CompareRequest, request, seeds=3 * request.seeds, test_items=None)

    def report(self, out: str | Path) -> Path:
        """Write one self-contained page."""
        from peftport.report.compared import comparison_page  # here: figures are slow to import

        return write_page(out, comparison_page(self.analysis, self.request.command))


@dataclass(frozen=True, eq=False, repr=False)
class Demonstrated(Result):
    """What the demonstration found: a comparison for each technique."""

    request: DemoRequest
    demo: Demo

    def __str__(self) -> str:
        return comparison_sentence(self.demo.analysis)

    def to_polars(self) -> pl.DataFrame:
        """One row a run, all techniques."""
        return pl.DataFrame([row.as_row() for comparison in self.demo.comparisons for row in comparison.rows])

    def document(self) -> dict[str, Any]:
        """Every run of every technique, what they were measured with, and what comes of it."""
        analysis = self.demo.analysis
        said = {"summary": str(self), "verdicts": analysis.verdicts.rows(named=True)}
        return {**self.demo.as_json(), "gains": analysis.gains.rows(named=True), **said}

    def remarks(self) -> list[str]:
        """What was cut off texts, and why the arms are not judged by accuracy, where they are not."""
        return [*loading_remarks(self.request.loaded_by), *self.demo.remarks, *noted(self.demo.analysis.judged)]

    def tables(self) -> list[Table]:
        """Mean of the judged metric by technique, arm and budget."""
        return [comparison_table(self.demo.analysis)]

    def lines(self) -> list[str]:
        """The sentence, and where the files are."""
        if self.request.out is None:
            return [str(self)]
        out = Path(self.request.out)
        files = f"Page: {out / 'report.html'}   table: {out / 'table.md'}   every run: {out / 'results.json'}"
        return [str(self), f"\n{files}   ({self.demo.seconds:.0f} s)"]

    def next_words(self) -> tuple[str, ...]:
        """A training of one's own, as the demonstration began."""
        settings, out = self.demo.settings, unused(Path("modules") / "lora")
        return ("train", settings.origin, settings.task, "--technique", "lora", "--out", str(out))

    def markdown(self) -> str:
        """The tables as a page in Markdown."""
        return demo_page(self.demo)

    def report(self, out: str | Path) -> Path:
        """Write one self-contained page."""
        from peftport.report.compared import demo_findings
        from peftport.report.html import render

        return write_page(out, render(demo_findings(self.demo)))
