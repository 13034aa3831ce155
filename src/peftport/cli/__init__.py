"""The command line: parse, call one public function, print. The only place that prints or exits.

Commands import what they need when they run, so that ``peftport --help`` starts without torch.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import typer

from peftport.cli import hosts, modules, report, study, tasks
from peftport.errors import PeftportError

app = typer.Typer(
    name="peftport",
    help="Can a PEFT module trained on one base model be used on another, how, and is it worth it?",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
# typer's own copy of click has no public name for it; every wrong option or argument is one of these.
USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]
INTERRUPTED = 130
modules.register(app)
report.register(study.app)
app.add_typer(hosts.app, name="hosts")
app.add_typer(tasks.app, name="tasks")
app.add_typer(study.app, name="study")


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted."""
    command = typer.main.get_command(app)
    try:
        code = command.main(sys.argv[1:], prog_name="peftport", standalone_mode=False)
    except PeftportError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _interrupted()
    except USAGE_ERROR as error:
        _fail(_usage(error), 2) if str(error) else sys.exit(2)  # no message: the help was shown
    except OSError as error:
        _fail(
            f"{error.strerror or error}: {error.filename or 'the system'}; check the path, the space and the rights", 1
        )
    else:
        if code == INTERRUPTED:  # typer turns Control-C into this code and says nothing
            _interrupted()
        sys.exit(code if isinstance(code, int) else 0)


def _interrupted() -> None:
    _fail("interrupted; nothing half-written was left behind", INTERRUPTED)


def _usage(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "peftport"
    message = getattr(error, "format_message", error.__str__)().rstrip(".")
    return f"{message}{_got(getattr(error, 'param', None))}. Try: {command} --help"


def _got(parameter: Any) -> str:
    """The value given for the wrong option, which typer's message leaves out."""
    got = ""
    for word, after in pairwise([*sys.argv, ""]):  # where an option is repeated, its last value counts
        name, equals, value = word.partition("=")
        if name in getattr(parameter, "opts", ()):
            got = f", got {value if equals else after!r}"
    return got


def _fail(message: str, code: int) -> None:
    print(f"peftport: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
