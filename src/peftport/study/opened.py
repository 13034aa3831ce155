"""A study that a command works on: its file, its plan, and the folder of its ledger and artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
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

    ``remarks`` say what was left open in the file and how it was settled; ``ways`` are all ways to settle it. Of one
    shard, ``plan`` is its part of the study, and ``division`` has all shards.
    """

    file: Path
    dir: Path
    plan: Plan
    remarks: tuple[str, ...] = ()
    shard: Shard | None = None
    division: Division | None = None
    ways: tuple[StudySpec, ...] = ()

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

    def plan_of(self, jobs: Iterable[str]) -> Plan:
        """Return the plan that has most of these jobs, where the file leaves open which of several it is."""
        if len(self.ways) < 2:
            return self.plan
        return Plan(_with_most(self.ways, self.plan.only, set(jobs))[0], self.plan.only)

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
    if study.loading.dtype == "auto" and shard is not None:
        problem = "expected a number format, since auto may choose another on another machine"
        request.refuse("shard", f"{problem}; add --set loading.dtype=float32 or mixed", str(shard))
    plan = _settled(study, factors, folder)
    if not plan.jobs:
        problem = "expected values that the study has, no run is left; check them"
        request.refuse("only", problem, " ".join(request.only))
    told, ways = tuple(_told(study, plan.study)), _ways(study)
    if shard is None:
        return OpenedStudy(Path(request.file), folder, plan, told, ways=ways)
    division = divide(plan, shard.count)
    part = plan.part(list(division.runs[shard.number - 1]), gated=True)
    return OpenedStudy(Path(request.file), folder, part, told, shard, division, ways)


def _ways(study: StudySpec) -> tuple[StudySpec, ...]:
    return tuple(_with_items(each, items) for each in _in_formats(study) for items in _ways_of_items(study))


def _settled(study: StudySpec, factors: dict[str, frozenset[str]], folder: Path) -> Plan:
    """Plan a study as it was begun, where the file leaves something open; as new ones are where nothing is on record.

    Open may be the number format, which is then the fastest here, and whether receivers learn from other items than
    origins, which they do unless the study was begun before there was a choice.
    """
    ways: Sequence[StudySpec] = _ways(study)
    if len(ways) > 1 and (folder / FILE).is_file():
        ledger = open_ledger(folder)
        try:
            ways = _with_most(ways, factors, ledger.states().keys())
        finally:
            ledger.close()
    if len({way.loading.dtype for way in ways}) > 1:
        fastest = "mixed" if settled(study.loading).dtype == "mixed" else "float32"
        ways = [way for way in ways if way.loading.dtype == fastest]
    return Plan(ways[0], factors)


def _with_most(ways: Sequence[StudySpec], factors: dict[str, frozenset[str]], jobs: Set[str]) -> list[StudySpec]:
    """Those of which most of these jobs are; some jobs are of several."""
    known = [len(jobs & Plan(way, factors).jobs.keys()) for way in ways]
    return [way for way, count in zip(ways, known, strict=True) if count == max(known)]


def _in_formats(study: StudySpec) -> list[StudySpec]:
    if study.loading.dtype != "auto":
        return [study]
    loadings = [study.loading.model_copy(update={"dtype": dtype}) for dtype in ("float32", "mixed")]
    return [study.model_copy(update={"loading": loading}) for loading in loadings]


def _ways_of_items(study: StudySpec) -> tuple[Literal["disjoint", "shared"], ...]:
    return ("disjoint", "shared") if study.data.receiver is None else (study.data.receiver,)


def _with_items(study: StudySpec, items: Literal["disjoint", "shared"]) -> StudySpec:
    return study.model_copy(update={"data": study.data.model_copy(update={"receiver": items})})


def _told(asked: StudySpec, study: StudySpec) -> Iterator[str]:
    """How what the file leaves open was settled, where that is not as the documentation says of new studies."""
    if asked.loading.dtype == "auto":
        yield f"loading.dtype auto: {study.loading.dtype}"
    if asked.data.receiver is None and study.data.receiver == "shared":
        yield (
            "data.receiver: shared, as this study was begun; in new studies receivers learn from other items than "
            "origins (disjoint)"
        )


def _toml(value: object) -> str:
    """Format a value as in a study file."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)
