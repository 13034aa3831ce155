"""Run a study in its own folder, from the checks to the summary; the command line and Python both call this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from peftport.core.errors import BadRequest
from peftport.core.progress import Progress
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import Ledger, only_driver
from peftport.study import executors
from peftport.study.about import record_machine
from peftport.study.check_hosts import check_hosts
from peftport.study.plan import Plan
from peftport.study.resuming import check_inputs
from peftport.study.run import Limits, Summary, run_study
from peftport.study.tracked import Tracked, tracking
from peftport.tracking import make_trackers


@dataclass(frozen=True)
class RunOptions:
    """How a study is run: the executor's name, the workers (None: cores / threads), threads of each, trackers."""

    executor: str = "processes"
    workers: int | None = None
    threads: int = 1
    track: Sequence[str] = ()


def execute(
    plan: Plan,
    place: Path,
    options: RunOptions,
    *,
    limits: Limits,
    retry_failed: bool = False,
    accept_versions: bool = False,
    warn: Callable[[str], None] = lambda text: None,
    progress: Progress | None = None,
) -> tuple[Summary, Tracked]:
    """Run what is not done yet. Whatever can be refused is refused before anything is written.

    ``accept_versions`` continues even if libraries differ from those that the jobs on record ran with; then both
    versions are on record. ``warn`` is called with a message when a tracker fails.

    Raises:
        BadRequest: ``place`` is a file, a host cannot be had, another process runs this study, or Ray or a tracker is
            not installed; or a host, a task or a library is not what the jobs on record ran on.

    """
    trackers = make_trackers(options.track)
    if place.exists() and not place.is_dir():
        raise BadRequest(f"--dir {place}: expected a folder, got a file; choose another")
    if options.executor == "processes":  # on a cluster, the machines find the hosts themselves
        check_hosts(plan)
    artifacts = Artifacts(place / "artifacts")
    executor = executors.make_executor(options.executor, options.workers, options.threads, plan.study.loading)
    with only_driver(place), closing(Ledger(place)) as ledger:
        ledger.check()
        check_inputs(plan, ledger, accept_versions=accept_versions, here=options.executor == "processes")
        ledger.set_fact("study", plan.study.model_dump(mode="json"))
        record_machine(ledger)
        with tracking(trackers, plan, ledger, warn) as tracked:
            found = run_study(
                plan, ledger, artifacts, executor, limits=limits, retry_failed=retry_failed, progress=progress,
                recorded=tracked.recorded,
            )  # fmt: skip
    return found, tracked
