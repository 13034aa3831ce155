"""Run a study in its own folder, from the checks to the summary; the command line and Python both call this."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from peftport.core.places import check_place
from peftport.store.ledger import Ledger, only_driver
from peftport.study import executors
from peftport.study.about import cut_texts, record_machine
from peftport.study.check_hosts import check_hosts
from peftport.study.commands import RunRequest
from peftport.study.gated_run import Driving, run_gated
from peftport.study.kinds import check_kinds, kinds_of
from peftport.study.opened import OpenedStudy
from peftport.study.resuming import check_inputs
from peftport.study.run import Limits, Summary
from peftport.study.shards import FACT as SHARDS
from peftport.study.taking import take_results
from peftport.study.tracked import Tracked, tracking
from peftport.tracking import make_trackers


class Executed(NamedTuple):
    """What one call did.

    Attributes:
        summary: the numbers of jobs.
        tracked: what was sent to trackers.
        cuts: what was cut off texts, a sentence for each host and task.
        taken: what was taken from the tables of ``--results``, a line a folder.
        failing: the gates that do not hold, a line each, where the study went on in spite of them.

    """

    summary: Summary
    tracked: Tracked
    cuts: tuple[str, ...]
    taken: tuple[str, ...]
    failing: tuple[str, ...]


def execute(opened: OpenedStudy, request: RunRequest) -> Executed:
    """Run what is not done yet. Whatever can be refused is refused before anything is written.

    Raises:
        BadRequest: the study's folder is a file, a host cannot be had, another process runs this study, or Ray or a
            tracker is not installed; no one metric judges the study's tasks; a host, a task or a library is not what
            the jobs on record, or those of ``results``, ran on; or a gate of the study does not hold, and the rest was
            not run.

    """
    plan, place = opened.plan, opened.dir
    trackers = make_trackers(tuple(request.track))
    check_place(place, "folder", "--dir")
    if request.executor == "processes":  # on a cluster, the machines find the hosts themselves
        check_hosts(plan)
    check_kinds(plan.study, kinds_of(plan, here=request.executor == "processes"))
    executor = partial(executors.make_executor, request.executor, request.workers, request.threads, plan.study.loading)
    ready = [executor()]  # refused here, if at all

    def fresh() -> executors.Executor:
        return ready.pop() if ready else executor()

    limits = Limits(request.max_jobs, request.stop_after_seconds)
    with only_driver(place):
        ledger = Ledger(place)
        try:
            ledger.check()
            check_inputs(plan, ledger, accept_versions=request.accept_versions, here=request.executor == "processes")
            taken = take_results(plan, ledger, opened.artifacts, request)
            ledger.set_fact("study", plan.study.model_dump(mode="json"))
            if opened.shard and not plan.only:
                ledger.set_fact(SHARDS, sorted({*(ledger.fact(SHARDS) or []), str(opened.shard)}))
            record_machine(ledger, plan.study.loading)
            with tracking(trackers, plan, ledger, request.warn or _nobody) as tracked:
                again = request.retry_failed
                driving = Driving(ledger, opened.artifacts, fresh, limits, again, request.progress, tracked.recorded)
                summary, failing = run_gated(plan, driving, go_on=request.gates == "report")
            cuts = cut_texts(plan, ledger)
        finally:
            ledger.close()
    return Executed(summary, tracked, cuts, taken, failing)


def _nobody(text: str) -> None:
    """Ignore the message of a tracker that fails; ``Tracked.troubles`` has it."""
