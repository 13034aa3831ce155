"""The ledger as tables: one row a run, every factor a column; and what every run said of every test item.

No number leaves the ledger, and none is read from tables, that its items do not give: what was altered is named.

Columns of ``runs`` (docs/study.md says them in full):

    run                       names the run; the key of ``correct``
    technique origin receiver origin_task receiver_task arm method budget seed        the factors
    state                     done, failed, blocked (something it needs has failed), pending
    accuracy auroc accuracy_at_median, and every other metric of the kinds of the study's tasks (`peftport.metrics`)
    n_items loss steps train_seconds test_seconds host_distance
    error job

``arm``: ported and sampled are the runs; scratch, ceiling (scratch with the origins' full steps) and bare (the host
alone) are the baseline, which knows no origin: origin and origin_task are null there. ``method``: the porter or the
sampler. ``loss``: mean training loss over the steps since the budget before. ``host_distance``: relative L2 distance of
the receiver's weights from the origin's, null where their shapes differ. Seconds are shares of the stack's.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftport.analysis.columns import CORRECT, FACTORS, FORMULA, OLD_METRICS, completed, run_columns
from peftport.core.errors import BadRequest, PeftportError, first_line
from peftport.core.libraries import pl
from peftport.core.progress import current
from peftport.metrics import METRICS, metrics_of
from peftport.store.artifacts import Artifacts, write_bytes, write_text
from peftport.store.ledger import JobRow, Ledger, damaged
from peftport.study.about import FILE as ABOUT
from peftport.study.about import About, about
from peftport.study.commands import ExportRequest
from peftport.study.gates import gate_table
from peftport.study.grid import Run
from peftport.study.item_table import ANEW, item_frames, read_items, write_items
from peftport.study.item_table import NAME as ITEM_TABLE
from peftport.study.items import CLASSES, CLOSE, StoredItems, kind_of_row
from peftport.study.opened import OpenedStudy
from peftport.study.plan import Plan
from peftport.study.tested import TestedTasks, tested_tasks


@dataclass(frozen=True, eq=False)
class Exported:
    """The two tables. ``correct``: run, correct (one boolean a test item, in the order of the task's test split).

    Only runs on classes are in ``correct``. ``tested``: what the tests say of their tasks, where the items tell it.
    """

    runs: pl.DataFrame
    correct: pl.DataFrame
    tested: TestedTasks = field(default_factory=TestedTasks)


def export(plan: Plan, ledger: Ledger, artifacts: Artifacts, *, items: bool = True) -> Exported:
    """Read every run of a plan out of its ledger, held to its items; ``items``: per-item correctness too.

    Raises:
        PeftportError: an artifact is missing or corrupt.
        BadRequest: the ledger is damaged, or a row's numbers are not what its items give.

    """
    ledger.check()
    rows = rows_of(plan, ledger)
    kinds, stored = _kinds(plan, rows), StoredItems(artifacts)
    columns = run_columns(*kinds)
    values: dict[str, list[Any]] = {name: [] for name in columns}
    measured: dict[tuple[str, int], dict[str, Any]] = {}  # of tests whose row lacks a metric
    wanted = [*plan.runs()]
    advance = current().stage(f"reading the runs of {plan.study.name}", len(wanted))
    for run in wanted:
        record = run_record(plan, run, rows)
        advance(1)
        if items and record["state"] == "done":
            test = record["job"], run.budget
            lacking = [name for name in metrics_of(kind_of_row(rows[test[0]])) if record[name] is None]
            if lacking and test not in measured:
                measured[test] = stored.measured(rows[test[0]], run.budget)
            record |= {name: measured[test].get(name) for name in lacking}
        for name in columns:
            values[name].append(record[name])
    runs = pl.DataFrame(values, schema=columns)
    correct = list(_correct(runs, rows, stored, ledger.folder)) if items else []
    tested = tested_tasks(runs, rows, stored) if items else TestedTasks()
    return Exported(runs, pl.DataFrame(correct, schema=CORRECT, orient="row"), tested)


def export_study(opened: OpenedStudy, request: ExportRequest) -> tuple[Exported, tuple[Path, ...]]:
    """Read the tables of a study, and write them to ``out`` if that is given. Returns them and the files written.

    Raises:
        PeftportError: an artifact is missing or corrupt.
        BadRequest: nothing was run yet, the ledger is damaged, or a row's numbers are not what its items give.

    """
    from peftport.study.gate_results import study_gates  # imported here because statistics are slow to import

    with opened.ledger() as ledger:
        exported = export(opened.plan, ledger, opened.artifacts)
        told = about(opened.plan, ledger, opened.command, exported.tested, study_gates(opened, ledger))
        if request.out is None:
            return exported, ()
        out = Path(request.out)
        written = write_export(exported, out, request.format)
        if told.gates:
            written += _written([("gates", gate_table(told.gates))], out, request.format)
        if request.items:
            rows, path = rows_of(opened.plan, ledger), out / f"{ITEM_TABLE}.{request.format}"
            written.append(write_items(item_frames(exported.runs, rows, StoredItems(opened.artifacts)), path))
    return exported, (*written, write_about(told, out, written))


def _kinds(plan: Plan, rows: Mapping[str, JobRow]) -> list[str]:
    """The kinds of the plan's tasks: those of the jobs that are done, and what the study declares of others."""
    done = {kind_of_row(row) for row in rows.values() if row.metrics and "tests" in row.metrics}
    declared = {plan.study.declared_kind(pair.receiver) for pair in plan.study.tasks} - {None}
    return sorted(done | {kind for kind in declared if kind is not None})


def rows_of(plan: Plan, ledger: Ledger) -> dict[str, JobRow]:
    """The rows of a plan's jobs that are on record, by id."""
    return {row.id: row for row in ledger.rows() if row.id in plan.jobs}


def write_export(exported: Exported, folder: Path, file_format: str) -> list[Path]:
    """Write ``runs.FORMAT`` and ``correct.FORMAT`` (as text of 0 and 1 where the format has no lists).

    In CSV an apostrophe comes before text that a spreadsheet would take for a formula.
    """
    return _written([("runs", exported.runs), ("correct", exported.correct)], folder, file_format)


def _written(tables: Iterable[tuple[str, pl.DataFrame]], folder: Path, file_format: str) -> list[Path]:
    written = []
    for name, frame in tables:
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


def run_record(plan: Plan, run: Run, rows: Mapping[str, JobRow]) -> dict[str, Any]:
    """The columns of one run; ``rows``: those of its job and of its hosts' distance, as far as they are on record."""
    job = plan.job_of(run)
    row = rows.get(job)
    metrics = (row.metrics if row else None) or {}
    test = metrics.get("tests", {}).get(str(run.budget), {})
    per_step = metrics.get("train_seconds_per_step")  # unknown where the row was restored from its artifact
    distance_job = plan.distance_of(run)
    distance = rows.get(distance_job) if distance_job else None
    untested = row is None or (row.state == "done" and not test)  # taken as done from tables that lack this run
    return {
        "run": run.name,
        **{name: getattr(run, name) for name in FACTORS},
        "state": "pending" if row is None or untested else row.state,
        **{name: test.get(name) for name in (*METRICS, "n_items", "loss")},
        "steps": run.budget,
        "train_seconds": None if per_step is None else run.budget * per_step,
        "test_seconds": metrics.get("test_seconds"),
        "host_distance": (distance.metrics or {}).get("weights") if distance else None,
        "error": row.error.splitlines()[0] if row and row.error else None,
        "job": job,
    }


def _correct(
    runs: pl.DataFrame, rows: Mapping[str, JobRow], items: StoredItems, folder: Path
) -> Iterator[tuple[str, list[bool]]]:
    held: set[str] = set()
    for name, job, budget, state in runs.select("run", "job", "budget", "state").iter_rows():
        if state != "done":
            continue
        if job not in held:  # several runs may share one
            held.add(job)
            fault = items.fault(rows[job])
            if fault:
                raise damaged(folder, fault)
        correct = items.correct(rows[job], budget)
        if correct is not None:
            yield name, correct


def read_export(folder: Path) -> Exported:
    """Read tables that `write_export` wrote as Parquet, held to ``study.json`` where it is there, and to each other.

    Raises:
        BadRequest: they are not there, or no tables.
        PeftportError: they were altered; the line says where.

    """
    paths = [folder / name for name in ("runs.parquet", "correct.parquet")]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise BadRequest(f"{folder}: expected {absent[0]} there, found none; run peftport study export --out {folder}")
    told = read_about(folder) if (folder / ABOUT).is_file() else None
    if told is not None:
        _check_sums(paths, told.tables)
    try:
        read = Exported(pl.read_parquet(paths[0]), pl.read_parquet(paths[1]))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadRequest(
            f"{folder}: expected tables that study export wrote, got: {first_line(error)}; {ANEW}"
        ) from error
    fault = _wrong_columns(read) or table_fault(read)
    if fault:
        raise PeftportError(f"{folder}: {fault}; {ANEW}")
    return Exported(completed(read.runs), read.correct, told.tested if told else TestedTasks())


def recorded_items(folder: Path) -> pl.LazyFrame | None:
    """Open the table of items beside the others, held to its sum; None where it was not written or was taken away.

    Raises:
        PeftportError: it was altered, or is no such table.

    """
    path = folder / f"{ITEM_TABLE}.parquet"
    sums = read_about(folder).tables if (folder / ABOUT).is_file() else {}
    if path.name not in sums or not path.is_file():
        return None
    _check_sums([path], sums)
    return read_items(path)


def _check_sums(paths: list[Path], sums: Mapping[str, str]) -> None:
    """Hold files to their sums; ``study.json`` of before sums were written has none."""
    for path in paths if sums else ():
        sha = _sum(path)
        if sums.get(path.name) != sha:
            expected = sums.get(path.name, "no such table")[:12]
            raise PeftportError(f"{path}: expected what {ABOUT} tells of (sha256 {expected}), got {sha[:12]}; {ANEW}")


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wrong_columns(tables: Exported) -> str | None:
    """Metrics may be missing, as in tables of an early version, or unknown here; the rest is in its place."""
    known = {name: kind for name, kind in run_columns().items() if name not in METRICS or name in OLD_METRICS}
    for name, frame, schema in (("runs", tables.runs, known), ("correct", tables.correct, CORRECT)):
        more = {name: kind for name, kind in frame.schema.items() if name not in schema}
        shared = pl.Schema({name: kind for name, kind in frame.schema.items() if name in schema})
        if shared != pl.Schema(schema) or (more and (name != "runs" or set(more.values()) != {pl.Float64()})):
            return f"{name}: expected the columns of study export ({', '.join(schema)}), got others or in another order"
    return None


def table_fault(tables: Exported) -> str | None:
    """The first run whose numbers are not what its items give, or whose items are missing, twice or nobody's.

    Runs of other kinds of task than classes have no items here.
    """
    runs, correct = tables.runs, tables.correct
    for name, frame in (("runs", runs), ("correct", correct)):
        twice = frame.filter(pl.col("run").is_duplicated())["run"]
        if len(twice):
            return f"{name}: expected each run once, got {twice[0]!r} more than once"
    done = runs.filter(state="done")
    classes = done.filter(~_of_other_kinds(done))
    for name, table, other in (("correct", classes, correct), ("runs", correct, classes)):
        lost = table.join(other, on="run", how="anti")
        if lost.height:
            return f"{name}: expected the run {lost['run'][0]!r}, which the other table has, found none"
    both = done.join(correct, on="run", maintain_order="left")
    items = pl.col("correct")
    wrong = both.filter(
        ~items.list.len().eq_missing(pl.col("n_items").cast(pl.UInt32, strict=False))
        | ((items.list.mean() - pl.col("accuracy")).abs() > CLOSE).fill_null(True)
        | items.list.eval(pl.element().is_null()).list.any()
    )
    for row in wrong.head(1).iter_rows(named=True):
        right = [bool(item) for item in row["correct"]]
        gives = f"{sum(right) / len(right):g} over {len(right)} items" if right else "no items"
        return f"run {row['run']!r}: its items give {gives}, its row says {row['accuracy']} over {row['n_items']}"
    return None


def _of_other_kinds(runs: pl.DataFrame) -> pl.Expr:
    """Which runs were tested on other targets than classes: they have a metric that classes do not have, not theirs."""
    others = [name for name, metric in METRICS.items() if CLASSES not in metric.kinds and name in runs.columns]
    return pl.col("accuracy").is_null() & pl.any_horizontal(pl.lit(value=False), pl.col(others).is_not_null())


def write_about(told: About, folder: Path, tables: Iterable[Path] = ()) -> Path:
    """Write ``study.json`` beside the tables, with the sums of those that were just written.

    A table of items that an earlier export wrote there is not of these tables, and is removed.
    """
    path, tables = folder / ABOUT, list(tables)
    for table in set(_tables_before(path)) - {table.name for table in tables}:
        if table.startswith(f"{ITEM_TABLE}."):
            (folder / table).unlink(missing_ok=True)
    summed = told.model_copy(update={"tables": {table.name: _sum(table) for table in tables}})
    write_text(path, summed.model_dump_json(indent=2) + "\n")
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
        raise BadRequest(
            f"{path}: expected what study export writes, got: {first_line(error)}; export the study anew"
        ) from error


def _tables_before(path: Path) -> dict[str, str]:
    try:
        return About.model_validate_json(path.read_text(encoding="utf-8")).tables
    except (OSError, ValueError):
        return {}
