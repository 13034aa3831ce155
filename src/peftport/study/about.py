"""What a reader of a study's tables must know besides them: how it was run, on what, and from which hosts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from peftport.modules.module import Closed
from peftport.provenance import installed_versions, this_machine
from peftport.store.ledger import Ledger
from peftport.study.grid import Study
from peftport.study.plan import Plan

FILE = "study.json"


class About(Closed):
    """``study.json`` beside exported tables. ``hosts``: each host's weights (sha256) or, if made, how far it moved."""

    study: Study
    command: str
    sharing: dict[str, int]
    versions: dict[str, str]
    machine: dict[str, str]
    hosts: dict[str, str]
    updates: dict[str, dict[str, Any]] = {}
    failures: int
    worker_seconds: float  # all jobs' seconds, one worker each


def about(plan: Plan, ledger: Ledger, command: str) -> About:
    """Gather it from the plan and the ledger; versions and machine are those that the run recorded."""
    inputs: dict[str, str] = ledger.fact("inputs") or {}
    ran: dict[str, dict[str, str]] = ledger.fact("ran") or {}
    hosts = {key.removeprefix("host "): value[:16] for key, value in inputs.items() if key.startswith("host ")}
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
        versions=ran.get("versions", {}),
        machine=ran.get("machine", {}),
        hosts=dict(sorted(hosts.items())),
        updates=updates,
        failures=len(ledger.failures()),
        worker_seconds=round(seconds, 1),
    )


def record_machine(ledger: Ledger) -> None:
    """Note the versions and the machine of this run in the ledger."""
    ledger.set_fact("ran", {"versions": installed_versions(), "machine": this_machine()})
