"""What the help pages say: as they were (tests/cli/help, at 100 columns), and the same as Python's `help`.

After an intended change, write the pages anew: ``python tests/cli/test_help.py``.
"""

from __future__ import annotations

import inspect
import os
import pydoc
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from peftport.api import Study, calls
from peftport.cli import app
from peftport.core.request import SAME, in_python, option_name, options
from peftport.study import commands as study_requests
from peftport.study.commands import StudyRequest
from peftport.workflows import merge_requests, requests, upgrade_requests
from peftport.workflows.task_requests import TaskShowRequest

PAGES = Path(__file__).parent / "help"
MADE: dict[str, tuple[Any, Any]] = {
    "demo": (requests.DemoRequest, calls.demo),
    "train": (requests.TrainRequest, calls.train),
    "evaluate": (requests.EvaluateRequest, calls.evaluate),
    "check": (requests.CheckRequest, calls.check),
    "port": (requests.PortRequest, calls.port),
    "compare": (requests.CompareRequest, calls.compare),
    "upgrade": (upgrade_requests.UpgradeRequest, calls.upgrade),
    "merge": (merge_requests.MergeRequest, calls.merge),
    "gguf": (merge_requests.GgufRequest, calls.gguf),
    "hosts update": (requests.HostUpdateRequest, calls.update_host),
    "study plan": (study_requests.PlanRequest, Study.plan),
    "study run": (study_requests.RunRequest, Study.run),
    "study status": (study_requests.StatusRequest, Study.status),
    "study gates": (study_requests.GatesRequest, Study.gates),
    "study export": (study_requests.ExportRequest, Study.export),
    "study verify": (study_requests.VerifyRequest, Study.verify),
    "study report": (study_requests.ReportRequest, Study.report),
    "study watch": (study_requests.WatchRequest, Study.watch),
    "study repair": (study_requests.RepairRequest, Study.repair),
    "study merge": (study_requests.JoinRequest, Study.merge),
}


def commands(command: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and of every group, the application itself first."""
    command = command or typer.main.get_command(app)
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))


def file_of(words: tuple[str, ...]) -> Path:
    return PAGES / f"{'-'.join(('peftport', *words))}.txt"


def pages() -> dict[Path, str]:
    """The help page of every command, by its file; all in one process, which starts as a user's does."""
    script = (
        "import sys, typer.main\n"
        "from peftport.cli import app\n"
        "command = typer.main.get_command(app)\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    command.main([*line.split(), '--help'], prog_name='peftport', standalone_mode=False)\n"
        "    print('\\f', end='', flush=True)\n"
    )
    known = list(commands())
    environment = os.environ | {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", "TERMINAL_WIDTH": "100"}
    done = subprocess.run(
        [sys.executable, "-c", script], input="\n".join(" ".join(words) for words in known), capture_output=True,
        text=True, env=environment, check=True,
    )  # fmt: skip
    said = [page.rstrip() + "\n" for page in done.stdout.split("\f")[:-1]]
    return dict(zip(map(file_of, known), said, strict=True))


def test_help_pages_are_as_they_were() -> None:
    found = pages()
    assert {path.name for path in PAGES.iterdir()} == {path.name for path in found}
    for path, page in found.items():
        assert page == path.read_text(encoding="utf-8"), f"{path.name}: write the pages anew if this is intended"


@pytest.mark.parametrize("words", MADE)
def test_python_says_what_the_help_page_says(words: str) -> None:
    """The same summary, and for every field the same text, the same default and the same name."""
    request, function = MADE[words]
    command: Any = typer.main.get_command(app)
    for word in words.split():
        command = command.commands[word]
    said = {parameter.name: parameter for parameter in command.params}
    told = " ".join(pydoc.render_doc(function, renderer=pydoc.plaintext).split())
    keywords = inspect.signature(function).parameters
    assert [name for name in keywords if name != "self"] == list(options(request))
    assert in_python(" ".join(command.help.split("Example:")[0].split())) in told
    for name, field in options(request).items():
        assert f" {name}: {in_python(field.help)}" in told
        assert (name in said) == (not field.only_python)
        if name not in said:
            continue
        page = said.pop(name)
        assert page.help.replace("\\[", "[") == field.help
        if page.param_type_name == "option":
            assert option_name(name, field) in page.opts
        default = keywords[name].default
        if field.default is SAME and default not in (inspect.Parameter.empty, None, (), False):
            assert str(page.default) == (",".join(map(str, default)) if isinstance(default, tuple) else str(default))
    assert not said.keys() - set(options(TaskShowRequest)) - set(options(StudyRequest)) - {"json_", "help"}
    of_file = " ".join(pydoc.render_doc(Study.from_file, renderer=pydoc.plaintext).split())
    for name in said.keys() & set(options(StudyRequest)) if words.startswith("study ") else ():
        assert said[name].help == options(StudyRequest)[name].help and in_python(said[name].help) in of_file


@pytest.mark.parametrize("words", MADE)
def test_the_help_of_an_option_names_options_that_the_command_has(words: str) -> None:
    command: Any = typer.main.get_command(app)
    for word in words.split():
        command = command.commands[word]
    own = {option for parameter in command.params for option in parameter.opts}
    for parameter in command.params:
        named = set(re.findall(r"(?<!\w)--[a-z][a-z-]*", parameter.help or ""))
        assert named <= own, parameter.name


def test_every_study_command_is_made_from_a_request() -> None:
    """What a command takes is in its request or in that of the study file, and Python has a method of its name."""
    group: Any = typer.main.get_command(app).commands["study"]  # type: ignore[attr-defined]
    assert {f"study {name}" for name in group.commands} == {words for words in MADE if words.startswith("study ")}
    for name in group.commands:
        assert MADE[f"study {name}"][1] is getattr(Study, name)


def test_an_option_in_a_text_is_a_keyword_in_python() -> None:
    assert in_python("items of --task carry, by --trust-origin or --from.") == (
        "items of `task` carry, by `trust_origin` or `from_`."
    )


if __name__ == "__main__":
    PAGES.mkdir(exist_ok=True)
    for path, page in pages().items():
        path.write_text(page, encoding="utf-8")
