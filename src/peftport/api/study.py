"""Studies in Python: plan, run, resume and read them, with the words of ``peftport study``.

Workers are processes that import the calling script, so it must call ``run`` under ``if __name__ == "__main__":``.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from peftport.api.result import Result
from peftport.core.errors import BadRequest
from peftport.core.progress import duration
from peftport.core.request import method_takes, takes
from peftport.store.artifacts import Artifacts, write_text
from peftport.store.ledger import open_ledger
from peftport.study.about import About, about
from peftport.study.commands import RunRequest, StudyRequest
from peftport.study.execute import RunOptions, execute
from peftport.study.export import FORMATS, Exported, export, write_about, write_export
from peftport.study.grid import read_study
from peftport.study.plan import Plan, Sharing, chosen_factors
from peftport.study.repair import Repairs, repair
from peftport.study.run import Limits, Summary

if TYPE_CHECKING:
    from peftport.report.findings import Findings

STATES = ("done", "failed", "blocked", "left")


@dataclass(frozen=True, eq=False, repr=False)
class Planned(Result):
    """The size of a study: its runs, unique jobs, and the training steps that sharing saves."""

    study: str
    sharing: Sharing

    def __str__(self) -> str:
        s = self.sharing
        return (
            f"{self.study}: {s.runs} runs, {s.jobs} jobs, {s.steps_needed:,} of {s.steps_asked:,} training steps needed"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {"study": self.study, **asdict(self.sharing)}


@dataclass(frozen=True, eq=False, repr=False)
class Ran(Result):
    """What one call of ``run`` did; ``summary.left`` jobs are not on record yet.

    ``tracked`` has, for each tracker, the number of runs that were sent and of runs that it had already; ``troubles``
    says which trackers failed and how.
    """

    study: str
    dir: Path
    summary: Summary
    tracked: dict[str, dict[str, int]]
    troubles: tuple[str, ...]

    def __str__(self) -> str:
        s = self.summary
        return (
            f"{self.study}: {s.done} jobs done, {s.failed} failed, {s.blocked} blocked, {s.before} were on record, "
            f"{s.left} left ({duration(s.seconds)})"
        )

    def lines(self) -> list[str]:
        """Return the counts, what had to be done again, and what was sent to trackers."""
        again = len(self.summary.recomputed)
        lost = [f"{again} jobs were done again: their artifacts were missing or corrupt"] if again else []
        sent = [f"{t}: {n['sent']} runs sent, {n['already_there']} were there already" for t, n in self.tracked.items()]
        return [str(self), *lost, *sent]

    def to_polars(self) -> pl.DataFrame:
        """Return one row of counts."""
        counts = {key: value for key, value in asdict(self.summary).items() if key != "recomputed"}
        return pl.DataFrame([{"study": self.study, **counts}])

    def as_json(self) -> dict[str, Any]:
        """Return the counts, which jobs were done again, and what was sent to trackers."""
        return {"study": self.study, "dir": str(self.dir), **asdict(self.summary), "tracked": self.tracked}


@dataclass(frozen=True, eq=False, repr=False)
class Status(Result):
    """The progress of a study: jobs by state, and the first line of each failure."""

    study: str
    counts: dict[str, int]
    failures: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.study}: {', '.join(f'{n} {state}' for state, n in self.counts.items())}"

    def to_polars(self) -> pl.DataFrame:
        """Return one row for each state."""
        return pl.DataFrame({"state": list(self.counts), "jobs": list(self.counts.values())})

    def as_json(self) -> dict[str, Any]:
        """Return the jobs by state, and the first line of each failure."""
        return {"study": self.study, **self.counts, "failures": list(self.failures)}


@dataclass(frozen=True, eq=False, repr=False)
class Repaired(Result):
    """The numbers of jobs that a repair kept, restored and gave up."""

    study: str
    repairs: Repairs

    def __str__(self) -> str:
        return f"{self.study}: {self.repairs}"

    def as_json(self) -> dict[str, Any]:
        """Return the counts, and the name under which the damaged file is kept."""
        return {"study": self.study, **asdict(self.repairs)}


@dataclass(frozen=True, eq=False, repr=False)
class Exports(Result):
    """The exported tables: ``runs`` has one row for each run, ``correct`` its correctness item by item."""

    study: str
    runs: pl.DataFrame
    correct: pl.DataFrame

    def __str__(self) -> str:
        states = Counter(self.runs["state"].to_list())
        return f"{self.study}: {self.runs.height} runs ({', '.join(f'{n} {s}' for s, n in states.items())})"

    def to_polars(self) -> pl.DataFrame:
        """Return the table of runs."""
        return self.runs

    def as_json(self) -> dict[str, Any]:
        """Return the number of runs, in all and by state."""
        return {"study": self.study, "runs": self.runs.height, "states": dict(Counter(self.runs["state"].to_list()))}


@dataclass(frozen=True, eq=False)
class Study:
    """A declared study and the folder of its ledger and artifacts."""

    file: Path
    dir: Path
    planned: Plan

    @staticmethod
    @takes(StudyRequest)
    def from_file(request: StudyRequest) -> Study:
        """Return the study, of which nothing is run yet.

        Raises:
            BadRequest: no such file, an unknown key, a value that makes no sense, or no run left.

        """
        changes = {key: _toml(value) for key, value in (request.set or {}).items()}
        plan, folder = Plan(read_study(Path(request.file), changes), chosen_factors(request.only)), request.dir
        if not plan.jobs:
            problem = "expected values that the study has, no run is left; check them"
            request.refuse("only", problem, " ".join(request.only))
        return Study(Path(request.file), Path(folder) if folder is not None else Path("runs") / plan.study.name, plan)

    @property
    def name(self) -> str:
        """The name in the study file."""
        return self.planned.study.name

    @cached_property
    def _artifacts(self) -> Artifacts:
        return Artifacts(self.dir / "artifacts")

    def plan(self) -> Planned:
        """Count runs, jobs and training steps. Nothing is run."""
        return Planned(self.name, self.planned.sharing)

    @method_takes(RunRequest)
    def run(self, request: RunRequest) -> Ran:
        """Return the counts. Jobs that fail are counted, not raised.

        Raises:
            BadRequest: a host cannot be had, another process runs this study, Ray or a tracker is not installed, or a
                host, a task or a library is not what the jobs on record ran on.

        """
        options = RunOptions(request.executor, request.workers, request.threads, tuple(request.track))
        found, tracked = execute(
            self.planned, self.dir, options, limits=Limits(request.max_jobs, request.stop_after_seconds),
            retry_failed=request.retry_failed, accept_versions=request.accept_versions,
            warn=request.warn or _nobody, progress=request.progress,
        )  # fmt: skip
        return Ran(self.name, self.dir, found, tracked.counts, tracked.troubles)

    def status(self) -> Status:
        """Return how far the study is, and what failed."""
        with closing(open_ledger(self.dir)) as ledger:
            ledger.check()
            states = ledger.states()
            failures = tuple(
                (row.error or "").splitlines()[0]
                for row in ledger.rows()
                if row.state == "failed" and row.id in self.planned.jobs
            )
        counted = Counter(states.get(job, "left") for job in self.planned.jobs)
        return Status(self.name, {state: counted[state] for state in STATES}, failures)

    def repair(self) -> Repaired:
        """Restore a damaged ledger from what can be read of it and from the artifacts; ``run`` does the rest again."""
        return Repaired(self.name, repair(self.planned, self.dir))

    def export(self, out: str | Path | None = None, *, format: str = "parquet") -> Exports:
        """Return the runs as tables; if ``out`` is given, write them to that folder as parquet, csv or jsonl."""
        if format not in FORMATS:
            raise BadRequest(f"format: expected one of {', '.join(FORMATS)}, got {format}")
        exported, told = self._read()
        if out is not None:
            write_about(told, Path(out), write_export(exported, Path(out), format))
        return Exports(self.name, exported.runs, exported.correct)

    def findings(self) -> Findings:
        """Return the measures, verdicts and headlines that the report shows; each table is a polars frame."""
        from peftport.report.studied import study_findings  # imported here because figures are slow to import

        exported, told = self._read()
        return study_findings(exported.runs, exported.correct, told, judged_by=exported.judged)

    def report(self, out: str | Path) -> Path:
        """Write the report: one self-contained page."""
        from peftport.report.html import render

        write_text(Path(out), render(self.findings()))
        return Path(out)

    def _read(self) -> tuple[Exported, About]:
        with closing(open_ledger(self.dir)) as ledger:
            exported = export(self.planned, ledger, self._artifacts)
            return exported, about(self.planned, ledger, f"peftport study run {self.file}")

    def _repr_html_(self) -> str:
        return self.plan()._repr_html_()


def _nobody(text: str) -> None:
    """Ignore the message of a tracker that fails; ``Ran.troubles`` has it."""


def _toml(value: object) -> str:
    """Format a value as in a study file."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)
