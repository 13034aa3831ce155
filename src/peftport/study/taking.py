"""Take the exported tables of earlier runs as done, and decide which of their jobs must be done again all the same."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from peftport.core.errors import BadRequest
from peftport.store.artifacts import Artifacts
from peftport.store.held import HeldFolder
from peftport.store.ledger import ARTIFACTS, Ledger
from peftport.study.commands import RunRequest
from peftport.study.disagreement import disagreement_of
from peftport.study.inputs import other_input
from peftport.study.plan import Plan
from peftport.study.resuming import check_inputs, inputs_on_record
from peftport.study.table_rows import TABLE, take


@dataclass(frozen=True, eq=False)
class _Given:
    """Tables as users named their folder, and the rows and artifacts that were made of them."""

    folder: Path
    ledger: Ledger
    artifacts: Artifacts


def take_results(plan: Plan, ledger: Ledger, artifacts: Artifacts, request: RunRequest) -> tuple[str, ...]:
    """Record the jobs of a plan that the tables of ``request.results`` hold as done. Returns a line for each folder.

    What is on record stays. Nothing is recorded if anything is wrong with one of the folders.

    Raises:
        BadRequest: a folder has no tables, they were altered, have no run of the plan, or ran on other hosts, tasks or
            libraries; or two folders have different results of the same job.

    """
    with ExitStack() as opened:
        given = [_open(plan, ledger, Path(folder), request, opened) for folder in request.results]
        for place, each in enumerate(given):
            for earlier in given[:place]:
                _hold(each, earlier)
        return tuple(_record(each, ledger, artifacts) for each in given)


def _open(plan: Plan, ledger: Ledger, folder: Path, request: RunRequest, opened: ExitStack) -> _Given:
    home = Path(opened.enter_context(HeldFolder("results")))
    take(folder, home, plan)
    given = _Given(folder, opened.enter_context(closing(Ledger(home, reading=True))), Artifacts(home / ARTIFACTS))
    if not given.ledger.states():
        raise BadRequest(
            f"--results {folder}: expected runs of this study that are done, found none of its jobs; check the folder, "
            "and --set, which changes jobs"
        )
    here = request.executor == "processes"
    check_inputs(plan, given.ledger, accept_versions=request.accept_versions, here=here, where=folder)
    known = inputs_on_record(plan, ledger)
    for key, value in inputs_on_record(plan, given.ledger).items():
        if differs := other_input(key, known.get(key, value), value):
            raise BadRequest(f"--results {folder}: expected what {ledger.folder} ran on, got another {differs} here")
    return given


def _hold(given: _Given, earlier: _Given) -> None:
    """Refuse two folders that disagree."""
    for row in given.ledger.rows():
        other = earlier.ledger.row(row.id)
        differs = other and disagreement_of(other, earlier.artifacts, row, given.artifacts)
        if differs:
            raise BadRequest(
                f"--results {given.folder}: expected the results that {earlier.folder} has of the same jobs, job "
                f"{row.id[:12]} differs in {differs.name}: {differs.one} there, {differs.other} here; give one of them"
            )


def _record(given: _Given, ledger: Ledger, artifacts: Artifacts) -> str:
    """Record what is not on record as done; say how much, and what is on record with other numbers."""
    states, rows, apart = ledger.states(), [], []
    for row in given.ledger.rows():
        if states.get(row.id) != "done":
            rows.append(row)
        elif (known := ledger.row(row.id)) and disagreement_of(known, artifacts, row, given.artifacts):
            apart.append(row.id)
    for sha256 in dict.fromkeys(row.artifact for row in rows if row.artifact):
        artifacts.put(given.artifacts.path(sha256).read_bytes())
    inputs = given.ledger.inputs()
    ledger.record(rows, (), {row.inputs: inputs[row.inputs] for row in rows if row.inputs})
    other = f"; {len(apart)} jobs on record, first {apart[0][:12]}, have other numbers, which stay" if apart else ""
    return f"{given.folder}: {len(rows)} jobs taken as done{other}"


def to_do_again(plan: Plan, ledger: Ledger) -> list[str]:
    """List taken jobs to do after all: jobs to be done need their matrices, or a run of the plan a test of theirs."""
    taken = set(ledger.jobs_with(TABLE))
    if not taken:
        return []
    recorded = ledger.states().keys()
    again = {job for run in plan.runs() if (job := plan.job_of(run)) in taken and not _is_tested(ledger, job)}
    todo = [job for job in plan.jobs.values() if job.id not in recorded or job.id in again]
    while todo:
        for need in todo.pop().needs:
            if need in taken and need not in again:
                again.add(need)
                todo.append(plan.jobs[need])
    return sorted(again)


def _is_tested(ledger: Ledger, job: str) -> bool:
    row = ledger.row(job)
    return row is not None and row.metrics is not None and "tests" in row.metrics
