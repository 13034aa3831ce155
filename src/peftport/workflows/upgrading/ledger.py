"""What an upgrade has done, in files: one record for each module, written when its folder is whole.

    OUT/plan.json            which upgrade this folder is of
    OUT/records/NAME.json    what became of a module
    OUT/modules/NAME         the ported module

A process that is killed leaves whole records only; the next one does what has no record. A record is of one content of
a module's folder, of the ported module whose digest it has, and of one upgrade (hosts, task, options, version), and is
taken for no other. The card beside a ported module may be edited.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import ValidationError

from peftport.core.environment import version_of
from peftport.core.errors import BadRequest, OutputRefused
from peftport.core.hashing import digest
from peftport.core.places import check_place
from peftport.hosts.loading import loading_of
from peftport.modules.readme import README
from peftport.modules.record import Closed
from peftport.store.artifacts import write_text
from peftport.store.held import sweep_beside
from peftport.workflows.job_inputs import name_of
from peftport.workflows.port_inputs import read_texts
from peftport.workflows.upgrading.candidates import content_of
from peftport.workflows.upgrading.pair import HostPair

PLAN, RECORDS, MODULES, LOCK = "plan.json", "records", "modules", ".lock"
Outcome = Literal["copy", "align", "refresh", "retrain", "not enough evidence", "refused"]
USABLE: tuple[Outcome, ...] = ("copy", "align", "refresh")


class Span(Closed):
    """A difference with its 95 % interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


class UpgradeRecord(Closed):
    """What became of one module.

    Attributes:
        name: the name of its output folder.
        module: its folder, as it was named.
        content: the digest of the files of its folder.
        outcome: copy, align and refresh mean that it can be used; refused, that it could not be read or ported.
        why: the verdict in words; of what was not measured, why the check chose the method; of a refused one, the
            reason.
        out: whether there is a ported module.
        written: the digest of the ported module's files, without its card.
        home: its metric on the old host.
        bare: that of the new host alone.
        ported: that of the new host with it.
        gain: ``ported`` minus ``bare``.
        change: ``ported`` minus ``home``.
        pushed: the address on the hub, once it is there.

    """

    name: str
    module: str
    content: str
    outcome: Outcome
    why: str
    technique: str | None = None
    format: str | None = None
    parameters: int | None = None
    method: str | None = None
    out: bool = False
    written: str | None = None
    metric: str | None = None
    items: int | None = None
    home: float | None = None
    bare: float | None = None
    ported: float | None = None
    gain: Span | None = None
    change: Span | None = None
    pushed: str | None = None

    @property
    def usable(self) -> bool:
        """Whether the ported module can be used."""
        return self.outcome in USABLE


class UpgradePlan(Closed):
    """Which upgrade a folder is of."""

    version: Literal[1] = 1
    old: str
    new: str
    task: str | None
    key: str


@dataclass(frozen=True)
class UpgradeFolder:
    """The output folder of an upgrade."""

    path: Path

    def module(self, name: str) -> Path:
        """Return the folder of a ported module."""
        return self.path / MODULES / name

    def record(self, name: str, content: str) -> UpgradeRecord | None:
        """Return the record of a module whose folder has this content; None where it is not done.

        It is not done either where another ported module lies there than the one that the record is of.
        """
        try:
            found = UpgradeRecord.model_validate_json((self.path / RECORDS / f"{name}.json").read_bytes())
        except (OSError, ValidationError):
            return None
        beside = self.written(name) if found.out else found.written
        return found if (found.content, found.written) == (content, beside) else None

    def written(self, name: str) -> str:
        """Return the digest of what lies in the folder of a ported module, without its card."""
        return content_of(self.module(name), but=(README,))

    def keep(self, record: UpgradeRecord) -> UpgradeRecord:
        """Write a record, completely or not at all."""
        write_text(self.path / RECORDS / f"{record.name}.json", record.model_dump_json(indent=2) + "\n")
        return record


def plan_of(pair: HostPair) -> UpgradePlan:
    """Return which upgrade a request asks for."""
    r, texts, loading = pair.request, pair.request.texts, loading_of(pair.request.load)
    options = {
        "budgets": sorted(r.budgets), "seeds": r.seeds, "batch_size": r.batch_size, "max_tokens": r.max_tokens,
        "load": None if loading is None else loading.model_dump(), "readout": r.readout, "test_items": r.test_items,
        "generate": r.generate, "metric": r.metric, "peftport": version_of("peftport"),
    }  # fmt: skip
    read = None if texts is None else digest(list(read_texts(str(texts))))
    task = None if pair.task is None else pair.task.digest
    marks = [host.fingerprint.model_dump(exclude={"name"}) for host in (pair.old, pair.new)]
    name = None if pair.task is None else name_of(pair.task.spec.name)
    return UpgradePlan(old=pair.old.name, new=pair.new.name, task=name, key=digest([marks, task, read, options]))


def check_upgrade_folder(out: Path) -> None:
    """Refuse a folder that cannot be written, or holds something else than an upgrade.

    Raises:
        OutputRefused: ``out`` is in use or not writable.

    """
    begun = (out / PLAN).is_file() or (out.is_dir() and {path.name for path in out.iterdir()} <= {LOCK})
    check_place(out, "folder" if begun else "new folder")


@contextmanager
def upgrade_folder(out: Path, plan: UpgradePlan) -> Iterator[UpgradeFolder]:
    """Hold the output folder of an upgrade: a new one, or one in which the same upgrade was begun.

    Raises:
        OutputRefused: the folder holds something else, or another upgrade.
        BadRequest: another process works in it.

    """
    check_upgrade_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BadRequest(
            f"{out}: another process is upgrading into this folder; wait for it, or choose another --out"
        ) from error
    try:
        _check_plan(out, plan)
        for inner in (RECORDS, MODULES):
            (out / inner).mkdir(exist_ok=True)
            sweep_beside(out / inner / "any")
        yield UpgradeFolder(out)
    finally:
        lock.release()


def _check_plan(out: Path, plan: UpgradePlan) -> None:
    path = out / PLAN
    if not path.is_file():
        write_text(path, plan.model_dump_json(indent=2) + "\n")
        return
    try:
        before = UpgradePlan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise OutputRefused(
            f"{path}: expected the plan of an upgrade, got something else; choose another --out"
        ) from error
    if before.key != plan.key:
        raise OutputRefused(
            f"{out}: expected a new folder or one of this upgrade, got one of {before.old} to {before.new} with "
            f"{before.task or 'no task'} whose hosts, task, options or version of peftport differ; choose another --out"
        )
