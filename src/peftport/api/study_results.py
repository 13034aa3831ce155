"""What the study commands return, in Python and on the command line."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftport.api.result import Result
from peftport.core.libraries import pl
from peftport.core.progress import duration
from peftport.metrics import metric_named
from peftport.report.table import Table
from peftport.study.commands import ExportRequest, VerifyRequest
from peftport.study.gates import GateResult, gate_table
from peftport.study.kinds import kinds_text
from peftport.study.repair import Repairs
from peftport.study.run import Summary
from peftport.study.shards import Division
from peftport.study.status import FailedJob, PlannedWork, StudyStatus

if TYPE_CHECKING:
    from peftport.metrics.choice import StudyMetric
    from peftport.report.findings import Findings
    from peftport.report.study_report import StudyReport
    from peftport.study.export import Exported
    from peftport.study.verify import Verified


@dataclass(frozen=True, eq=False, repr=False)
class Planned(Result):
    """The size of a study: its runs, unique jobs, the training steps that sharing saves, and what it costs here."""

    outcome: PlannedWork

    def __str__(self) -> str:
        s = self.outcome.sharing
        return (
            f"{self.outcome.study}: {s.runs} runs, {s.jobs} jobs, {s.steps_needed:,} of {s.steps_asked:,} training "
            "steps needed"
        )

    def lines(self) -> list[str]:
        """Return the counts, the tasks with their kinds, and the estimate if it was asked for."""
        s, cost = self.outcome.sharing, self.outcome.estimate
        saved = 1 - s.steps_needed / s.steps_asked if s.steps_asked else 0.0
        controls = f"{s.control_runs} of controls (shuffled labels, further samplers), " if s.control_runs else ""
        baseline = "scratch, ceiling, bare" + (", home" if self.outcome.tells_homes else "")
        lines = [
            f"{self.outcome.study}: {s.runs} runs, {controls}and {s.baseline_runs} of the baseline ({baseline})",
            f"{s.jobs} jobs in {s.stacks} stacks",
            f"tasks: {kinds_text(self.outcome.kinds)}",
            f"{s.steps_asked:,} training steps asked, {s.steps_needed:,} needed: sharing saves {saved:.0%}",
        ]
        if self.outcome.division is not None:
            lines.append(_divided(self.outcome.division))
        if cost is not None:
            lines.append(f"about {duration(cost.seconds)} here, {cost.disk_bytes / 1e6:,.0f} MB on disk")
            if cost.unknown:
                lines.append(f"not counted, since they are not on this machine: {', '.join(cost.unknown)}")
        return lines

    def to_polars(self) -> pl.DataFrame:
        """Return one row of counts."""
        return pl.DataFrame([{"study": self.outcome.study, **asdict(self.outcome.sharing)}])

    def document(self) -> dict[str, Any]:
        """Return the counts, the jobs by kind, the kinds of the tasks, and the estimate if it was asked for."""
        counts = {"study": self.outcome.study, **asdict(self.outcome.sharing)}
        counts["jobs_by_kind"] = dict(self.outcome.jobs_by_kind)
        counts["kinds"] = dict(self.outcome.kinds)
        division = self.outcome.division
        if division is not None:
            counts["shards"] = {
                "count": len(division.costs), "with_runs": sum(map(bool, division.runs)),
                "longest": division.longest, "repeated": division.repeated,
            }  # fmt: skip
        return counts if self.outcome.estimate is None else counts | {"estimate": asdict(self.outcome.estimate)}


def _divided(division: Division) -> str:
    """Say how evenly a study divides, and what that costs."""
    count, used = len(division.costs), sum(map(bool, division.runs))
    few = f" (only {used} of them have runs)" if used < count else ""
    again = f"what several need is done in each, {division.repeated:.0%} more work in all"
    even = f"the longest has {division.longest:.0%} of the study's work (1/{count}: {1 / count:.0%})"
    return f"{count} shards{few}: {even}; {again if division.repeated else 'nothing is done twice'}"


@dataclass(frozen=True, eq=False, repr=False)
class Ran(Result):
    """What one call of ``run`` did; ``summary.left`` jobs are not on record yet.

    ``tracked`` has, for each tracker, the number of runs that were sent and of runs that it had already; ``troubles``
    says which trackers failed and how; ``cuts`` what was cut off the texts of which task on which host; ``told`` how
    the study file was read, where it left something open.
    """

    study: str
    file: Path
    dir: Path
    summary: Summary
    tracked: dict[str, dict[str, int]]
    troubles: tuple[str, ...]
    cuts: tuple[str, ...] = ()
    told: tuple[str, ...] = ()

    def __str__(self) -> str:
        s = self.summary
        return (
            f"{self.study}: {s.done} jobs done, {s.failed} failed, {s.blocked} blocked, {s.before} were on record, "
            f"{s.left} left ({duration(s.seconds)})"
        )

    def lines(self) -> list[str]:
        """Return the counts, what had to be done again, and what was sent to trackers."""
        again = len(self.summary.recomputed)
        lost = [f"{again} jobs were done again: their artifacts were missing, corrupt or only tables"] if again else []
        sent = [f"{t}: {n['sent']} runs sent, {n['already_there']} were there already" for t, n in self.tracked.items()]
        return [str(self), *lost, *sent]

    def remarks(self) -> list[str]:
        """Return how the study was read, and what was cut off texts, a line for each host and task."""
        return [*self.told, *self.cuts]

    def failure(self) -> str | None:
        """Return how many jobs failed, now or before, and what to do."""
        s = self.summary
        if not (s.failed or s.blocked or s.failed_before):
            return None
        earlier = f", {s.failed_before} were so before" if s.failed_before else ""
        return (
            f"{s.failed} jobs failed, {s.blocked} could not begin{earlier}; see peftport study status {self.file}, "
            "then run again with --retry-failed"
        )

    def to_polars(self) -> pl.DataFrame:
        """Return one row of counts."""
        counts = {key: value for key, value in asdict(self.summary).items() if key != "recomputed"}
        return pl.DataFrame([{"study": self.study, **counts}])

    def document(self) -> dict[str, Any]:
        """Return the counts, which jobs were done again, what was sent to trackers, and which of them failed."""
        counts = {"study": self.study, "dir": str(self.dir), **asdict(self.summary)}
        return {**counts, "tracked": self.tracked, "troubles": list(self.troubles)}


@dataclass(frozen=True, eq=False, repr=False)
class Status(Result):
    """The progress of a study: jobs by state, and those that failed."""

    outcome: StudyStatus

    @property
    def counts(self) -> dict[str, int]:
        """The number of jobs by state: done, failed, blocked, left."""
        return dict(self.outcome.counts)

    @property
    def failures(self) -> tuple[FailedJob, ...]:
        """The jobs that failed, each with the first line of its error."""
        return self.outcome.failures

    def __str__(self) -> str:
        return f"{self.outcome.study}: {', '.join(f'{n} {state}' for state, n in self.counts.items())}"

    def tables(self) -> list[Table]:
        """Return the number of jobs by state."""
        rows = tuple((state, str(count)) for state, count in self.counts.items())
        return [Table(f"{self.outcome.study}: {self.outcome.jobs} jobs", ("state", "jobs"), rows)]

    def lines(self) -> list[str]:
        """Return a line for each job that failed."""
        return [f"{each.job[:12]} ({each.kind}, {each.attempts} attempts): {each.error}" for each in self.failures]

    def to_polars(self) -> pl.DataFrame:
        """Return one row for each state."""
        return pl.DataFrame({"state": list(self.counts), "jobs": list(self.counts.values())})

    def document(self) -> dict[str, Any]:
        """Return the jobs by state, and those that failed."""
        failures = [asdict(each) for each in self.failures]
        return {"study": self.outcome.study, "jobs": self.outcome.jobs, **self.counts, "failures": failures}


@dataclass(frozen=True, eq=False, repr=False)
class Gated(Result):
    """What a study's gates came to, in a row for each gate and metric."""

    study: str
    outcome: tuple[GateResult, ...]

    @property
    def failing(self) -> tuple[GateResult, ...]:
        """Those that do not hold, or of which it is not known."""
        return tuple(each for each in self.outcome if each.stops)

    def __str__(self) -> str:
        held = sum(each.needed is not None for each in self.outcome)
        if not held:
            return f"{self.study}: the study file has no [gates]"
        return f"{self.study}: {held - len(self.failing)} of {held} conditions hold"

    def tables(self) -> list[Table]:
        """Return the estimates with their intervals, and whether what is needed holds."""
        rows = tuple(_gate_row(each) for each in self.outcome)
        columns = ("gate", "of", "metric", "score", "bare origin", "difference [95 %]", "needed", "holds")
        return [Table(f"{self.study}: gates, on validation items", columns, rows)] if rows else []

    def lines(self) -> list[str]:
        """Return how many conditions hold, and a line for each that does not."""
        return [str(self), *(each.line for each in self.failing)]

    def to_polars(self) -> pl.DataFrame:
        """Return one row for each gate and metric."""
        return gate_table(self.outcome)

    def document(self) -> dict[str, Any]:
        """Return every gate in every metric."""
        return {"study": self.study, "gates": [each.model_dump(mode="json") for each in self.outcome]}


def _gate_row(gate: GateResult) -> tuple[str, ...]:
    scores = ("" if value is None else f"{value:.3f}" for value in (gate.score, gate.beside))
    holds = {True: "yes", False: "no", None: gate.note}[gate.passed]
    needed = "" if gate.needed is None else f"{'>' if gate.gate == 'lift' else '<='} {gate.needed:g}"
    return gate.gate, gate.who, metric_named(gate.metric).title, *scores, gate.figures, needed, holds


@dataclass(frozen=True, eq=False, repr=False)
class Exports(Result):
    """The exported tables: ``runs`` has one row for each run, ``correct`` its correctness item by item."""

    request: ExportRequest
    outcome: Exported
    files: tuple[Path, ...]

    @property
    def runs(self) -> pl.DataFrame:
        """The table of runs."""
        return self.outcome.runs

    @property
    def correct(self) -> pl.DataFrame:
        """The table of what each run got right."""
        return self.outcome.correct

    @property
    def states(self) -> dict[str, int]:
        """The number of runs by state."""
        return dict(Counter(self.runs["state"].to_list()))

    def __str__(self) -> str:
        to = f" to {self.request.out}" if self.files else ""
        return f"{self.runs.height} runs ({', '.join(f'{n} {s}' for s, n in self.states.items())}){to}"

    def to_polars(self) -> pl.DataFrame:
        """Return the table of runs."""
        return self.runs

    def document(self) -> dict[str, Any]:
        """Return the number of runs, in all and by state, and the files that were written."""
        return {"runs": self.runs.height, "states": self.states, "files": [str(path) for path in self.files]}


@dataclass(frozen=True, eq=False, repr=False)
class Verification(Result):
    """Recomputed runs beside the recorded ones."""

    request: VerifyRequest
    outcome: tuple[Verified, ...]

    @property
    def wrong(self) -> list[Verified]:
        """The runs that differ by more than the tolerance allows."""
        return [each for each in self.outcome if each.differs(self.request.tolerance)]

    def __str__(self) -> str:
        return f"{len(self.outcome)} runs recomputed, {len(self.wrong)} differ from those in {self.request.results}"

    def tables(self) -> list[Table]:
        """Return a row for each recomputed run."""
        rows = tuple(
            (v.run, _apart(v), str(v.items_that_differ), ", ".join(v.columns_that_differ)) for v in self.outcome
        )
        columns = ("run", "accuracy differs by", "items that differ", "columns that differ")
        return [Table("Recomputed runs", columns, rows)]

    def lines(self) -> list[str]:
        """Return nothing: the table says it."""
        return []

    def failure(self) -> str | None:
        """Return how many runs differ, and how the first does."""
        if not self.wrong:
            return None
        first = self.wrong[0]
        how = f"in {', '.join(first.columns_that_differ) or 'no column'} and on {first.items_that_differ} items"
        return (
            f"{len(self.wrong)} of {len(self.outcome)} recomputed runs differ from those in {self.request.results}, "
            f"first: {first.run!r}, {how}; on another processor a few items may (--tolerance)"
        )

    def to_polars(self) -> pl.DataFrame:
        """Return a row for each recomputed run."""
        return pl.DataFrame([asdict(each) for each in self.outcome])

    def document(self) -> dict[str, Any]:
        """Return what differs, run by run."""
        return {"runs": [asdict(each) for each in self.outcome], "tolerance": self.request.tolerance}


def _apart(run: Verified) -> str:
    return "" if run.accuracy_difference is None else f"{run.accuracy_difference:.4f}"


@dataclass(frozen=True, eq=False, repr=False)
class Reported(Result):
    """What came out of a study: its findings, the metric it is judged by, and the files that were written."""

    outcome: StudyReport

    @property
    def findings(self) -> Findings:
        """The measures, verdicts and headlines; each table is a polars frame."""
        return self.outcome.findings

    @property
    def judged(self) -> StudyMetric:
        """The metric, and the shares of the most frequent classes."""
        return self.outcome.judged

    @property
    def files(self) -> tuple[Path, ...]:
        """The page, figures and tables that were written."""
        return self.outcome.files

    def __str__(self) -> str:
        return " ".join(self.findings.headlines) or f"{self.findings.study}: nothing to compare yet"

    def tables(self) -> list[Table]:
        """Return the pooled gains, unless files were written."""
        from peftport.report.studied import headline_table

        return [] if self.files else [headline_table(self.findings)]

    def lines(self) -> list[str]:
        """Return what came out, and where the files are."""
        return [*self.findings.headlines, *(f"written: {path}" for path in self.files)]

    def remarks(self) -> list[str]:
        """Return why the study is not judged by accuracy, where nobody asked for another metric."""
        return [self.judged.note] if self.judged.note else []

    def to_polars(self) -> pl.DataFrame:
        """Return the verdicts, a row for each."""
        return self.findings.verdicts

    def document(self) -> dict[str, Any]:
        """Return the headlines, the metric, the files, and the tables of gains, verdicts and regret."""
        findings = self.findings
        return {
            "study": findings.study, "headlines": list(findings.headlines), "files": [str(path) for path in self.files],
            "metric": asdict(self.judged), "pooled": findings.pooled.to_dicts(),
            "aggregates": findings.aggregates.to_dicts(), "verdicts": findings.verdicts.to_dicts(),
            "regret": findings.regret.to_dicts(),
        }  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Repaired(Result):
    """The numbers of jobs that a repair kept, restored and gave up."""

    study: str
    repairs: Repairs

    def __str__(self) -> str:
        return f"{self.study}: {self.repairs}"

    def to_polars(self) -> pl.DataFrame:
        """Return one row of counts."""
        return pl.DataFrame([{"study": self.study, **asdict(self.repairs)}])

    def document(self) -> dict[str, Any]:
        """Return the counts, and the name under which the damaged file is kept."""
        return {"study": self.study, **asdict(self.repairs)}
