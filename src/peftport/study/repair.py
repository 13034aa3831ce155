"""Repair of a damaged ledger: rows that can be read and hold stay, artifacts restore what they can, the rest is redone.

The new ledger is made beside the old one and takes its place at the end, whole; the old one stays under another name.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftport.core.errors import BadRequest, PeftportError
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import ARTIFACTS, FILE, JobRow, Ledger, only_driver
from peftport.store.salvage import Salvaged, salvage
from peftport.study.items import StoredItems
from peftport.study.packing import described
from peftport.study.plan import Plan

BESIDE = ("", "-wal", "-shm")  # what SQLite keeps of one ledger


@dataclass(frozen=True)
class Repairs:
    """What a repair did, in jobs.

    Attributes:
        kept: rows that stay as they were.
        unsummed: of these, rows of an older version, which hold to their items but carry no checksum.
        restored: rows that were made again from artifacts; what they took in seconds is lost.
        left: jobs of the study that are on no record now; the next run does them.
        damaged: where the old ledger is, empty if there was none; None: it was whole, nothing was changed.

    """

    kept: int
    unsummed: int
    restored: int
    left: int
    damaged: str | None

    def __str__(self) -> str:
        if self.damaged is None:
            return f"the ledger is whole, nothing was changed ({self.kept} jobs on record)"
        older = f" ({self.unsummed} of an older version, without checksums)" if self.unsummed else ""
        where = f"the damaged ledger is {self.damaged}" if self.damaged else "there was no ledger"
        return (
            f"{self.kept} jobs kept{older}, {self.restored} restored from artifacts (without their times), {self.left} "
            f"left for the next peftport study run; {where}"
        )


def repair(plan: Plan, place: Path) -> Repairs:
    """Repair the ledger of a study's folder.

    Raises:
        BadRequest: there is neither a ledger nor an artifact, or another process runs this study.
        PeftportError: there is no room for the new ledger.

    """
    artifacts = Artifacts(place / ARTIFACTS)
    if not (place / FILE).is_file() and not artifacts.folder.is_dir():
        raise BadRequest(f"{place}: expected a study that was begun, found no {FILE}; start it: peftport study run")
    for litter in place.glob(".repair.*"):  # of a repair that was cut off
        shutil.rmtree(litter, ignore_errors=True)
    with only_driver(place), tempfile.TemporaryDirectory(prefix=".repair.", dir=place) as home:
        count = _whole(place, artifacts)
        if count is not None:
            return Repairs(count, 0, 0, 0, None)
        old = _copy(place, Path(home))
        found = salvage(old) if old else Salvaged()
        items = StoredItems(artifacts)
        read = sorted(found.rows.values(), key=lambda row: row.artifact or "")  # every artifact is opened once
        kept = {row.id: row for row in read if _holds(row, items, found)}
        restored, inputs = _restored(artifacts, items, kept)
        rows = [*kept.values(), *restored.values()]
        _write(Path(home) / "new", rows, found, found.inputs | inputs)
        damaged = _exchange(place, Path(home) / "new" / FILE)
    left = sum(job not in kept and job not in restored for job in plan.jobs)
    return Repairs(len(kept), len(kept.keys() & found.unsummed), len(restored), left, damaged)


def _whole(place: Path, artifacts: Artifacts) -> int | None:
    """How many jobs a ledger has in which nothing is wrong; None: something is."""
    if not (place / FILE).is_file():
        return None
    items = StoredItems(artifacts)
    try:
        with closing(Ledger(place)) as ledger:
            ledger.check()
            for sha256, jobs in ledger.artifacts().items():
                rows = [ledger.row(job) for job in jobs] if artifacts.holds(sha256) else []  # else: for the next run
                if any(row and items.fault(row) for row in rows):
                    return None
            return len(ledger.states())
    except BadRequest:
        return None


def _holds(row: JobRow, items: StoredItems, found: Salvaged) -> bool:
    """Whether a row that could be read is what was recorded, as far as can be known."""
    try:
        if items.fault(row):
            return False
    except PeftportError:  # its artifact is missing or corrupt: the next run would take it off the record too
        return False
    return row.id not in found.unsummed or row.artifact is not None


def _restored(
    artifacts: Artifacts, items: StoredItems, kept: Mapping[str, JobRow]
) -> tuple[dict[str, JobRow], dict[str, dict[str, Any]]]:
    """Rows of jobs that are not kept, from the artifacts that tell of them; and the inputs that they refer to."""
    rows, inputs = dict[str, JobRow](), dict[str, dict[str, Any]]()
    for path in sorted(artifacts.folder.glob("*/*.safetensors")):
        told = described(path) if artifacts.holds(path.stem) else None
        for job, metrics in told.metrics.items() if told else ():
            assert told is not None
            row = JobRow(job, told.kind, "done", 0, path.stem, metrics, inputs=told.inputs_of.get(job))
            if job not in kept and job not in rows and not items.fault(row):
                rows[job] = row
                inputs.update(told.inputs)
    return rows, inputs


def _write(home: Path, rows: list[JobRow], found: Salvaged, inputs: Mapping[str, dict[str, Any]]) -> None:
    """A new ledger, all of it in its one file. Failures and facts go over as far as they could be read."""
    with closing(Ledger(home)) as ledger:
        ledger.record(rows, found.failures, inputs)
        for key, value in found.facts.items():
            ledger.set_fact(key, value)
        ledger.check()


def _copy(place: Path, home: Path) -> Path | None:
    """A copy of the old ledger, which SQLite may do with as it likes."""
    for ending in BESIDE[:2]:
        if (place / f"{FILE}{ending}").is_file():
            shutil.copyfile(place / f"{FILE}{ending}", home / f"{FILE}{ending}")
    return home / FILE if (home / FILE).is_file() else None


def _exchange(place: Path, new: Path) -> str:
    """Put the new ledger in the old one's place, which stays as ``ledger.sqlite.damaged-N``. Its path."""
    number = 1
    while (place / f"{FILE}.damaged-{number}").exists():
        number += 1
    kept = place / f"{FILE}.damaged-{number}"
    was = (place / FILE).is_file()
    if was:
        shutil.copyfile(place / FILE, kept)
    for ending in BESIDE[1:]:  # they would be taken for the new ledger's
        if (place / f"{FILE}{ending}").is_file():
            (place / f"{FILE}{ending}").replace(f"{kept}{ending}")
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(place / FILE)
    return str(kept) if was else ""
