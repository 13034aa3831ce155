"""Requests: frozen dataclasses that define commands. Each field has its help text, allowed values and parser.

A request is the only definition of its command. The Python function takes its fields as keywords (`takes`), the command
line makes an option of each field, and both show the same texts and refuse the same values.

    @dataclass(frozen=True, eq=False)
    class EvaluateRequest(Request):
        '''Test a host on a task.'''

        host: Place = field(metadata=option("A local folder or a name.", argument=True, metavar="HOST"))
        _: KW_ONLY
        max_tokens: int = field(default=128, metadata=option("Texts are cut to this many tokens.", at_least=1))
"""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from textwrap import TextWrapper
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

from peftport.core.errors import BadRequest
from peftport.core.places import Written, check_place
from peftport.core.progress import Progress, watched

Place = str | Path  # a local path, or the name of a host or task
REQUIRED, SAME = object(), object()
P = ParamSpec("P")
Q = TypeVar("Q", bound="Request")
R = TypeVar("R")
S = TypeVar("S")


class WrongValue(BadRequest):
    """A field has a value that is not allowed. Python and the command line each name the field as users write it."""

    def __init__(self, name: str, problem: str, value: object = None) -> None:
        """Make the error; ``value`` is shown after the name, as in ``--out FILE: expected a folder``."""
        self.name, self.rest = name, f"{'' if value is None else f' {value}'}: {problem}"
        super().__init__(f"{name}{self.rest}")


@dataclass(frozen=True)
class Option:
    """How a field appears to users.

    Attributes:
        help: the meaning of the field, in one sentence.
        metavar: the placeholder for the value on the help page.
        argument: whether it is a positional argument on the command line.
        name: the name of the option, where it differs from the field's name.
        short: a short form of the option.
        path: whether shells complete the value as a path.
        writes: what is written to the place that the value names, which is checked with the request.
        at_least: the smallest allowed number.
        between: two numbers; the value must lie strictly between them.
        choices: the allowed words.
        read: parses the text of the command line, or the list of texts where the option may be repeated.
        repeated: whether the option may be given more than once.
        default: the default on the command line, where it differs from Python's; `REQUIRED` means there is none.
        only_python: whether the command line does not have this option.

    """

    help: str
    metavar: str | None = None
    argument: bool = False
    name: str | None = None
    short: str | None = None
    path: bool = False
    writes: Written | None = None
    at_least: float | None = None
    between: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    read: Callable[[Any], Any] | None = None
    repeated: bool = False
    default: Any = SAME
    only_python: bool = False

    def problem(self, value: Any) -> str | None:
        """Say what is wrong with a value that is not None; return None if it is allowed."""
        if self.choices and value not in self.choices:
            return f"expected {one_of(self.choices)}, got {value!r}"
        if self.at_least is None and self.between is None:
            return None
        if isinstance(value, bool | str) or not hasattr(value, "__float__"):
            return f"expected a number, got {value!r}"
        if self.at_least is not None and not value >= self.at_least:
            return f"expected at least {self.at_least}, got {value}"
        if self.between is not None and not self.between[0] < value < self.between[1]:
            return f"expected a number above {self.between[0]:g} and under {self.between[1]:g}, got {value}"
        return None


def option(help: str, **more: Any) -> dict[str, Option]:
    """Return the metadata for a field of a request; the keywords are those of `Option`."""
    return {"option": Option(help, **more)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """The base class of requests, the inputs of a command.

    Raises:
        WrongValue: a field does not allow its value.
        OutputRefused: a place that is to be written is in use, or cannot be written.

    """

    progress: Progress | None = field(
        default=None, repr=False, metadata=option("Told how far the work is.", only_python=True)
    )

    def __post_init__(self) -> None:
        for name, said in options(type(self)).items():
            value = getattr(self, name)
            if value is not None and (problem := said.problem(value)):
                self.refuse(name, problem)
        for name, said in options(type(self)).items():
            if said.writes is not None and (value := getattr(self, name)) is not None:
                written = said.metavar if said.argument and said.metavar else option_name(name, said)
                check_place(Path(value), said.writes, written)

    def refuse(self, name: str, problem: str, value: object = None) -> NoReturn:
        """Raise `WrongValue` for the field ``name``."""
        raise WrongValue(name, problem, value)


def options(request: type[Request]) -> dict[str, Option]:
    """Return the options of a request by field name, with `progress` last."""
    known: dict[str, Option] = {each.name: each.metadata["option"] for each in fields(request)}
    return {name: said for name, said in known.items() if name != "progress"} | {"progress": known["progress"]}


def command_line(name: str, request: Request, leave_out: Collection[str] = ()) -> str:
    """Return the command line that a request comes from, without the options that have their default value."""
    return shlex.join(["peftport", name, *words_of(request, leave_out)])


def words_of(request: Request, leave_out: Collection[str] = ()) -> tuple[str, ...]:
    """Return a request as words of the command line: its arguments, then the options that differ from their default."""
    arguments: list[str] = []
    further: list[str] = []
    for field_name, said in options(type(request)).items():
        default, value = _default(request, field_name), getattr(request, field_name)
        unsaid = not said.argument and said.default is not REQUIRED and value == default
        if field_name in leave_out or said.only_python or value is None or unsaid:
            continue
        texts = _as_texts(value, said)
        if said.argument:
            arguments += texts
        elif said.repeated:
            further += [word for text in texts for word in (option_name(field_name, said), text)]
        else:
            further += [option_name(field_name, said), *texts]
    return (*arguments, *further)


def _default(request: Request, field_name: str) -> Any:
    return next(each.default for each in fields(request) if each.name == field_name)


def _as_texts(value: Any, said: Option) -> list[str]:
    """Return the words of a value as they stand on the command line."""
    if hasattr(value, "command_words"):  # a task that was read as further options say
        return list(value.command_words)
    if isinstance(value, Mapping):
        return [f"{key}={_text(each)}" for key, each in value.items()]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_text(each) for each in value] if said.repeated else [",".join(map(_text, value))]
    return [_text(value)]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def option_name(field_name: str, said: Option | None = None) -> str:
    """Return the option of a field: ``from_`` is ``--from``, unless the option has a different name."""
    return said.name if said and said.name else f"--{field_name.strip('_').replace('_', '-')}"


def keyword(option_text: str) -> str:
    """Return the Python keyword of an option: ``--from`` is ``from_``."""
    name = option_text.removeprefix("--").replace("-", "_")
    return f"{name}_" if name in ("from", "as") else name


def in_python(text: str) -> str:
    """Replace options in a help text by Python keywords; whole command lines remain unchanged."""
    return re.sub(r"(?<!\S)--[a-z][a-z-]*[a-z]", lambda match: f"`{keyword(match[0])}`", text)


def takes(request: Callable[P, Q]) -> Callable[[Callable[[Q], R]], Callable[P, R]]:
    """Turn a function of a request into a function of its fields, with their types, defaults and help texts."""

    def face(run: Callable[[Q], R]) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            asked = request(*args, **kwargs)
            with watched(asked.progress):
                return run(asked)

        _show(call, run, request)
        return call

    return face


def method_takes(request: Callable[P, Q]) -> Callable[[Callable[[S, Q], R]], Callable[Concatenate[S, P], R]]:
    """Turn a method that takes a request into one that takes the request's fields."""

    def face(run: Callable[[S, Q], R]) -> Callable[Concatenate[S, P], R]:
        def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            asked = request(*args, **kwargs)
            with watched(asked.progress):
                return run(self, asked)

        _show(call, run, request, [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)])
        return call

    return face


def _show(call: Any, run: Any, request: Any, first: Sequence[inspect.Parameter] = ()) -> None:
    """Make ``help`` and `inspect.signature` show the fields of a request."""
    signature = inspect.signature(request)
    last = sorted(signature.parameters.values(), key=lambda each: each.name == "progress")
    call.__name__, call.__qualname__, call.__module__ = run.__name__, run.__qualname__, run.__module__
    call.__doc__ = f"{_described(request)}\n\n{inspect.getdoc(run) or ''}".rstrip()
    result = inspect.signature(run).return_annotation
    call.__signature__ = signature.replace(parameters=[*first, *last], return_annotation=result)


def _described(request: Any) -> str:
    """Return the docstring of a request, with a line for each of its fields."""
    paragraphs = (inspect.getdoc(request) or "").split("\n\n")
    told = "\n\n".join(text if text.startswith("Example:") else in_python(text) for text in paragraphs)
    wrapper = TextWrapper(110, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False)
    lines = [wrapper.fill(f"{name}: {in_python(said.help)}") for name, said in options(request).items()]
    return f"{told}\n\nArgs:\n" + "\n".join(lines)


def one_of(words: Sequence[str]) -> str:
    """List words in a sentence, as in ``native, peft or adapters``."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def names(text: str) -> tuple[str, ...]:
    """Parse a list of names such as ``a,b``."""
    return tuple(part.strip() for part in text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    """Parse a list of integers such as ``0,10,40``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"expected whole numbers with commas between, such as 0,10,40, got {text!r}") from error


def pairs(example: str) -> Callable[[Sequence[str]], dict[str, str]]:
    """Return a parser of ``KEY=VALUE`` texts; errors show the example."""

    def read(texts: Sequence[str]) -> dict[str, str]:
        values = {}
        for text in texts:
            key, equals, value = text.partition("=")
            if not equals or not key:
                raise ValueError(f"expected KEY=VALUE, such as {example}, got {text!r}")
            values[key] = value
        return values

    return read
