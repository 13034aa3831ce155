"""What a study's gates came to: estimates with intervals, on validation items, from what its jobs left.

The statistics are those of reports: a lift is the mean difference over seeds and items (`peftport.analysis.measures`),
whose lower bound counts; a closeness is the difference of two bare hosts, which have no seeds, over items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from peftport.analysis.columns import run_columns
from peftport.analysis.measures.declared import Declared
from peftport.analysis.measures.differences import differences
from peftport.analysis.measures.evidence import Evidence
from peftport.core.libraries import pl
from peftport.metrics import metric_named, metrics_of
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import JobRow, Ledger
from peftport.study.gates import Gate, GateResult, LiftGate
from peftport.study.items import CLASSES, StoredItems, kind_of_row
from peftport.study.judged import judged_items, stored_tests
from peftport.study.opened import OpenedStudy
from peftport.study.plan import Plan
from peftport.study.tested import judged_by, tested_tasks

BESIDE = ("accuracy", "auroc")  # of classes both are shown, and a receiver must be close in both
HOME, BARE = "home", "bare"
NOT_RUN = "not run yet"


@dataclass(frozen=True, eq=False)
class _Tests:
    """The jobs that gates go by and that are done: one row each, as in a table of runs."""

    table: pl.DataFrame
    rows: Mapping[str, JobRow]
    stored: StoredItems

    def evidence(self, metric: str) -> Evidence:
        """The tests judged by one metric; hosts that are compared share the draws of a task's items."""
        of_items = judged_items(
            metric, self.table.with_columns(receiver=pl.lit("any")), stored_tests(self.rows, self.stored)
        )
        correct = None
        if metric == "accuracy":
            listed = [(job, self.stored.correct(self.rows[job], 0)) for job in self.table["run"]]
            correct = pl.DataFrame(listed, {"run": pl.String, "correct": pl.List(pl.Boolean)}, orient="row")
        return Evidence.of(
            self.table, correct, Declared(metric=metric), items=of_items.items, draws=of_items.draws,
            tests=of_items.tests,
        )  # fmt: skip


def gate_results(plan: Plan, ledger: Ledger, artifacts: Artifacts) -> tuple[GateResult, ...]:
    """Every gate of a plan in the metrics of its kind of task; those whose jobs are not all done say so in a note.

    Raises:
        PeftportError: an artifact is missing or corrupt.

    """
    wanted = set(plan.gates.jobs)
    found = {row.id: row for row in ledger.rows() if row.id in wanted}
    done = {job: row for job, row in found.items() if row.state == "done"}
    tests = _tests(plan, done, StoredItems(artifacts))
    judged = judged_by(tested_tasks(tests.table, done, tests.stored), plan.study.testing.metric).name if done else ""
    by_metric = {name: tests.evidence(name) for name in _metrics(tests.table, done, judged)}
    results: list[GateResult] = []
    for gate in plan.gates:
        missing = _missing(gate, found)
        if missing:
            metric = judged or plan.study.testing.metric or "accuracy"
            results.append(GateResult(**_named(gate), metric=metric, needed=_needed(plan, gate), note=missing))
            continue
        results += _measured(plan, gate, by_metric, judged, kind_of_row(done[gate.jobs[0]]))
    return tuple(results)


def study_gates(opened: OpenedStudy, ledger: Ledger | None = None) -> tuple[GateResult, ...]:
    """What the gates of a study came to; none where it has none.

    Raises:
        BadRequest: nothing was run yet.
        PeftportError: an artifact is missing or corrupt.

    """
    if ledger is None:
        with opened.ledger() as own:
            return study_gates(opened, own)
    return gate_results(opened.plan, ledger, opened.artifacts) if len(opened.plan.gates) else ()


def _tests(plan: Plan, done: Mapping[str, JobRow], stored: StoredItems) -> _Tests:
    columns = run_columns(*sorted({kind_of_row(row) for row in done.values()}))
    seeds = {job: seed for lift in plan.gates.lifts.values() for seed, job in lift.home.items()}
    techniques = {job: lift.technique for lift in plan.gates.lifts.values() for job in lift.home.values()}
    values = []
    for job, row in done.items():
        planned = plan.jobs[job]
        told = {
            "run": job, "job": job, "technique": techniques.get(job), "receiver": getattr(planned, "host", None),
            "receiver_task": getattr(planned, "task", None), "arm": HOME if job in seeds else BARE, "budget": 0,
            "seed": seeds.get(job), "state": "done", "steps": 0,
        }  # fmt: skip
        values.append({**dict.fromkeys(columns), **told, **_known(stored.measured(row, 0), columns)})
    return _Tests(pl.DataFrame(values, schema=columns), done, stored)


def _known(measured: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in measured.items() if name in columns}


def _metrics(table: pl.DataFrame, done: Mapping[str, JobRow], judged: str) -> list[str]:
    """The declared metric, and of classes accuracy and AUROC, where some test has them."""
    beside = BESIDE if any(kind_of_row(row) == CLASSES for row in done.values()) else ()
    names = dict.fromkeys((judged, *beside) if judged else ())
    return [name for name in names if table[name].is_not_null().any()]


def _missing(gate: Gate, found: Mapping[str, JobRow]) -> str:
    states = [found[job].state if job in found else NOT_RUN for job in gate.jobs]
    others = [state for state in states if state != "done"]
    if not others:
        return ""
    see = "" if others[0] == NOT_RUN else ", see peftport study status"
    return f"not known, as {len(others)} of its {len(states)} jobs are {others[0]}{see}"


def _named(gate: Gate) -> dict[str, Any]:
    factors = ("technique", "origin", "receiver", "task")
    return {"gate": gate.kind, **{name: getattr(gate, name) for name in factors}}


def _needed(plan: Plan, gate: Gate) -> float:
    settings = plan.study.gates
    assert settings is not None, "a plan has gates where its study has"
    return settings.lift if isinstance(gate, LiftGate) else settings.closeness


def _measured(
    plan: Plan, gate: Gate, by_metric: Mapping[str, Evidence], judged: str, kind: str
) -> Iterator[GateResult]:
    """One gate in each metric of its kind: a lift decides in the declared one, a closeness in all that are shown."""
    needed, lift = _needed(plan, gate), isinstance(gate, LiftGate)
    for name, evidence in by_metric.items():
        decides = name == judged or not lift
        if name not in metrics_of(kind):
            continue
        found = _difference(evidence, gate)
        if found is None:
            note = f"{metric_named(name).title} is not defined on the validation items"
            yield GateResult(**_named(gate), metric=name, needed=needed if decides else None, note=note)
            continue
        holds = found["low"] > needed if lift else abs(found["difference"]) <= needed
        more = {"needed": needed, "passed": bool(holds)} if decides else {}
        yield GateResult(**_named(gate), metric=name, **found, **more)


def _difference(evidence: Evidence, gate: Gate) -> dict[str, Any] | None:
    """The difference of one gate; None where a test has no value."""
    row_of = dict(evidence.runs.select("run", "row").iter_rows())
    bare, *others = (row_of[job] for job in gate.jobs)
    values = evidence.values[[bare, *others]]
    if (values != values).any():
        return None
    rows = pl.DataFrame({"row_one": others, "row_bare": [bare] * len(others)}).with_columns(gate=pl.lit(0))
    compared = differences(evidence, rows, ("gate",), ("one", "bare"))
    [score, beside] = evidence.as_scored(compared.pairs.crossed.mean[0])
    estimate, margin = compared.estimates.estimate[0], compared.estimates.margin(evidence.declared.level)[0]
    return {
        "score": float(score), "beside": float(beside), "difference": float(estimate), "low": float(estimate - margin),
        "high": float(estimate + margin), "seeds": len(others) if isinstance(gate, LiftGate) else 0,
        "items": int(compared.pairs.crossed.items[0]),
    }  # fmt: skip
