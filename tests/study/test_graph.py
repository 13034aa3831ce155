"""The graph and the ledger by themselves: what is ready when, and rows that are written all or none."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from peftport.core.errors import BadRequest, PeftportError
from peftport.store.ledger import JobRow, Ledger, open_ledger
from peftport.study.graph import Graph
from peftport.study.jobs import BareJob
from peftport.study.plan import JobBatch
from pico_study import plan_of


def job(name: str, *needs: str) -> BareJob:
    return BareJob(name, "host", "task", needs)


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_ends_does_everything_once_after_its_needs(seed: int, tiny: Path) -> None:
    """Stacks end in random order, some jobs fail at random: each job begins once, after its needs."""
    rng, plan = random.Random(seed), plan_of(tiny)
    graph, flying = Graph(plan.stacks, {}), []
    done: set[str] = set()
    bad: set[str] = set()
    while not graph.exhausted or flying:
        while ready := graph.next():
            assert all(need in bad for _, need in ready.blocked)
            graph.resolve([], [each.id for each, _ in ready.blocked])
            bad.update(each.id for each, _ in ready.blocked)
            assert not {need for each in ready.jobs for need in each.needs} - done
            flying += [ready.jobs] if ready.jobs else []
        if flying:
            ended = flying.pop(rng.randrange(len(flying)))
            failed = {each.id for each in ended if rng.random() < 0.1}
            good = {each.id for each in ended} - failed
            assert not (good | failed) & (done | bad)
            done |= good
            bad |= failed
            graph.resolve(good, failed)
    assert done | bad == plan.jobs.keys()


def test_what_is_on_record_is_not_begun() -> None:
    stacks = [JobBatch(0, (job("a"), job("b"))), JobBatch(1, (job("c", "a"), job("d", "b")))]
    assert Graph(stacks, dict.fromkeys("abcd", "done")).exhausted
    first = Graph(stacks, {"a": "done"}).next()
    assert first is not None
    assert [each.id for each in first.jobs] == ["b"]
    second = Graph(stacks, {"a": "done", "b": "failed"}).next()
    assert second is not None
    assert [each.id for each in second.jobs] == ["c"]
    assert [(each.id, need) for each, need in second.blocked] == [("d", "b")]


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    rows = [
        JobRow("b", "chain", "done", 1, "sha", {"tests": {"0": {"accuracy": 0.1}}}, None, 1.5),
        JobRow("a", "bare", "failed", 0, None, None, "ValueError: ü\nTraceback", 0.25),
    ]
    ledger.record(rows, [("a", 0, "ValueError")])
    assert list(ledger.rows()) == [rows[1], rows[0]]
    assert ledger.row("b") == rows[0]
    assert ledger.row("c") is None
    assert ledger.states() == ledger.states_of(["a", "b", "b", "c"]) == {"a": "failed", "b": "done"}
    assert ledger.artifacts() == {"sha": ["b"]}
    assert [(name, attempt, error) for name, attempt, error, _ in ledger.failures()] == [("a", 0, "ValueError")]
    ledger.set_fact("inputs", {"host": "x"})
    ledger.close()
    again = open_ledger(tmp_path)
    assert (again.fact("inputs"), again.fact("nothing")) == ({"host": "x"}, None)
    assert list(again.rows()) == [rows[1], rows[0]]
    again.forget(["a", "nobody"])
    assert again.states() == {"b": "done"}
    again.close()


def test_rows_are_written_all_or_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.record(
            [JobRow("a", "chain", "done", 0), JobRow("b", "chain", "done", 0, metrics={"accuracy": float("nan")})]
        )
    with pytest.raises(sqlite3.IntegrityError):
        ledger.record([JobRow("a", "chain", "done", 0), JobRow("b", None, "done", 0)])  # type: ignore[arg-type]
    assert ledger.states() == {}
    ledger.close()


def test_a_ledger_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger._base.execute("PRAGMA query_only=1")
    with pytest.raises(PeftportError, match="cannot be written"):
        ledger.record([JobRow("a", "chain", "done", 0)])
    ledger.close()
    with pytest.raises(BadRequest, match="expected a study that was begun"):
        open_ledger(tmp_path / "nowhere")
