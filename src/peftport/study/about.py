"""What a reader of a study's tables must know besides them: how it was run, on what, and from which hosts."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from peftport.core.environment import installed_versions, this_machine
from peftport.core.hashing import canonical_json
from peftport.modules.module import Closed
from peftport.store.ledger import Ledger
from peftport.study.grid import StudySpec
from peftport.study.inputs import VERSIONS
from peftport.study.plan import Plan
from peftport.study.resuming import inputs_on_record

FILE = "study.json"


class MadeBy(Closed):
    """Versions of libraries, and the jobs that they made. ``ids``: those jobs, where others were made by others."""

    versions: dict[str, str]
    jobs: int
    ids: tuple[str, ...] = ()


class About(Closed):
    """``study.json`` beside exported tables.

    Attributes:
        versions: by library; where jobs were made by several, all of them.
        made_by: which versions made which jobs.
        machine: the one of the last call.
        hosts: each host's weights (sha256).
        updates: how far hosts that the study made moved.
        worker_seconds: all jobs' seconds, one worker each.
        tables: sha256 of the tables' files beside this one, by name.

    """

    study: StudySpec
    command: str
    sharing: dict[str, int]
    versions: dict[str, str]
    made_by: tuple[MadeBy, ...] = ()
    machine: dict[str, str]
    hosts: dict[str, str]
    updates: dict[str, dict[str, Any]] = {}
    failures: int
    worker_seconds: float
    tables: dict[str, str] = {}


def about(plan: Plan, ledger: Ledger, command: str) -> About:
    """Gather it from the plan and the ledger; versions are those that jobs ran with, as their rows have them."""
    ran: dict[str, dict[str, str]] = ledger.fact("ran") or {}
    made = made_by(plan, ledger)
    hosts = {
        key.removeprefix("host "): value["weights"][:16]
        for key, value in inputs_on_record(plan, ledger).items()
        if key.startswith("host ")
    }
    updates: dict[str, dict[str, Any]] = {}
    seconds = 0.0
    for row in ledger.rows():
        if row.id in plan.jobs:
            seconds += row.seconds
            if row.kind == "update" and row.metrics:
                updates[row.metrics["host"]] = row.metrics["update"]["distance"]
    return About(
        study=plan.study,
        command=command,
        sharing=asdict(plan.sharing),
        versions=_together([each.versions for each in made]) or ran.get("versions", {}),
        made_by=made,
        machine=ran.get("machine", {}),
        hosts=dict(sorted(hosts.items())),
        updates=updates,
        failures=len(ledger.failures()),
        worker_seconds=round(seconds, 1),
    )


def made_by(plan: Plan, ledger: Ledger) -> tuple[MadeBy, ...]:
    """Which versions made which of the plan's jobs, most jobs first; the jobs of all but the first are named."""
    sets = ledger.inputs()
    groups: dict[str, list[str]] = {}
    for job, key in ledger.inputs_of_done():
        if key is not None and job in plan.jobs:
            groups.setdefault(canonical_json(sets[key].get(VERSIONS, {})), []).append(job)
    first, *rest = sorted(groups.items(), key=lambda group: -len(group[1])) or [("", [])]
    named = [MadeBy(versions=json.loads(text), jobs=len(jobs), ids=tuple(jobs)) for text, jobs in rest]
    return (MadeBy(versions=json.loads(first[0]), jobs=len(first[1])), *named) if first[0] else ()


def _together(versions: list[dict[str, str]]) -> dict[str, str]:
    names = dict.fromkeys(name for each in versions for name in each)
    return {name: " and ".join(dict.fromkeys(each[name] for each in versions if name in each)) for name in names}


def record_machine(ledger: Ledger) -> None:
    """Note the versions and the machine of this run in the ledger."""
    ledger.set_fact("ran", {"versions": installed_versions(), "machine": this_machine()})
