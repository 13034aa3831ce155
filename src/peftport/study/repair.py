"""Repair a damaged ledger: keep the rows that are valid, restore others from artifacts, leave the rest to be redone.

The new ledger is made beside the old one and replaces it at the end as a whole. The old one is kept under another name.
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

BESIDE = ("", "-wal", "-shm")  # endings of the files that SQLite keeps for one ledger


@dataclass(frozen=True)
class Repairs:
    """What a repair did, in numbers of jobs.

    Attributes:
        kept: rows that were kept unchanged.
        unsummed: the kept rows of an older version, which agree with their items but have no checksum.
        restored: rows that were made again from artifacts; their times are lost.
        left: jobs of the study that are not on record now; the next run does them.
        damaged: the path of the old ledger, empty if there was none; None if it was intact and nothing was changed.

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
        PeftportError: the disk has no room for the new ledger.

    """
    artifacts = Artifacts(place / ARTIFACTS)
    if not (place / FILE).is_file() and not artifacts.folder.is_dir():
        raise BadRequest(f"{place}: expected a study that was begun, found no {FILE}; start it: peftport study run")
    for litter in place.glob(".repair.*"):  # left by a repair that was interrupted
        shutil.rmtree(litter, ignore_errors=True)
    with only_driver(place), tempfile.TemporaryDirectory(prefix=".repair.", dir=place) as home:
        count = _whole(place, artifacts)
        if count is not None:
            return Repairs(count, 0, 0, 0, None)
        old = _copy(place, Path(home))
        salvaged = salvage(old) if old else Salvaged()
        items = StoredItems(artifacts)
        read = sorted(salvaged.rows.values(), key=lambda row: row.artifact or "")  # each artifact is opened once
        kept = {row.id: row for row in read if _holds(row, items, salvaged)}
        restored, inputs = _restored(artifacts, items, kept)
        rows = [*kept.values(), *restored.values()]
        _write(Path(home) / "new", rows, salvaged, salvaged.inputs | inputs)
        damaged = _exchange(place, Path(home) / "new" / FILE)
    left = sum(job not in kept and job not in restored for job in plan.jobs)
    return Repairs(len(kept), len(kept.keys() & salvaged.unsummed), len(restored), left, damaged)


def _whole(place: Path, artifacts: Artifacts) -> int | None:
    """Return the number of jobs in an intact ledger; None if something in it is damaged."""
    if not (place / FILE).is_file():
        return None
    items = StoredItems(artifacts)
    try:
        with closing(Ledger(place)) as ledger:
            ledger.check()
            for sha256, jobs in ledger.artifacts().items():
                rows = [ledger.row(job) for job in jobs] if artifacts.holds(sha256) else []  # else the next run does it
                if any(row and items.fault(row) for row in rows):
                    return None
            return len(ledger.states())
    except BadRequest:
        return None


def _holds(row: JobRow, items: StoredItems, salvaged: Salvaged) -> bool:
    """Return whether a row that could be read is what was recorded, as far as that can be known."""
    try:
        if items.fault(row):
            return False
    except PeftportError:  # its artifact is missing or corrupt, so the next run would remove the row too
        return False
    return row.id not in salvaged.unsummed or row.artifact is not None


def _restored(
    artifacts: Artifacts, items: StoredItems, kept: Mapping[str, JobRow]
) -> tuple[dict[str, JobRow], dict[str, dict[str, Any]]]:
    """Restore rows that are not kept from the artifacts that describe them, with the inputs that they refer to."""
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


def _write(home: Path, rows: list[JobRow], salvaged: Salvaged, inputs: Mapping[str, dict[str, Any]]) -> None:
    """Write a new ledger as one file, with the failures and facts that could be read."""
    with closing(Ledger(home)) as ledger:
        ledger.record(rows, salvaged.failures, inputs)
        for key, value in salvaged.facts.items():
            ledger.set_fact(key, value)
        ledger.check()


def _copy(place: Path, home: Path) -> Path | None:
    """Copy the old ledger, so that SQLite may change the copy."""
    for ending in BESIDE[:2]:
        if (place / f"{FILE}{ending}").is_file():
            shutil.copyfile(place / f"{FILE}{ending}", home / f"{FILE}{ending}")
    return home / FILE if (home / FILE).is_file() else None


def _exchange(place: Path, new: Path) -> str:
    """Replace the old ledger by the new one. Returns the path of the old one, ``ledger.sqlite.damaged-N``."""
    number = 1
    while (place / f"{FILE}.damaged-{number}").exists():
        number += 1
    kept = place / f"{FILE}.damaged-{number}"
    was = (place / FILE).is_file()
    if was:
        shutil.copyfile(place / FILE, kept)
    for ending in BESIDE[1:]:  # SQLite would take them for files of the new ledger
        if (place / f"{FILE}{ending}").is_file():
            (place / f"{FILE}{ending}").replace(f"{kept}{ending}")
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(place / FILE)
    return str(kept) if was else ""
