"""A handful of a study's answers side by side: the reference, the origin at home, and the arms on the receiver.

Only tasks of prompts and answers have them. Answers and references are those that the jobs left; prompts are read from
the task, if it is on this machine and is still the one that the jobs ran on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from peftport.core.errors import PeftportError
from peftport.store.ledger import JobRow
from peftport.study.grid import Run
from peftport.study.inputs import open_task
from peftport.study.items import StoredItems
from peftport.study.jobs import PortedStart, TrainJob
from peftport.study.plan import Plan
from peftport.tasks.kinds.completion import Answers
from peftport.tasks.spec import plain_text
from peftport.workflows.answers import HANDFUL, REFERENCE, ShownAnswer

MOST_LETTERS = 500
CUT = " … (cut)"


class _Side(NamedTuple):
    """Who answers, and the job and budget whose test has the answers."""

    who: str
    job: str
    budget: int


def study_answers(plan: Plan, rows: Mapping[str, JobRow], stored: StoredItems) -> list[ShownAnswer]:
    """The answers of the first seed, at the smallest and the largest budget, to the first test items of each task.

    Raises:
        PeftportError: an artifact is missing or corrupt.

    """
    by_task: dict[str, dict[_Side, None]] = {}
    for run in plan.runs():
        for side in _sides(plan, run):
            by_task.setdefault(run.receiver_task, {})[side] = None
    return [
        shown
        for task, sides in by_task.items()
        for shown in _of_task(plan, task, [side for side in sides if _is_done(rows.get(side.job))], rows, stored)
    ]


def _is_done(row: JobRow | None) -> bool:
    return row is not None and row.metrics is not None and "tests" in row.metrics


def _sides(plan: Plan, run: Run) -> Iterator[_Side]:
    """Whose answers a run shows: its own, and before those of a ported module its origin's at home."""
    study, job = plan.study, plan.job_of(run)
    if run.arm == "bare":
        yield _Side(f"bare {run.receiver}", job, run.budget)
    if run.arm not in ("ported", "scratch") or run.seed != study.seeds[0]:
        return
    if run.budget not in (min(study.budgets), max(study.budgets)):
        return
    chain = plan.jobs[job]
    if isinstance(chain, TrainJob) and isinstance(chain.start, PortedStart) and run.origin_task == run.receiver_task:
        yield _Side(f"{run.technique} at home on {run.origin}", chain.start.chain, chain.start.step)
    ported = f"ported from {run.origin} by {run.method}" if run.arm == "ported" else "from scratch"
    yield _Side(f"{run.technique} on {run.receiver}, {ported}, {run.budget} steps", job, run.budget)


def _of_task(
    plan: Plan, task: str, sides: list[_Side], rows: Mapping[str, JobRow], stored: StoredItems
) -> Iterator[ShownAnswer]:
    """The references to the first items and what each side answers; nothing where answers are no texts."""
    tests = {side.who: stored.predictions(rows[side.job], side.budget) for side in sides}
    answered = {who: test for who, test in tests.items() if isinstance(test, Answers)}
    if not answered:
        return
    first = next(iter(answered.values()))
    prompts = _prompts(plan, task, (rows[sides[0].job].metrics or {}).get("task"))
    for place in range(min(HANDFUL, len(first))):
        said = {who: test.texts[place] for who, test in answered.items()}
        texts = {REFERENCE: first.targets[place][0], **{who: text for who, text in said.items() if text is not None}}
        for who, text in texts.items() if len(texts) > 1 else ():
            yield ShownAnswer(place + 1, _short(prompts[place] if prompts else ""), who, _short(text))


def _prompts(plan: Plan, task: str, digest: object) -> list[str]:
    """The prompts of the first test items; none where the task is not to be had here, or is another one by now."""
    try:
        found = open_task(task, plan.study.data.get(task))
    except PeftportError:
        return []
    return [plain_text(each) for each in found.test.examples[:HANDFUL]] if found.digest == digest else []


def _short(text: str) -> str:
    """A text without what makes it too long to be read beside others."""
    return text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS] + CUT
