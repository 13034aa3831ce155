"""The commands of ``peftport study``, each made from its request: it opens the study, calls one method, and prints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import Parameter
from typing import TYPE_CHECKING, Any

import typer

from peftport.cli import options as o
from peftport.cli.console import AS_JSON, bars, remark, show
from peftport.core.errors import PeftportError
from peftport.core.request import Request, words_of
from peftport.study.commands import (
    ExportRequest,
    GatesRequest,
    JoinRequest,
    PlanRequest,
    RepairRequest,
    ReportRequest,
    RunRequest,
    StatusRequest,
    StudyRequest,
    VerifyRequest,
    WatchRequest,
)

if TYPE_CHECKING:
    from peftport.api.result import Result

app = typer.Typer(
    no_args_is_help=True,
    help="Plan, run and report a study: a grid of training and test runs that one TOML file declares.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
# The options of each command in the order of its help page: of the study, where they stand, and of its own request.
COMMANDS: dict[str, tuple[type[Request], tuple[str, ...]]] = {
    "plan": (PlanRequest, ("file", "set", "only", "shard", "calibrate", "workers")),
    "run": (
        RunRequest,
        (
            "file", "dir", "set", "only", "shard", "executor", "workers", "threads", "max_jobs", "stop_after_seconds",
            "retry_failed", "accept_versions", "results", "gates", "track",
        ),
    ),
    "status": (StatusRequest, ("file", "dir", "set", "only", "shard")),
    "gates": (GatesRequest, ("file", "dir", "set", "only", "shard")),
    "merge": (JoinRequest, ("out", "folders", "accept_versions")),
    "export": (ExportRequest, ("file", "out", "dir", "set", "only", "shard", "format", "items")),
    "verify": (
        VerifyRequest,
        ("file", "results", "sample", "seed", "tolerance", "set", "executor", "workers", "threads"),
    ),
    "repair": (RepairRequest, ("file", "dir", "set")),
    "report": (
        ReportRequest,
        ("file", "dir", "results", "out", "figures", "format", "latex", "metric", "set", "only"),
    ),
    "watch": (WatchRequest, ("file", "dir", "set", "only", "shard", "every")),
}  # fmt: skip
WITHOUT_JSON = "watch"


def _command(name: str) -> Any:
    request, shown = COMMANDS[name]

    def run(**texts: Any) -> None:
        as_json = texts.pop("json_", False)
        values, named = o.values_of(request, texts), o.values_of(StudyRequest, texts)
        o.naming_options(request, **values)  # a slip is told before anything large is imported
        if "file" in shown:
            o.naming_options(StudyRequest, **named)
        from peftport.api import Study

        study = o.naming_options(Study.from_file, **named) if "file" in shown else Study
        with _telling(name) as told:
            result: Result = o.naming_options(getattr(study, name), **values, **told)
        show(result, as_json, _after(name, result, texts) if sys.stdout.isatty() and "file" in shown else ())
        failure = result.failure()
        if failure is not None:
            raise PeftportError(failure)

    known = {each.name: each for each in (*o.parameters_of(StudyRequest), *o.parameters_of(request))}
    return o.as_command(run, name, request, [*(known[each] for each in shown), *_json(name)])


def _after(name: str, result: Result, texts: dict[str, Any]) -> tuple[str, ...]:
    """Return the words of the command that comes next, of the same part of the study."""
    from peftport.api.following import after_study

    named = StudyRequest(**o.values_of(StudyRequest, texts))
    return after_study(name, result, named.file, words_of(named, leave_out=("file",)))


def _json(name: str) -> list[Parameter]:
    return [] if name == WITHOUT_JSON else [AS_JSON]


@contextmanager
def _telling(name: str) -> Iterator[dict[str, Any]]:
    """Yield what a method is given to tell how far the work is: bars, or for ``watch`` a line that is replaced."""
    if name != "watch":
        with bars() as progress:
            yield {"progress": progress} | ({"warn": remark} if name == "run" else {})
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        yield {"tell": lambda line: live.update(line, refresh=True)}


for _name in COMMANDS:
    app.command(_name)(_command(_name))
