"""The commands ``study report`` and ``study watch``."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peftport.cli.console import AsJson, print_json, print_table, say
from peftport.cli.study import Changes, Folder, Only, StudyFile, place_of, read_plan, tables_of
from peftport.core.errors import BadRequest
from peftport.core.progress import duration

if TYPE_CHECKING:
    from peftport.report.export import ImageFormat
    from peftport.report.findings import Findings
    from peftport.study.plan import Plan


def register(app: typer.Typer) -> None:
    """Add the commands to ``study``."""
    app.command("report")(report)
    app.command("watch")(watch)


def report(
    study: StudyFile,
    folder: Folder = None,
    results: Annotated[
        Path | None,
        typer.Option(
            "--results", help="Read the tables that study export wrote to this folder, instead of the ledger."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The HTML page to write; replaced if it exists.")] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="Also write the figures as files to this folder.")
    ] = None,
    file_format: Annotated[str, typer.Option("--format", help="The format of the figures: svg, png or pdf.")] = "svg",
    latex: Annotated[
        Path | None, typer.Option("--latex", help="Also write the tables as LaTeX to this folder.")
    ] = None,
    changes: Changes = None,
    only: Only = None,
    json_: AsJson = False,
) -> None:
    """Print the main results of a study, or with --out write them all as one HTML page.

    Example: peftport study report studies/quick.toml --out report.html
    """
    from peftport.report.export import export_figures
    from peftport.report.html import render
    from peftport.report.latex import latex_tables
    from peftport.report.studied import headline_table
    from peftport.store.artifacts import write_text

    image = _image(file_format)
    if out is not None and out.is_dir():
        raise BadRequest(f"--out {out}: expected a file name, got a folder; give {out / 'report.html'}")
    plan = read_plan(study, changes, only)
    found = _findings(plan, study, folder, results)
    written: list[str] = []
    if out is not None:
        write_text(out, render(found))
        written.append(str(out))
    if figures is not None:
        written += [str(path) for path in export_figures(found, figures, image)]
    if latex is not None:
        written += [str(path) for path in latex_tables(found, latex)]
    if json_:
        print_json({
            "study": found.study, "headlines": list(found.headlines), "files": written,
            "pooled": found.pooled.to_dicts(), "aggregates": found.aggregates.to_dicts(),
            "verdicts": found.verdicts.to_dicts(), "regret": found.regret.to_dicts(),
        })  # fmt: skip
        return
    if not written:
        print_table(headline_table(found))
    for line in found.headlines:
        say(line)
    for path in written:
        say(f"written: {path}")


def watch(
    study: StudyFile,
    folder: Folder = None,
    changes: Changes = None,
    only: Only = None,
    every: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two updates of the display.")] = 2.0,
) -> None:
    """Follow a running study until it is done, then print its main results. Ctrl-C stops watching, not the study.

    Example: peftport study watch studies/quick.toml
    """
    from rich.console import Console
    from rich.live import Live

    from peftport.report.studied import headline_table
    from peftport.store.ledger import open_ledger

    plan = read_plan(study, changes, only)
    ledger = open_ledger(place_of(plan, folder))
    begun, first = time.monotonic(), -1
    try:
        with Live(console=Console(stderr=True), auto_refresh=False) as live:
            while True:
                counts = _counts(plan, ledger.states())
                left = len(plan.jobs) - sum(counts.values())
                first = left if first < 0 else first
                live.update(_line(plan, counts, left, first, time.monotonic() - begun), refresh=True)
                if not left:
                    break
                time.sleep(every)
    finally:
        ledger.close()
    found = _findings(plan, study, folder, None)
    print_table(headline_table(found))
    for line in found.headlines:
        say(line)


def _image(name: str) -> ImageFormat:
    from peftport.report.export import FORMATS

    for known in FORMATS:
        if known == name:
            return known
    raise BadRequest(f"--format: expected one of {', '.join(FORMATS)}, got {name}")


def _counts(plan: Plan, states: dict[str, Any]) -> Counter[str]:
    return Counter(states[job] for job in plan.jobs if job in states)


def _line(plan: Plan, counts: Counter[str], left: int, first: int, seconds: float) -> str:
    gone = first - left
    rate = f", about {duration(left * seconds / gone)} left" if gone and left else ""
    told = ", ".join(f"{counts[state]} {state}" for state in ("done", "failed", "blocked"))
    return f"{plan.study.name}: {told}, {left} left of {len(plan.jobs)} jobs{rate}"


def _findings(plan: Plan, study: Path, folder: Path | None, results: Path | None) -> Findings:
    from peftport.report.studied import study_findings
    from peftport.study.export import read_about, read_export

    if results is not None:
        tables, told = read_export(results), read_about(results)
    else:
        tables, told = tables_of(plan, study, folder)
    return study_findings(tables.runs, tables.correct, told, judged_by=tables.judged)
