"""Join parts of one study, such as its shards: the same inputs, equal rows once, and nothing where parts disagree.

A part is a study's folder, or exported tables, of which a folder is made first (`study.taking`). Rows are read in the
order of their ids from all parts at once, so that memory does not grow with their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from heapq import merge
from itertools import groupby, repeat
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from peftport.core.errors import BadRequest, PeftportError
from peftport.store.artifacts import Artifacts, new_folder
from peftport.store.held import HeldFolder
from peftport.store.ledger import ARTIFACTS, FILE, JobRow, Ledger, damaged, open_ledger
from peftport.study.commands import JoinRequest
from peftport.study.disagreement import disagreement_of
from peftport.study.grid import StudySpec
from peftport.study.inputs import other_input, version_differences
from peftport.study.items import StoredItems
from peftport.study.jobs import Job, TrainJob
from peftport.study.plan import Plan
from peftport.study.resuming import inputs_on_record, versions_on_record
from peftport.study.shards import FACT as SHARDS
from peftport.study.shards import Shard, divide
from peftport.study.table_rows import is_taken, take

ROWS_AT_ONCE = 1000
# What may differ between parts, as it is no part of a job.
MAY_DIFFER: dict[str, Any] = {
    "about": True,
    "execution": True,
    "testing": {"metric"},
    "loading": {"device", "spread", "checkpointing"},
}


@dataclass(frozen=True)
class JoinedPart:
    """A folder that was joined: the jobs that it has on record, and those that no folder before it has."""

    folder: str
    jobs: int
    new: int


@dataclass(frozen=True)
class MissingRuns:
    """Runs whose job no folder has on record: how many of a technique (None: bare hosts) in an arm on a receiver."""

    technique: str | None
    receiver: str
    receiver_task: str
    arm: str
    runs: int


@dataclass(frozen=True)
class JoinedStudy:
    """What came of joining parts.

    Attributes:
        states: the jobs by state; ``left`` are on record nowhere.
        shared: the jobs that several folders have.
        missing: the runs that no folder has.
        shards: of which shards these are, a line each, if all folders are shards of one division.

    """

    study: str
    out: Path
    parts: tuple[JoinedPart, ...]
    states: dict[str, int]
    shared: int
    missing: tuple[MissingRuns, ...]
    shards: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Part:
    """A folder as users named it, with its ledger and artifacts."""

    folder: Path
    ledger: Ledger
    artifacts: Artifacts

    def study(self) -> StudySpec:
        try:
            return StudySpec.model_validate(self.ledger.fact("study"))
        except ValidationError as error:
            raise BadRequest(
                f"{self.folder}: expected a record of the study that it is of, found none; run it once more: "
                f"peftport study run STUDY.toml --dir {self.folder}"
            ) from error

    def shards(self) -> list[Shard]:
        return [Shard.read(text) for text in self.ledger.fact(SHARDS) or []]


def join_studies(request: JoinRequest) -> JoinedStudy:
    """Join parts into a new folder, which is not made if anything is wrong with them.

    Raises:
        BadRequest: a folder is no part of a study, is damaged or was altered; parts are of different studies, ran on
            different hosts, tasks or libraries, or have different results of the same job; ``out`` is in use.

    """
    out, folders = Path(request.out), [Path(folder) for folder in request.folders]
    for folder, count in Counter(folder.resolve() for folder in folders).items():
        if count > 1:
            request.refuse("folders", "expected each folder once; take one away", folder)
    with ExitStack() as opened:
        parts = [_open(folder, opened) for folder in folders]
        plan = Plan(_same_study(parts))
        _check_inputs(plan, parts, request.accept_versions)
        with new_folder(out) as home, closing(Ledger(home)) as ledger:
            counted = _Join(plan, parts, ledger, Artifacts(home / ARTIFACTS)).run(request)
            states = ledger.states()
            ledger.check()
        return _joined(plan, parts, states, counted, out)


def _open(folder: Path, opened: ExitStack) -> _Part:
    """Open a part and check it: its rows against their sums, and against what their artifacts hold."""
    if not (folder / FILE).is_file():
        return _open_tables(folder, opened)
    part = _Part(folder, opened.enter_context(closing(open_ledger(folder))), Artifacts(folder / ARTIFACTS))
    part.ledger.check()
    items = StoredItems(part.artifacts)
    for jobs in part.ledger.artifacts().values():
        for job in jobs:
            row = part.ledger.row(job)
            try:
                fault = row and items.fault(row)
            except PeftportError as error:  # its artifact is missing or altered
                raise BadRequest(f"{error}: peftport study run STUDY.toml --dir {folder}") from error
            if fault:
                raise damaged(folder, fault)
    return part


def _open_tables(folder: Path, opened: ExitStack) -> _Part:
    if not (folder / "runs.parquet").is_file():
        raise BadRequest(
            f"{folder}: expected a part of a study, found neither {FILE}, which study run writes, nor runs.parquet, "
            "which study export writes; check the path"
        )
    home = Path(opened.enter_context(HeldFolder("merge")))
    take(folder, home)
    return _Part(folder, opened.enter_context(closing(Ledger(home, reading=True))), Artifacts(home / ARTIFACTS))


def _same_study(parts: Sequence[_Part]) -> StudySpec:
    """Return the study of the first part, which must be that of all."""
    first = parts[0].study()
    ours = first.model_dump(mode="json", exclude=MAY_DIFFER)
    for part in parts[1:]:
        theirs = part.study().model_dump(mode="json", exclude=MAY_DIFFER)
        for key in ours:
            if ours[key] != theirs[key]:
                raise BadRequest(
                    f"{part.folder}: expected a part of the study that {parts[0].folder} is of, {key} differs: "
                    f"{_short(ours[key])} there, {_short(theirs[key])} here; join parts of one study"
                )
    return first


def _check_inputs(plan: Plan, parts: Sequence[_Part], accept_versions: bool) -> None:
    """Refuse parts whose jobs ran on different hosts, tasks or, unless that is accepted, libraries."""
    known: dict[str, tuple[Any, Path]] = {}
    versions: list[dict[str, str]] = []
    for part in parts:
        for key, value in inputs_on_record(plan, part.ledger).items():
            was, where = known.setdefault(key, (value, part.folder))
            if differs := other_input(key, was, value):
                raise BadRequest(
                    f"{part.folder}: expected what {where} ran on, got another {differs} here; run one of them anew"
                )
        own = versions_on_record(plan, part.ledger)
        differ = [each for used in own if versions for each in version_differences(versions, used)]
        differ += [each for used in versions if own for each in version_differences(own, used)] if not differ else []
        if differ and not accept_versions:
            raise BadRequest(
                f"{part.folder}: expected the libraries of {parts[0].folder}: {', '.join(differ)}; run one of them "
                "anew, or join both: --accept-versions"
            )
        versions += own


@dataclass(frozen=True, eq=False)
class _Join:
    """Writes the rows of all parts, each once, into a new ledger."""

    plan: Plan
    parts: Sequence[_Part]
    ledger: Ledger
    artifacts: Artifacts

    def run(self, request: JoinRequest) -> Counter[Any]:
        """Return how many jobs several parts have (``shared``), and how many each part is the first to have.

        Raises:
            BadRequest: parts have different results of the same job.

        """
        counted, wrong, chosen = Counter[Any](), list[str](), list[tuple[int, JobRow]]()
        total = sum(len(part.ledger.states()) for part in self.parts)
        advance = request.progress.stage("jobs", total) if request.progress else lambda units: None
        numbered = [zip(repeat(number), part.ledger.rows(), strict=False) for number, part in enumerate(self.parts)]
        for _, group in groupby(merge(*numbered, key=_id), key=_id):
            rows = list(group)
            advance(len(rows))
            counted[rows[0][0]] += 1
            counted["shared"] += len(rows) > 1
            best = min(rows, key=lambda each: (each[1].state != "done", is_taken(each[1]), each[0]))
            wrong += self._disagreements(best, rows)
            chosen.append(best)
            if len(chosen) == ROWS_AT_ONCE and not wrong:
                self._write(chosen)
                chosen.clear()
        if wrong:
            more = f" (and {len(wrong) - 1} more such rows)" if len(wrong) > 1 else ""
            raise BadRequest(
                f"{wrong[0]}{more}; one was altered, or their machines round differently: leave a folder out, and let "
                "study run do in the new one what is then missing"
            )
        self._write(chosen)
        self._finish()
        return counted

    def _write(self, chosen: list[tuple[int, JobRow]]) -> None:
        inputs = {key: content for part in self.parts for key, content in part.ledger.inputs().items()}
        for number, sha256 in dict.fromkeys((number, row.artifact) for number, row in chosen):
            if sha256 and not self.artifacts.path(sha256).is_file():
                path = self.parts[number].artifacts.path(sha256)
                if self.artifacts.put(path.read_bytes()) != sha256:
                    raise BadRequest(f"{path}: expected an artifact that does not change, it was altered just now")
        rows = [row for _, row in chosen]
        self.ledger.record(rows, (), {row.inputs: inputs[row.inputs] for row in rows if row.inputs})

    def _finish(self) -> None:
        """Write what is beside the rows: failed attempts, the study, the first machine, and the shards."""
        failures = dict.fromkeys(each[:3] for part in self.parts for each in part.ledger.failures())
        self.ledger.record([], list(failures))
        self.ledger.set_fact("study", self.plan.study.model_dump(mode="json"))
        ran = [fact for part in self.parts if (fact := part.ledger.fact("ran"))]
        if ran:
            self.ledger.set_fact("ran", ran[0])
        if _division(self.parts):
            self.ledger.set_fact(SHARDS, sorted({str(shard) for part in self.parts for shard in part.shards()}))

    def _disagreements(self, best: tuple[int, JobRow], rows: list[tuple[int, JobRow]]) -> Iterator[str]:
        """Say of each row that is not the same result as the best one how the two differ."""
        first, row = self.parts[best[0]], best[1]
        for number, other in rows:
            part = self.parts[number]
            if part is first or other.state != "done":
                continue
            differs = disagreement_of(row, first.artifacts, other, part.artifacts)
            if differs:
                yield (
                    f"{part.folder}: expected the results that {first.folder} has of the same jobs, job {row.id[:12]} "
                    f"({_words(self.plan.jobs.get(row.id))}) differs in {differs.name}: {differs.one} there, "
                    f"{differs.other} here"
                )


def _id(numbered: tuple[int, JobRow]) -> str:
    return numbered[1].id


def _words(job: Job | None) -> str:
    if isinstance(job, TrainJob):
        return f"{job.technique.name} on {job.host}, {job.task}, seed {job.seed}"
    return "of another study" if job is None else job.kind


def _joined(
    plan: Plan, parts: Sequence[_Part], states: dict[str, Any], counted: Counter[Any], out: Path
) -> JoinedStudy:
    """Count what was joined and what is missing."""
    missing = [run for run in plan.runs() if plan.job_of(run) not in states]
    cells = Counter((run.technique, run.receiver, run.receiver_task, run.arm) for run in missing)
    of_plan = Counter(states.get(job, "left") for job in plan.jobs)
    return JoinedStudy(
        plan.study.name,
        out,
        tuple(JoinedPart(str(p.folder), len(p.ledger.states()), counted[i]) for i, p in enumerate(parts)),
        {state: of_plan[state] for state in ("done", "failed", "blocked", "left")},
        counted["shared"],
        tuple(MissingRuns(*cell, runs) for cell, runs in cells.items()),
        tuple(_missing_shards(plan, parts, states)) if missing else (),
    )


def _division(parts: Sequence[_Part]) -> int | None:
    """Return into how many shards the study was divided; None where not all parts are shards of one division."""
    counts = {shard.count for part in parts for shard in part.shards()}
    return counts.pop() if len(counts) == 1 and all(part.shards() for part in parts) else None


def _missing_shards(plan: Plan, parts: Sequence[_Part], states: dict[str, Any]) -> Iterator[str]:
    count = _division(parts)
    given = {shard.number for part in parts for shard in part.shards()}
    for number, runs in enumerate(divide(plan, count).runs if count else (), 1):
        missing = sum(plan.job_of(run) not in states for run in runs)
        if missing:
            how = "is not complete" if number in given else "is not there"
            yield f"shard {number}/{count} {how}: {missing} of its {len(runs)} runs are missing"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
