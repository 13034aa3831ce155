"""The command line: each command parses its options, calls one public function and prints the result.

Only this folder prints or exits.

Commands import what they need when they run, so that ``peftport --help`` starts without torch.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from peftport.cli import hosts, modules, study, tasks
from peftport.cli.console import layouts, say
from peftport.core import stopping
from peftport.core.environment import version_of
from peftport.core.errors import PeftportError
from peftport.core.guesses import guess
from peftport.core.stopping import INTERRUPTED, TOLD

app = typer.Typer(
    name="peftport",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
# The base of all errors about options and arguments, which typer does not export by a public name.
USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]
VERBOSE = "--verbose"
modules.register(app)
app.add_typer(hosts.app, name="hosts")
app.add_typer(tasks.app, name="tasks")
app.add_typer(study.app, name="study")


def _tell_version(asked: bool) -> None:
    if asked:
        say(f"peftport {version_of('peftport')}")
        raise typer.Exit


@app.callback()
def _every_command(
    layout: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A TOML file that says where the layers of a type of host are (docs/families.md). May be repeated.",
        ),
    ] = None,
    _verbose: Annotated[
        bool, typer.Option(VERBOSE, help="After an error, also print where in the program it arose.")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Can a PEFT module trained on one base model be used on another, how, and is it worth it?"""
    if layout:
        from peftport.hosts.layouts import use_layout

        for file in layout:
            use_layout(file)
            layouts.extend(("--layout", str(file)))


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted; `upgrade` has 3 and 4, too.
    """
    command = typer.main.get_command(app)
    words, verbose = common_first(sys.argv[1:])
    if "help" in words[:1]:
        words = [*words[1:], "--help"]
    try:
        code = command.main(words, prog_name="peftport", standalone_mode=False)
        sys.stdout.flush()  # flush now, while a failure can still be reported
    except PeftportError as error:
        fail(str(error), error.exit_code, error.lines, error if verbose else None)
    except (KeyboardInterrupt, typer.Abort):
        fail(TOLD, INTERRUPTED)
    except USAGE_ERROR as error:
        fail(_usage(error), 2) if str(error) else sys.exit(2)  # without a message, the help was shown
    except OSError as error:
        _fail_by_the_system(error, error if verbose else None)
    except Exception as error:
        if stopping.asked():  # a library made this of the interruption
            raise
        fail(_fault(error, verbose), 1, cause=error if verbose else None)
    else:
        if code == INTERRUPTED:  # typer turns Control-C into this code without a message
            fail(TOLD, INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def common_first(words: Sequence[str]) -> tuple[list[str], bool]:
    """Put what all commands take before the command: ``--verbose`` and every ``--layout FILE``.

    Returns the words in that order, and whether ``--verbose`` is among them.
    """
    first: list[str] = []
    rest: list[str] = []
    end = words.index("--") if "--" in words else len(words)
    for place, word in enumerate(words):
        after_option = place and words[place - 1] == "--layout" and place - 1 < end
        is_option = place < end and (word in ("--layout", VERBOSE) or word.startswith("--layout="))
        (first if is_option or after_option else rest).append(word)
    return first + rest, VERBOSE in first


def _fault(error: Exception, verbose: bool) -> str:
    """Return the line for an error that nobody expected."""
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    more = "what follows" if verbose else "what the same command says with --verbose"
    return (
        f"this is a fault of peftport {version_of('peftport')} and not of the request: {what}; please report it with "
        f"the command and {more}"
    )


def _fail_by_the_system(error: OSError, cause: OSError | None) -> NoReturn:
    """Exit after a system error: full or broken disk, missing permissions, invalid path, or closed stdout."""
    try:
        sys.stdout.flush()
    except OSError:  # what is left in the buffer is discarded, or Python would try again as it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if error.errno == errno.EPIPE:  # exit silently, with the code that typer uses for this
        sys.exit(1)
    code = 2 if error.errno == errno.ENAMETOOLONG else 1
    where = error.filename or "the system"
    fail(f"{error.strerror or error}: {where}; check the path, the space and the rights", code, cause=cause)


def _usage(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "peftport"
    message = getattr(error, "format_message", error.__str__)().rstrip(".")
    parameter = getattr(error, "param", None)
    more = f"{_about(parameter) if message.startswith('Missing ') else _got(parameter)}{_meant(error, context)}"
    line = f"{message}{more}{_grouped(message) if context is None or context.parent is None else ''}"
    return f"{line}{'' if line.endswith('?') else '.'} Try: {command} --help"


def _about(parameter: Any) -> str:
    """Return what a missing option or argument is for: the first sentence of its help."""
    said = (getattr(parameter, "help", None) or "").replace("\\[", "[").partition(". ")[0].rstrip(".")
    return f" ({said[0].lower()}{said[1:]})" if said else ""


def _grouped(message: str) -> str:
    """Return the commands of groups that have the name of an unknown command, such as ``hosts list``."""
    unknown = re.match("No such command '(.*)'", message)
    groups = {"hosts": hosts.app, "tasks": tasks.app, "study": study.app}
    found = [
        f"{group} {each.name}"
        for group, inner in groups.items()
        for each in typer.main.get_command(inner).commands.values()  # type: ignore[attr-defined]
        if unknown and each.name == unknown[1]
    ]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _meant(error: Exception, context: Any) -> str:
    """Return the option that an unknown one probably means, where it has another name in other libraries."""
    unknown = getattr(error, "option_name", None)
    if unknown is None or context is None:
        return ""
    known = [word for parameter in context.command.params for word in parameter.opts if word.startswith("--")]
    near = guess(unknown, known)
    return f"; did you mean {near}" if near and near not in (getattr(error, "possibilities", None) or ()) else ""


def _got(parameter: Any) -> str:
    """Return the value that was given for the wrong option, which typer's message does not contain."""
    text = ""
    for word, after in pairwise([*sys.argv, ""]):  # if an option is repeated, its last value counts
        name, equals, value = word.partition("=")
        if name in getattr(parameter, "opts", ()):
            text = f", got {value if equals else after!r}"
    return text


def fail(message: str, code: int, more: Sequence[str] = (), cause: BaseException | None = None) -> NoReturn:
    """Say in one line why it ends, and what each of several things is in a line of its own, and exit.

    The traceback of ``cause`` follows, for those who ask for it.
    """
    with suppress(OSError):  # the terminal is gone
        lines = [f"peftport: {' '.join(message.split())}", *(f"  {' '.join(line.split())}" for line in more)]
        print("\n".join(lines), file=sys.stderr, flush=True)
        if cause is not None:
            traceback.print_exception(cause)
    sys.exit(code)
