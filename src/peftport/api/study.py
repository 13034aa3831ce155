"""Studies in Python: plan, run, resume and read them, with the words of ``peftport study``.

Workers are processes that import the calling script, so it must call ``run`` under ``if __name__ == "__main__":``.
`peftport.study.commands` defines the keywords.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peftport.api.joined_result import Joined
from peftport.api.study_results import Exports, Gated, Planned, Ran, Repaired, Reported, Status, Verification
from peftport.core.request import method_takes, takes
from peftport.study.commands import (
    ExportRequest,
    GatesRequest,
    JoinRequest,
    PlanRequest,
    RepairRequest,
    ReportRequest,
    RunRequest,
    StatusRequest,
    StudyRequest,
    VerifyRequest,
    WatchRequest,
)
from peftport.study.opened import OpenedStudy, open_study
from peftport.study.repair import repair
from peftport.study.status import plan_study, study_status

if TYPE_CHECKING:
    from peftport.report.findings import Findings


@dataclass(frozen=True, eq=False)
class Study:
    """A declared study and the folder of its ledger and artifacts."""

    opened: OpenedStudy

    @staticmethod
    @takes(StudyRequest)
    def from_file(request: StudyRequest) -> Study:
        """Return the study, of which nothing is run yet.

        Raises:
            BadRequest: no such file, an unknown key, a value that makes no sense, or no run left.

        """
        return Study(open_study(request))

    @property
    def name(self) -> str:
        """The name in the study file."""
        return self.opened.name

    @property
    def file(self) -> Path:
        """The path of the study file."""
        return self.opened.file

    @property
    def dir(self) -> Path:
        """The folder of the ledger and the artifacts."""
        return self.opened.dir

    @method_takes(PlanRequest)
    def plan(self, request: PlanRequest) -> Planned:
        """Return the counts. Nothing is run but, if ``calibrate`` is set, a few steps."""
        return Planned(plan_study(self.opened, request))

    @method_takes(RunRequest)
    def run(self, request: RunRequest) -> Ran:
        """Return the counts. Jobs that fail are counted, not raised.

        Raises:
            BadRequest: a host cannot be had, another process runs this study, Ray or a tracker is not installed, a
                host, a task or a library is not what the jobs on record ran on, or a gate of the study does not hold.

        """
        from peftport.study.execute import execute  # this and the like are slow to import: each is, where it is used

        done = execute(self.opened, request)
        tracked = done.tracked
        return Ran(
            self.name, self.file, self.dir, done.summary, tracked.counts, tracked.troubles, done.cuts,
            (*self.opened.remarks, *done.taken, *done.failing),
        )  # fmt: skip

    @method_takes(StatusRequest)
    def status(self, request: StatusRequest) -> Status:
        """Return the jobs by state, and those that failed.

        Raises:
            BadRequest: nothing was run yet, or the ledger is damaged.

        """
        return Status(study_status(self.opened, request))

    @method_takes(GatesRequest)
    def gates(self, request: GatesRequest) -> Gated:
        """Return what the gates came to; those whose jobs are not done say so.

        Raises:
            BadRequest: nothing was run yet.
            PeftportError: an artifact is missing or corrupt.

        """
        from peftport.study.gate_results import study_gates  # imported here because statistics are slow to import

        return Gated(self.name, study_gates(self.opened))

    @method_takes(WatchRequest)
    def watch(self, request: WatchRequest) -> Reported:
        """Return what came out, once nothing is left.

        Raises:
            BadRequest: nothing was run yet.

        """
        from peftport.report.study_report import watch_study

        return Reported(watch_study(self.opened, request))

    @method_takes(ExportRequest)
    def export(self, request: ExportRequest) -> Exports:
        """Return the tables of runs; files are written only if ``out`` is given.

        Raises:
            BadRequest: nothing was run yet, the ledger is damaged, or an option is not what is expected.
            PeftportError: an artifact is missing or corrupt.

        """
        from peftport.study.export import export_study

        return Exports(request, *export_study(self.opened, request))

    @method_takes(VerifyRequest)
    def verify(self, request: VerifyRequest) -> Verification:
        """Return what differs, run by run.

        Raises:
            BadRequest: there are fewer recorded runs than are to be recomputed, or no tables.
            PeftportError: the tables were altered after the export.

        """
        from peftport.study.verify import verify_study

        return Verification(request, tuple(verify_study(self.opened, request)))

    @method_takes(ReportRequest)
    def report(self, request: ReportRequest) -> Reported:
        """Return the findings; files are written only where asked for.

        Raises:
            BadRequest: nothing was run yet, the ledger is damaged, there are no tables, or the metric is unknown.
            PeftportError: an artifact is missing or corrupt, or tables were altered.

        """
        from peftport.report.study_report import report_study

        return Reported(report_study(self.opened, request))

    @method_takes(RepairRequest)
    def repair(self, request: RepairRequest) -> Repaired:
        """Return what was kept, restored and given up; ``run`` does the rest again.

        Raises:
            BadRequest: there is neither a ledger nor an artifact, or another process runs this study.

        """
        return Repaired(self.name, repair(self.opened.plan, self.dir))

    @staticmethod
    @takes(JoinRequest)
    def merge(request: JoinRequest) -> Joined:
        """Return what was joined, and what is missing.

        Raises:
            BadRequest: a folder is no part of a study, or was altered; parts are of different studies, ran on different
                inputs, or have different results of the same job; or ``out`` is in use.

        """
        from peftport.study.joining import join_studies

        return Joined(join_studies(request))

    def findings(self) -> Findings:
        """Return the measures, verdicts and headlines that the report shows; each table is a polars frame."""
        return self.report().findings

    def _repr_html_(self) -> str:
        return self.plan()._repr_html_()
