"""Decide whether a study can be resumed: its present inputs must be those that its jobs on record ran on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peftport.core.errors import BadRequest
from peftport.hosts.sources import find_host
from peftport.store.ledger import Ledger
from peftport.study.inputs import REMEDY, VERSIONS, difference, host_in, open_task, version_differences, versions_for
from peftport.study.jobs import BareJob, TrainJob
from peftport.study.plan import Plan


def inputs_on_record(plan: Plan, ledger: Ledger) -> dict[str, Any]:
    """Return the hosts and tasks that the plan's jobs on record ran on, by name, without versions."""
    known: dict[str, Any] = {}
    for inputs in _sets(plan, ledger):
        for key, value in inputs.items():
            if key != VERSIONS:
                known.setdefault(key, value)
    return known


def versions_on_record(plan: Plan, ledger: Ledger) -> list[dict[str, str]]:
    """Return the sets of library versions that the plan's jobs on record ran with."""
    recorded: list[dict[str, str]] = []
    for inputs in _sets(plan, ledger):
        if inputs.get(VERSIONS) and inputs[VERSIONS] not in recorded:
            recorded.append(inputs[VERSIONS])
    return recorded


def check_inputs(plan: Plan, ledger: Ledger, *, accept_versions: bool, here: bool, where: Path | None = None) -> None:
    """Compare hosts, tasks and libraries with those of the jobs on record.

    ``here`` says whether this machine has the hosts and tasks; on a cluster only the workers have them. ``where`` is
    the folder that messages name, if it is not the ledger's.

    Raises:
        BadRequest: an input has changed; the message says which, what it was and is, and what to do.

    """
    now, where = versions_for(plan.study.loading), where or ledger.folder
    other = [] if accept_versions else version_differences(versions_on_record(plan, ledger), now)
    if other:
        raise BadRequest(
            f"{where}: expected the libraries that this study was begun with: {', '.join(other)}; install "
            "what they were, give a new --dir, or go on with both on record: --accept-versions"
        )
    for key, was in inputs_on_record(plan, ledger).items() if here else ():
        changed = difference(key, was, _now(plan, key, was))
        if changed:
            raise BadRequest(f"{where}: {changed}; {REMEDY}")


def _now(plan: Plan, key: str, was: Any) -> Any:
    """Return a host or task as it is now. Hosts that the study makes are checked elsewhere, by their artifacts."""
    kind, _, name = key.partition(" ")
    if kind == "task":
        return open_task(name, plan.study.data.get(name)).digest
    return was if name in plan.study.hosts else host_in(find_host(name).folder, find_host(name).name)


def _sets(plan: Plan, ledger: Ledger) -> Iterator[Mapping[str, Any]]:
    """Yield every distinct set of inputs of the plan's jobs that are done."""
    sets, seen, places = ledger.inputs(), set[str](), set[tuple[str, str]]()
    for job, key in ledger.inputs_of_done():
        planned = plan.jobs.get(job)
        if key is not None and key not in seen and planned:
            seen.add(key)
            yield sets[key]
        elif key is None and isinstance(planned, TrainJob | BareJob) and (planned.host, planned.task) not in places:
            places.add((planned.host, planned.task))
            row = ledger.row(job)
            metrics = (row.metrics if row else None) or {}
            old = {f"host {planned.host}": metrics.get("host"), f"task {planned.task}": metrics.get("task")}
            yield {name: value for name, value in old.items() if value} | _versions_before(ledger)


def _versions_before(ledger: Ledger) -> dict[str, Any]:
    """Return the versions that a ledger of version 0 records, which are those of the last call."""
    ran = ledger.fact("ran") or {}
    return {VERSIONS: ran["versions"]} if "versions" in ran else {}
