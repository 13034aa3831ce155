"""A study from Python: planned, run, resumed, read. The words are those of ``peftport study``.

Workers are processes that import the calling script: call ``run`` under ``if __name__ == "__main__":`` there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from peftport.api.result import Result
from peftport.core.errors import BadRequest
from peftport.core.progress import Progress
from peftport.store.artifacts import Artifacts, write_text
from peftport.store.ledger import Ledger, open_ledger
from peftport.study.about import About, about
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
    """What a study comes to: runs, unique jobs, and the training steps that sharing saves."""

    study: str
    sharing: Sharing

    def __str__(self) -> str:
        s = self.sharing
        return (
            f"{self.study}: {s.runs} runs, {s.jobs} jobs, {s.steps_needed:,} of {s.steps_asked:,} training steps needed"
        )

    def to_polars(self) -> pl.DataFrame:
        """One row of counts."""
        return pl.DataFrame([{"study": self.study, **asdict(self.sharing)}])

    def as_json(self) -> dict[str, Any]:
        """The counts."""
        return {"study": self.study, **asdict(self.sharing)}


@dataclass(frozen=True, eq=False, repr=False)
class Ran(Result):
    """What one call of ``run`` did; ``summary.left`` jobs are on no record yet.

    ``tracked``: runs sent, and runs already there, by tracker; ``troubles``: which trackers failed and how.
    """

    study: str
    summary: Summary
    tracked: dict[str, dict[str, int]]
    troubles: tuple[str, ...]

    def __str__(self) -> str:
        s = self.summary
        return (
            f"{self.study}: {s.done} jobs done, {s.failed} failed, {s.blocked} blocked, {s.before} were on record, "
            f"{s.left} left"
        )

    def to_polars(self) -> pl.DataFrame:
        """One row of counts."""
        counts = {key: value for key, value in asdict(self.summary).items() if key != "recomputed"}
        return pl.DataFrame([{"study": self.study, **counts}])

    def as_json(self) -> dict[str, Any]:
        """The counts, which jobs were done again, and what trackers took."""
        return {"study": self.study, **asdict(self.summary), "tracked": self.tracked}


@dataclass(frozen=True, eq=False, repr=False)
class Status(Result):
    """How far a study is: jobs by state, and the first line of each failure."""

    study: str
    counts: dict[str, int]
    failures: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.study}: {', '.join(f'{n} {state}' for state, n in self.counts.items())}"

    def to_polars(self) -> pl.DataFrame:
        """One row a state."""
        return pl.DataFrame({"state": list(self.counts), "jobs": list(self.counts.values())})

    def as_json(self) -> dict[str, Any]:
        """Jobs by state, and the first line of each failure."""
        return {"study": self.study, **self.counts, "failures": list(self.failures)}


@dataclass(frozen=True, eq=False, repr=False)
class Repaired(Result):
    """What a repair kept, restored and gave up, in jobs."""

    study: str
    repairs: Repairs

    def __str__(self) -> str:
        return f"{self.study}: {self.repairs}"

    def to_polars(self) -> pl.DataFrame:
        """One row of counts."""
        return pl.DataFrame([{"study": self.study, **asdict(self.repairs)}])


@dataclass(frozen=True, eq=False, repr=False)
class Exports(Result):
    """One row a run in ``runs``; what each run got right, item by item, in ``correct``."""

    study: str
    runs: pl.DataFrame
    correct: pl.DataFrame

    def __str__(self) -> str:
        states = Counter(self.runs["state"].to_list())
        return f"{self.study}: {self.runs.height} runs ({', '.join(f'{n} {s}' for s, n in states.items())})"

    def to_polars(self) -> pl.DataFrame:
        """The runs."""
        return self.runs

    def as_json(self) -> dict[str, Any]:
        """How many runs there are, by state too."""
        return {"study": self.study, "runs": self.runs.height, "states": dict(Counter(self.runs["state"].to_list()))}


@dataclass(frozen=True, eq=False)
class Study:
    """A declared study and the folder of its ledger and artifacts."""

    file: Path
    dir: Path
    planned: Plan

    @classmethod
    def from_file(
        cls,
        file: str | Path,
        *,
        dir: str | Path | None = None,
        set: Mapping[str, object] | None = None,
        only: Sequence[str] = (),
    ) -> Study:
        """Read a study file.

        Args:
            file: the TOML file.
            dir: where the ledger and the artifacts are; None: ``runs/NAME``.
            set: values to replace, by dotted key: ``{"testing.items": 50}``.
            only: only these runs and what they need: ``["arm=ported"]``.

        Raises:
            BadRequest: no such file, an unknown key, a value that makes no sense, or no run left.

        """
        changes = {key: _toml(value) for key, value in (set or {}).items()}
        plan = Plan(read_study(Path(file), changes), chosen_factors(only))
        if not plan.jobs:
            raise BadRequest(f"only {' '.join(only)}: expected values that the study has, no run is left; check them")
        return cls(Path(file), Path(dir) if dir is not None else Path("runs") / plan.study.name, plan)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.planned.study.name

    @cached_property
    def _artifacts(self) -> Artifacts:
        return Artifacts(self.dir / "artifacts")

    def plan(self) -> Planned:
        """Count runs, jobs and training steps. Nothing is run."""
        return Planned(self.name, self.planned.sharing)

    def run(
        self,
        *,
        executor: str = "processes",
        workers: int | None = None,
        threads: int = 1,
        max_jobs: int | None = None,
        stop_after_seconds: float | None = None,
        retry_failed: bool = False,
        accept_versions: bool = False,
        track: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Ran:
        """Run what is not done yet. Jobs that fail are counted, not raised.

        Args:
            executor: ``processes`` or ``ray``.
            workers: stacks worked on at once; None: one a GPU, else cores / threads.
            threads: threads a worker.
            max_jobs: stop after about so many jobs.
            stop_after_seconds: begin nothing after that long.
            retry_failed: try again what failed before.
            accept_versions: go on with other libraries than the jobs on record ran with; both are on record then.
            track: show finished runs in these too: ``mlflow``, ``wandb``, ``trackio``, ``tensorboard``.
            progress: told how far it is.

        Raises:
            BadRequest: a host cannot be had, another process runs this study, Ray or a tracker is not installed, or a
                host, a task or a library is not what the jobs on record ran on.

        """
        found, tracked = execute(
            self.planned, self.dir, RunOptions(executor, workers, threads, tuple(track)),
            limits=Limits(max_jobs, stop_after_seconds), retry_failed=retry_failed, accept_versions=accept_versions,
            progress=progress,
        )  # fmt: skip
        return Ran(self.name, found, tracked.counts, tracked.troubles)

    def status(self) -> Status:
        """How far the study is, and what failed."""
        with self._ledger() as ledger:
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
        """The runs as tables; written to the folder ``out`` if that is given, as parquet, csv or jsonl."""
        if format not in FORMATS:
            raise BadRequest(f"format: expected one of {', '.join(FORMATS)}, got {format}")
        exported, told = self._read()
        if out is not None:
            write_about(told, Path(out), write_export(exported, Path(out), format))
        return Exports(self.name, exported.runs, exported.correct)

    def findings(self) -> Findings:
        """Measures, verdicts and headlines, as the report shows them; each table is a polars frame."""
        from peftport.report.studied import study_findings  # here: figures are slow to import

        exported, told = self._read()
        return study_findings(exported.runs, exported.correct, told)

    def report(self, out: str | Path) -> Path:
        """Write the report: one self-contained page."""
        from peftport.report.html import render

        write_text(Path(out), render(self.findings()))
        return Path(out)

    def _read(self) -> tuple[Exported, About]:
        with self._ledger() as ledger:
            exported = export(self.planned, ledger, self._artifacts)
            return exported, about(self.planned, ledger, f"peftport study run {self.file}")

    @contextmanager
    def _ledger(self) -> Iterator[Ledger]:
        ledger = open_ledger(self.dir)
        try:
            yield ledger
        finally:
            ledger.close()

    def _repr_html_(self) -> str:
        return self.plan()._repr_html_()


def _toml(value: object) -> str:
    """A value as a study file writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)
