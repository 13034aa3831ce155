"""The ledger as tables: one row a run, every factor a column; and what every run said of every test item.

Columns of ``runs`` (docs/study.md says them in full):

    run                       names the run; the key of ``correct``
    technique origin receiver origin_task receiver_task arm method budget seed        the factors
    state                     done, failed, blocked (something it needs has failed), pending
    accuracy auroc accuracy_at_median n_items loss steps train_seconds test_seconds host_distance
    error job

``arm``: ported and sampled are the runs; scratch, ceiling (scratch with the origins' full steps) and bare (the host
alone) are the baseline, which knows no origin: origin and origin_task are null there. ``method``: the porter or the
sampler. ``loss``: mean training loss over the steps since the budget before. ``host_distance``: relative L2 distance of
the receiver's weights from the origin's, null where their shapes differ. Seconds are shares of the stack's.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import safe_open

from peftport.errors import BadRequest, PeftportError
from peftport.measures.columns import CORRECT, FACTORS, RUNS
from peftport.store.artifacts import Artifacts, write_bytes, write_text
from peftport.store.ledger import Ledger, Row
from peftport.study.about import FILE as ABOUT
from peftport.study.about import About
from peftport.study.grid import Run
from peftport.study.plan import Plan

FORMATS = ("parquet", "csv", "jsonl")
# Text that a spreadsheet would run, and such text behind apostrophes, so that one can be taken off again.
FORMULA = r"^'*[=+\-@\t\r\n]"


@dataclass(frozen=True, eq=False)
class Exported:
    """The two tables. ``correct``: run, correct (one boolean a test item, in the order of the task's test split)."""

    runs: pl.DataFrame
    correct: pl.DataFrame


def export(plan: Plan, ledger: Ledger, artifacts: Artifacts, *, items: bool = True) -> Exported:
    """Read every run of a plan out of its ledger; ``items``: per-item correctness too.

    Raises:
        PeftportError: an artifact is missing or corrupt.

    """
    rows = {row.id: row for row in ledger.rows() if row.id in plan.jobs}
    values: dict[str, list[Any]] = {name: [] for name in RUNS}
    for run in plan.runs():
        record = run_record(plan, run, rows)
        for name in RUNS:
            values[name].append(record[name])
    runs = pl.DataFrame(values, schema=RUNS)
    found = list(_correct(runs, rows, artifacts)) if items else []
    return Exported(runs, pl.DataFrame(found, schema=CORRECT, orient="row"))


def write_export(exported: Exported, folder: Path, file_format: str) -> list[Path]:
    """Write ``runs.FORMAT`` and ``correct.FORMAT`` (as text of 0 and 1 where the format has no lists).

    In CSV an apostrophe comes before text that a spreadsheet would take for a formula.
    """
    written = []
    for name, frame in (("runs", exported.runs), ("correct", exported.correct)):
        path = folder / f"{name}.{file_format}"
        write_bytes(path, _bytes(frame, file_format))
        written.append(path)
    return written


def _bytes(frame: pl.DataFrame, file_format: str) -> bytes:
    out = io.BytesIO()
    if file_format == "parquet":
        frame.write_parquet(out, compression="zstd", compression_level=15)
    elif file_format == "jsonl":
        frame.write_ndjson(out)
    else:
        flat = frame.with_columns(
            pl.col(name).cast(pl.List(pl.Int8)).cast(pl.List(pl.String)).list.join("")
            for name, kind in frame.schema.items()
            if isinstance(kind, pl.List)
        )
        flat.with_columns(pl.col(pl.String).str.replace(FORMULA, "'${0}")).write_csv(out)
    return out.getvalue()


def run_record(plan: Plan, run: Run, rows: Mapping[str, Row]) -> dict[str, Any]:
    """The columns of one run; ``rows``: those of its job and of its hosts' distance, as far as they are on record."""
    job = plan.job_of(run)
    row = rows.get(job)
    metrics = (row.metrics if row else None) or {}
    test = metrics.get("tests", {}).get(str(run.budget), {})
    distance_job = plan.distance_of(run)
    distance = rows.get(distance_job) if distance_job else None
    return {
        "run": run.name,
        **{name: getattr(run, name) for name in FACTORS},
        "state": row.state if row else "pending",
        **{name: test.get(name) for name in ("accuracy", "auroc", "accuracy_at_median", "n_items", "loss")},
        "steps": run.budget,
        "train_seconds": run.budget * metrics["train_seconds_per_step"] if "learning_rate" in metrics else None,
        "test_seconds": metrics.get("test_seconds"),
        "host_distance": (distance.metrics or {}).get("weights") if distance else None,
        "error": row.error.splitlines()[0] if row and row.error else None,
        "job": job,
    }


def _correct(runs: pl.DataFrame, rows: dict[str, Row], artifacts: Artifacts) -> Iterator[tuple[str, list[bool]]]:
    @lru_cache(maxsize=4)
    def opened(sha256: str) -> dict[str, np.ndarray[Any, Any]]:
        if not artifacts.holds(sha256):
            path = artifacts.path(sha256)
            raise PeftportError(f"{path}: expected an artifact of this study, it is missing or corrupt; run it again")
        with safe_open(artifacts.path(sha256), framework="np") as tensors:
            return {key: tensors.get_tensor(key) for key in tensors.keys() if "/correct/" in key}  # noqa: SIM118

    for name, job, budget, state in runs.select("run", "job", "budget", "state").iter_rows():
        if state == "done":
            sha256 = rows[job].artifact or ""
            yield name, opened(sha256)[f"{job}/correct/{budget}"].tolist()


def read_export(folder: Path) -> Exported:
    """Read tables that `write_export` wrote as Parquet.

    Raises:
        BadRequest: they are not there.

    """
    absent = [name for name in ("runs.parquet", "correct.parquet") if not (folder / name).is_file()]
    if absent:
        raise BadRequest(f"{folder}: expected {absent[0]} there, found none; run peftport study export --out {folder}")
    return Exported(pl.read_parquet(folder / "runs.parquet"), pl.read_parquet(folder / "correct.parquet"))


def write_about(told: About, folder: Path) -> Path:
    """Write ``study.json`` beside the tables."""
    path = folder / ABOUT
    write_text(path, told.model_dump_json(indent=2) + "\n")
    return path


def read_about(folder: Path) -> About:
    """Read ``study.json``.

    Raises:
        BadRequest: it is not there, or not what this version writes.

    """
    path = folder / ABOUT
    try:
        return About.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise BadRequest(f"{path}: expected what study export writes, got: {first}; export the study anew") from error


def differences(ours: Exported, theirs: Exported, runs: Sequence[str]) -> list[tuple[str, float, int]]:
    """For each of these runs: its name, how far the accuracies are apart, and on how many items the two differ."""
    one, other = (dict(exported.correct.iter_rows()) for exported in (ours, theirs))
    found = []
    for run in runs:
        a, b = np.array(one[run]), np.array(other[run])
        found.append((run, float(abs(a.mean() - b.mean())), int((a != b).sum())))
    return found
