"""The commands ``study plan``, ``run``, ``status``, ``export``, ``verify`` and ``repair``."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peftport.cli import options as o
from peftport.cli.console import AsJson, bars, print_json, print_table, remark, say, show
from peftport.core.errors import BadRequest, PeftportError
from peftport.core.progress import duration
from peftport.core.request import options
from peftport.study.commands import RunRequest, StudyRequest

if TYPE_CHECKING:
    from peftport.study.about import About
    from peftport.study.export import Exported
    from peftport.study.plan import Plan

app = typer.Typer(
    no_args_is_help=True,
    help="Plan, run and report a study: a grid of training and test runs that one TOML file declares.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_STUDY, _RUN = options(StudyRequest), options(RunRequest)
StudyFile = Annotated[Path, o.info("file", _STUDY["file"])]
Folder = Annotated[Path | None, o.info("dir", _STUDY["dir"])]
Changes = Annotated[list[str] | None, o.info("set", _STUDY["set"])]
Only = Annotated[list[str] | None, o.info("only", _STUDY["only"])]
Workers = Annotated[int | None, o.info("workers", _RUN["workers"])]
Threads = Annotated[int, o.info("threads", _RUN["threads"])]
ExecutorName = Annotated[str, o.info("executor", _RUN["executor"])]


def read_plan(path: Path, changes: list[str] | None, only: list[str] | None) -> Plan:
    """Read the plan of a study file, with ``--set`` and ``--only`` applied."""
    from peftport.study.grid import read_study
    from peftport.study.plan import Plan, chosen_factors

    replaced = o.values_of(StudyRequest, {"set": changes}).get("set", {})
    plan = Plan(read_study(path, replaced), chosen_factors(only or []))
    if not plan.jobs:
        raise BadRequest(
            f"--only {' '.join(only or [])}: expected values that the study has, no run is left; check them"
        )
    return plan


def place_of(plan: Plan, folder: Path | None) -> Path:
    """Return the folder of the study's ledger, ``--dir`` or runs/NAME."""
    return folder or Path("runs") / plan.study.name


def tables_of(plan: Plan, study: Path, folder: Path | None) -> tuple[Exported, About]:
    """Return the tables of a study, and how it was run, from its ledger."""
    from peftport.store.artifacts import Artifacts
    from peftport.store.ledger import open_ledger
    from peftport.study.about import about
    from peftport.study.export import export

    place = place_of(plan, folder)
    ledger = open_ledger(place)
    try:
        return export(plan, ledger, Artifacts(place / "artifacts")), about(plan, ledger, f"peftport study run {study}")
    finally:
        ledger.close()


@app.command("plan")
def plan_study(
    study: StudyFile,
    changes: Changes = None,
    only: Only = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Estimate the duration: time a few steps of every technique on every host that is installed.",
        ),
    ] = False,
    workers: Workers = None,
    json_: AsJson = False,
) -> None:
    """Count the runs, jobs and training steps of a study; with --calibrate, estimate how long it takes here.

    Example: peftport study plan studies/paper.toml
    """
    plan = read_plan(study, changes, only)
    shared = plan.sharing
    found: dict[str, Any] = {"study": plan.study.name, **asdict(shared)}
    found["jobs_by_kind"] = dict(Counter(job.kind for job in plan.jobs.values()))
    if calibrate:
        from peftport.cli.console import quiet_libraries
        from peftport.study.estimate import estimate
        from peftport.study.executors import workers_here

        quiet_libraries()
        found["estimate"] = asdict(estimate(plan, workers or workers_here(1, plan.study.loading)))
    if json_:
        print_json(found)
        return
    saved = 1 - shared.steps_needed / shared.steps_asked if shared.steps_asked else 0.0
    say(f"{plan.study.name}: {shared.runs} runs, and {shared.baseline_runs} of the baseline (scratch, ceiling, bare)")
    say(f"{shared.jobs} jobs in {shared.stacks} stacks")
    say(f"{shared.steps_asked:,} training steps asked, {shared.steps_needed:,} needed: sharing saves {saved:.0%}")
    if calibrate:
        cost = found["estimate"]
        say(f"about {duration(cost['seconds'])} here, {cost['disk_bytes'] / 1e6:,.0f} MB on disk")
        if cost["unknown"]:
            say(f"not counted, since they are not on this machine: {', '.join(cost['unknown'])}")


def run(**texts: Any) -> None:
    """Run a study and print what was done."""
    from peftport.api import Study

    as_json, found = texts.pop("json_"), o.values_of(RunRequest, texts)
    planned = o.naming_options(Study.from_file, **o.values_of(StudyRequest, texts))
    with bars() as progress:
        ran = o.naming_options(planned.run, **found, warn=remark, progress=progress)
    show(ran, as_json)
    s = ran.summary
    if s.failed or s.blocked or s.failed_before:
        earlier = f", {s.failed_before} were so before" if s.failed_before else ""
        raise PeftportError(
            f"{s.failed} jobs failed, {s.blocked} could not begin{earlier}; see peftport study status {planned.file}, "
            "then run again with --retry-failed"
        )


app.command("run")(o.as_command(run, "run", RunRequest, [*o.parameters_of(StudyRequest), *o.parameters_of(RunRequest)]))


@app.command("status")
def status(
    study: StudyFile, folder: Folder = None, changes: Changes = None, only: Only = None, json_: AsJson = False
) -> None:
    """Show how far a study is, and what failed.

    Example: peftport study status studies/quick.toml
    """
    from peftport.report.tables import Table
    from peftport.store.ledger import open_ledger

    plan = read_plan(study, changes, only)
    with closing(open_ledger(place_of(plan, folder))) as ledger:
        ledger.check()
        states = ledger.states()
        failures: list[dict[str, Any]] = [
            {"job": row.id, "kind": row.kind, "attempts": row.attempt + 1, "error": (row.error or "").splitlines()[0]}
            for row in ledger.rows()
            if row.state == "failed" and row.id in plan.jobs
        ]
    counts = Counter(states.get(job, "left") for job in plan.jobs)
    found = {"study": plan.study.name, "jobs": len(plan.jobs), **{s: counts[s] for s in _STATES}, "failures": failures}
    if json_:
        print_json(found)
        return
    print_table(
        Table(
            f"{plan.study.name}: {len(plan.jobs)} jobs", ("state", "jobs"), tuple((s, str(counts[s])) for s in _STATES)
        )
    )
    for failure in failures:
        say(f"{failure['job'][:12]} ({failure['kind']}, {failure['attempts']} attempts): {failure['error']}")


_STATES = ("done", "failed", "blocked", "left")


@app.command("export")
def export_study(
    study: StudyFile,
    out: Annotated[
        Path, typer.Option("--out", help="A folder for runs.FORMAT, correct.FORMAT and study.json, which are replaced.")
    ],
    folder: Folder = None,
    changes: Changes = None,
    only: Only = None,
    file_format: Annotated[
        str, typer.Option("--format", help="The format of the tables: parquet, csv or jsonl.")
    ] = "parquet",
    json_: AsJson = False,
) -> None:
    """Write the results of a study as tables: the runs, their results item by item, and how they were made.

    runs.FORMAT has one row per run, with a column for each factor and metric; correct.FORMAT says
    which test items each run got right; study.json has the study, the versions and the machine.

    Example: peftport study export studies/quick.toml --out results/quick
    """
    from peftport.study.export import FORMATS, write_about, write_export

    if file_format not in FORMATS:
        raise BadRequest(f"--format: expected one of {', '.join(FORMATS)}, got {file_format}")
    if out.exists() and not out.is_dir():
        raise BadRequest(f"--out {out}: expected a folder, got a file; choose another")
    exported, told = tables_of(read_plan(study, changes, only), study, folder)
    written = write_export(exported, out, file_format)
    written.append(write_about(told, out, written))
    states = dict(Counter(exported.runs["state"].to_list()))
    if json_:
        print_json({"runs": exported.runs.height, "states": states, "files": [str(path) for path in written]})
    else:
        say(f"{exported.runs.height} runs ({', '.join(f'{n} {s}' for s, n in states.items())}) to {out}")


@app.command("verify")
def verify_study(
    study: StudyFile,
    results: Annotated[Path, typer.Option("--results", help="A folder that study export wrote, as Parquet.")],
    sample: Annotated[int, typer.Option("--sample", min=1, help="How many random runs to recompute.")] = 5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random choice.")] = 0,
    tolerance: Annotated[
        int, typer.Option("--tolerance", min=0, help="How many items of a run may differ from the recorded ones.")
    ] = 0,
    changes: Changes = None,
    executor: ExecutorName = "processes",
    workers: Workers = None,
    threads: Threads = 1,
    json_: AsJson = False,
) -> None:
    """Recompute some runs, chosen at random, and compare them with the exported results, item by item.

    On another processor numbers are rounded differently, and a few items may differ (--tolerance). If
    more differ, the exit code is 1.

    Example: peftport study verify studies/quick.toml --results results/quick --sample 3
    """
    from peftport.report.tables import Table
    from peftport.study.executors import make_executor
    from peftport.study.export import read_export
    from peftport.study.verify import verify

    plan = read_plan(study, changes, None)
    recorded = read_export(results)
    with bars() as progress:
        made = partial(make_executor, executor, workers, threads, plan.study.loading)
        found = verify(plan, recorded, sample, seed, made, progress, tolerance)
    if json_:
        print_json({"runs": [asdict(each) for each in found], "tolerance": tolerance})
    else:
        rows = tuple(
            (v.run, f"{v.accuracy_difference:.4f}", str(v.items_that_differ), ", ".join(v.columns_that_differ))
            for v in found
        )
        columns = ("run", "accuracy differs by", "items that differ", "columns that differ")
        print_table(Table("Recomputed runs", columns, rows))
    wrong = [each for each in found if each.differs(tolerance)]
    if wrong:
        how = f"in {', '.join(wrong[0].columns_that_differ) or 'no column'} and on {wrong[0].items_that_differ} items"
        raise PeftportError(
            f"{len(wrong)} of {len(found)} recomputed runs differ from those in {results}, first: {wrong[0].run!r}, "
            f"{how}; on another processor a few items may (--tolerance)"
        )


@app.command("repair")
def repair_study(study: StudyFile, folder: Folder = None, changes: Changes = None, json_: AsJson = False) -> None:
    """Restore a damaged ledger, the file that records the finished jobs of a study.

    It is made anew from what can be read of the damaged file, which is kept under another name, and
    from the artifacts. The next run repeats the jobs that could not be restored.

    Example: peftport study repair studies/quick.toml
    """
    from peftport.study.repair import repair

    plan = read_plan(study, changes, None)
    found = repair(plan, place_of(plan, folder))
    if json_:
        print_json({"study": plan.study.name, **asdict(found)})
    else:
        say(f"{plan.study.name}: {found}")
