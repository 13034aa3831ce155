"""Make commands from requests: each field becomes an option, and the command prints what the function returns.

A command whose task is the user's own data also takes the options that describe a task (`TaskRequest`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, replace
from inspect import Parameter, Signature, getdoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peftport.cli.console import AS_JSON, bars, show
from peftport.core.errors import BadRequest
from peftport.core.request import REQUIRED, SAME, Option, Request, WrongValue, option_name, options, words_of
from peftport.workflows.options import HOST
from peftport.workflows.task_requests import TaskRequest

if TYPE_CHECKING:
    from peftport.api.result import Result
    from peftport.core.progress import Progress
    from peftport.tasks.task import Task

Texts = dict[str, Any]  # the texts that typer read, by the name of the field


def for_rich(help: str) -> str:
    """Escape a help text for rich, where a bracket begins a style."""
    return help.replace("[", "\\[")


HostArgument = Annotated[str, typer.Argument(metavar="HOST", help=for_rich(HOST))]
TASK_FIELDS = tuple(name for name in options(TaskRequest) if name not in ("task", "progress"))


def command(call: str, request: type[Request], *, task_options_before: str | None = None) -> Callable[..., None]:
    """Make the command of a request, which calls the function ``call`` of `peftport.api.calls` and prints the result.

    ``task_options_before`` is the option before which the options that describe a task are put, such as ``json_``.
    """
    parameters = parameters_of(request)
    if task_options_before is not None:
        place = next((i for i, each in enumerate(parameters) if each.name == task_options_before), len(parameters))
        parameters[place:place] = [each for each in parameters_of(TaskRequest) if each.name in TASK_FIELDS]

    def run(**texts: Any) -> None:
        as_json = texts.pop("json_")
        with bars() as progress:
            values = values_of(request, texts)
            if task_options_before is not None and "task" in values:
                values["task"] = _own_task(values["task"], texts, progress)
            result: Result = naming_options(_function(call), **values, progress=progress)
        show(result, as_json)
        if result.exit_code:
            raise typer.Exit(result.exit_code)

    return as_command(run, call, request, [*parameters, AS_JSON])


def as_command(
    run: Callable[..., None], name: str, request: type[Request], parameters: list[Parameter]
) -> Callable[..., None]:
    """Give a function the name, the help text and the options that typer looks for."""
    run.__name__, run.__doc__, run.__annotations__ = name, getdoc(request), {}
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return run


def parameters_of(request: type[Request]) -> list[Parameter]:
    """Return the options and arguments of a request, in the order of its fields."""
    said = options(request)
    return [
        _parameter(each.name, str(each.type), each.default, said[each.name])
        for each in fields(request)
        if not said[each.name].only_python
    ]


def _parameter(name: str, annotation: str, default: Any, said: Option) -> Parameter:
    default = default if said.default is SAME else said.default
    if isinstance(default, tuple):
        default = ",".join(map(str, default)) or None
    kinds = (bool, int, float)
    plain = next((kind for kind in kinds if annotation.startswith(kind.__name__)), Path if said.path else str)
    kind: Any = list[str] if said.repeated else str if said.read is not None else plain
    accepted: Any = kind | None if default is None else kind
    default = Parameter.empty if default is MISSING or default is REQUIRED else default
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[accepted, info(name, said)])


def info(name: str, said: Option) -> Any:
    """Return typer's description of a field, for use in `Annotated`."""
    more: dict[str, Any] = {"help": for_rich(said.help), "metavar": said.metavar, "min": said.at_least}
    if said.argument:
        return typer.Argument(**more)
    return typer.Option(option_name(name, said), *([said.short] if said.short else []), **more)


def values_of(request: type[Request], texts: Mapping[str, Any]) -> dict[str, Any]:
    """Convert what typer read to the values of a request, without options that were not given.

    Raises:
        BadRequest: a text cannot be parsed as the option expects.

    """
    values = {}
    for name, said in options(request).items():
        value = texts.get(name)
        if value is None or said.only_python:
            continue
        try:
            values[name] = value if said.read is None else said.read(value)
        except ValueError as error:
            raise BadRequest(f"{option_name(name, said)}: {error}") from error
    return values


def naming_options(call: Callable[..., Any], **values: Any) -> Any:
    """Call a function of a request; errors about a field name it as the command line writes it."""
    try:
        return call(**values)
    except WrongValue as error:
        raise BadRequest(f"{option_name(error.name)}{error.rest}") from error


def read_task(request: TaskRequest, progress: Progress | None = None) -> Task:
    """Load the task that the options describe."""
    from peftport.tasks import load_task

    def as_tuple(values: Any) -> tuple[str, ...] | None:
        return tuple(values) if values else None

    return load_task(
        str(request.task), text=request.text, label=request.label, group=request.group,
        labels=as_tuple(request.labels), words=as_tuple(request.words),
        descriptions=as_tuple(request.description), prompt=request.prompt, template=request.template,
        kind=request.kind, separator=request.separator, progress=progress,
    )  # fmt: skip


def _function(name: str) -> Callable[..., Result]:
    from peftport.api import calls

    function: Callable[..., Result] = getattr(calls, name)
    return function


def _own_task(task: str, texts: Texts, progress: Progress) -> Task | str:
    """Return the name of a task, or the task itself, read as the options describe, if there are any."""
    described = {name: value for name, value in values_of(TaskRequest, texts).items() if name in TASK_FIELDS}
    if not described:
        return task
    request = TaskRequest(task, **described)
    return replace(read_task(request, progress), asked=words_of(request))
