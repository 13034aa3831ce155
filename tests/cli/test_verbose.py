"""An error is one line; with --verbose, anywhere on the command line, its traceback follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftport import workflows

Run = Callable[..., Any]
Folders = dict[str, Path]
WRONG = ("hosts", "show", "bret")
TRACEBACK = "Traceback (most recent call last)"


@pytest.mark.parametrize("words", [("--verbose", *WRONG), (*WRONG, "--verbose"), ("hosts", "--verbose", *WRONG[1:])])
def test_the_cause_follows_the_line(words: tuple[str, ...], peftport: Run) -> None:
    short, long = peftport(*WRONG), peftport(*words)
    assert (short.code, long.code) == (2, 2)
    assert short.err.count("\n") == 1 and long.err.startswith(short.err)
    assert TRACEBACK in long.err and "UnknownName" in long.err and not long.out


def test_after_two_dashes_it_is_a_name(peftport: Run) -> None:
    result = peftport("hosts", "show", "--", "--verbose")
    assert result.code == 2 and result.err.count("\n") == 1 and "unknown host '--verbose'" in result.err


@pytest.mark.parametrize("error", [ZeroDivisionError("division by zero"), RuntimeError("two\nlines"), KeyError()])
def test_a_fault_of_ours_is_one_line(
    error: Exception, peftport: Run, hosts: Folders, reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: object) -> None:
        raise error

    monkeypatch.setattr(workflows, "evaluate_host", fail)
    short = peftport("evaluate", hosts["bert"], reviews)
    assert short.code == 1 and short.err.count("\n") == 1 and not short.out
    assert short.err.startswith("peftport: this is a fault of peftport ") and "--verbose" in short.err
    assert type(error).__name__ in short.err
    long = peftport("evaluate", hosts["bert"], reviews, "--verbose")
    assert long.code == 1 and TRACEBACK in long.err and long.err.startswith("peftport: this is a fault")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "ported/module.safetensors")])
def test_the_system_s_errors_have_a_cause_too(
    error: OSError, peftport: Run, hosts: Folders, reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: object) -> None:
        raise error

    monkeypatch.setattr(workflows, "evaluate_host", fail)
    assert TRACEBACK not in peftport("evaluate", hosts["bert"], reviews).err
    assert TRACEBACK in peftport("evaluate", hosts["bert"], reviews, "--verbose").err
