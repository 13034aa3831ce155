"""A study that a command works on: its file, its plan, and the folder of its ledger and artifacts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peftport.hosts.loading import settled
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import ARTIFACTS, FILE, Ledger, open_ledger
from peftport.study.commands import StudyRequest
from peftport.study.grid import StudySpec, read_study
from peftport.study.plan import Plan, chosen_factors
from peftport.study.shards import Division, Shard, divide


@dataclass(frozen=True, eq=False)
class OpenedStudy:
    """A study file that was read, and where its results are. Nothing is run or opened yet.

    ``remarks`` say what was left open in the file and how it was settled. Of one shard, ``plan`` is its part of the
    study, and ``division`` has all shards.
    """

    file: Path
    dir: Path
    plan: Plan
    remarks: tuple[str, ...] = ()
    shard: Shard | None = None
    division: Division | None = None

    @property
    def name(self) -> str:
        """The name in the study file."""
        return self.plan.study.name

    @property
    def command(self) -> str:
        """The command line that runs the study; pages and tables show it."""
        return f"peftport study run {self.file}" + (f" --shard {self.shard}" if self.shard else "")

    @property
    def artifacts(self) -> Artifacts:
        """The files with what the jobs computed."""
        return Artifacts(self.dir / ARTIFACTS)

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """Open the record of finished jobs for reading.

        Raises:
            BadRequest: nothing was run yet.

        """
        ledger = open_ledger(self.dir)
        try:
            yield ledger
        finally:
            ledger.close()


def open_study(request: StudyRequest) -> OpenedStudy:
    """Read a study file and plan it.

    Raises:
        BadRequest: no such file, an unknown key, a value that makes no sense, or no run left.

    """
    changes = {key: _toml(value) for key, value in (request.set or {}).items()}
    study, factors = read_study(Path(request.file), changes), chosen_factors(request.only)
    shard = None if request.shard is None else Shard.read(request.shard)
    name = study.name if shard is None else f"{study.name}-{shard.number}-of-{shard.count}"
    folder = Path(request.dir) if request.dir is not None else Path("runs") / name
    auto = study.loading.dtype == "auto"
    if auto and shard is not None:
        problem = "expected a number format, since auto may choose another on another machine"
        request.refuse("shard", f"{problem}; add --set loading.dtype=float32 or mixed", str(shard))
    plan = _settled(study, factors, folder) if auto else Plan(study, factors)
    if not plan.jobs:
        problem = "expected values that the study has, no run is left; check them"
        request.refuse("only", problem, " ".join(request.only))
    told = (f"loading.dtype auto: {plan.study.loading.dtype}",) if auto else ()
    if shard is None:
        return OpenedStudy(Path(request.file), folder, plan, told)
    division = divide(plan, shard.count)
    part = plan.part(list(division.runs[shard.number - 1]))
    return OpenedStudy(Path(request.file), folder, part, told, shard, division)


def _settled(study: StudySpec, factors: dict[str, frozenset[str]], folder: Path) -> Plan:
    """Plan a study in the number format that it was begun in or, where nothing is on record, that is fastest here."""
    formats: tuple[Literal["float32", "mixed"], ...] = ("float32", "mixed")
    plans = [Plan(_loaded_in(study, dtype), factors) for dtype in formats]
    if (folder / FILE).is_file():
        ledger = open_ledger(folder)
        try:
            recorded = ledger.states().keys()
        finally:
            ledger.close()
        known = [len(recorded & plan.jobs.keys()) for plan in plans]  # some jobs are the same in both
        if known[0] != known[1]:
            return plans[known.index(max(known))]
    return plans[formats.index("mixed" if settled(study.loading).dtype == "mixed" else "float32")]


def _loaded_in(study: StudySpec, dtype: Literal["float32", "mixed"]) -> StudySpec:
    return study.model_copy(update={"loading": study.loading.model_copy(update={"dtype": dtype})})


def _toml(value: object) -> str:
    """Format a value as in a study file."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)
