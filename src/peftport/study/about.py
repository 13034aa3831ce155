"""Describe how exported tables were made: how the study was run, on which machine, and with which hosts."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from peftport.core.environment import installed_versions, this_machine
from peftport.core.hashing import canonical_json
from peftport.hosts.loading import Loading, chosen_device
from peftport.modules.module import Closed
from peftport.store.ledger import Ledger
from peftport.study.devices import accelerators
from peftport.study.gates import GateResult
from peftport.study.grid import StudySpec
from peftport.study.inputs import VERSIONS
from peftport.study.plan import Plan
from peftport.study.resuming import inputs_on_record
from peftport.study.tested import TestedTasks

FILE = "study.json"


class MadeBy(Closed):
    """Versions of libraries, and the number of jobs done with them.

    ``ids`` names these jobs where the other jobs of the study were done with other versions.
    """

    versions: dict[str, str]
    jobs: int
    ids: tuple[str, ...] = ()


class About(Closed):
    """The content of ``study.json``, which lies beside exported tables.

    Attributes:
        versions: the version of each library; where jobs were done with several, all of them.
        made_by: which jobs were done with which versions.
        machine: the machine of the last call.
        hosts: the sha256 of the weights of each host.
        inputs: what the jobs ran on, by name: the fingerprint of each host, the digest of each task; empty in files of
            early versions.
        updates: how far each host that the study made is from its base.
        worker_seconds: the seconds of all jobs, summed over workers.
        cuts: by host and task, what was cut off texts, a sentence each.
        kinds: by task, its kind; empty in files of before there were others than classes.
        usual: by task of another kind than classes, the metric that it is judged by where nobody asks for another.
        majorities: by task, the share of the most frequent class of the test items, which a constant answer scores.
        gates: what the study's gates came to.
        tables: the sha256 of each table's file beside this one, by name.

    """

    study: StudySpec
    command: str
    sharing: dict[str, int]
    versions: dict[str, str]
    made_by: tuple[MadeBy, ...] = ()
    machine: dict[str, str]
    hosts: dict[str, str]
    inputs: dict[str, Any] = {}
    updates: dict[str, dict[str, Any]] = {}
    failures: int
    worker_seconds: float
    cuts: tuple[str, ...] = ()
    kinds: dict[str, str] = {}
    usual: dict[str, str] = {}
    majorities: dict[str, float] = {}
    gates: tuple[GateResult, ...] = ()
    tables: dict[str, str] = {}

    @property
    def tested(self) -> TestedTasks:
        """What the tests say of their tasks."""
        return TestedTasks(self.kinds, self.usual, self.majorities)


def about(
    plan: Plan,
    ledger: Ledger,
    command: str,
    tested: TestedTasks | None = None,
    gates: tuple[GateResult, ...] = (),
) -> About:
    """Describe a study from its plan and ledger. Versions are those that the rows of its jobs record."""
    tested = tested or TestedTasks()
    ran: dict[str, dict[str, str]] = ledger.fact("ran") or {}
    made = made_by(plan, ledger)
    inputs = inputs_on_record(plan, ledger)
    hosts = {
        key.removeprefix("host "): value["weights"][:16] for key, value in inputs.items() if key.startswith("host ")
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
        inputs=dict(sorted(inputs.items())),
        updates=updates,
        failures=len(ledger.failures()),
        worker_seconds=round(seconds, 1),
        cuts=cut_texts(plan, ledger),
        kinds=dict(tested.kinds),
        usual=dict(tested.usual),
        majorities=dict(tested.majorities),
        gates=gates,
    )


def cut_texts(plan: Plan, ledger: Ledger) -> tuple[str, ...]:
    """What was cut off the texts of a task on a host, a sentence each, by the jobs that are done."""
    metrics = [row.metrics for row in ledger.rows() if row.id in plan.jobs and row.metrics]
    read = {str(own["cut"]) for own in metrics if "cut" in own}  # of bare hosts
    compared = {str(cut) for own in metrics for cut in own.get("cut_in_port", ())}
    return (*sorted(read), *sorted(compared))


def made_by(plan: Plan, ledger: Ledger) -> tuple[MadeBy, ...]:
    """List the versions that the plan's jobs were done with, most jobs first; all but the first list their jobs."""
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


def record_machine(ledger: Ledger, loading: Loading) -> None:
    """Write the versions, the machine and the accelerators of this run into the ledger."""
    used = {"accelerator": accelerators()} if chosen_device(loading) != "cpu" else {}
    ledger.set_fact("ran", {"versions": installed_versions(), "machine": {**this_machine(), **used}})
