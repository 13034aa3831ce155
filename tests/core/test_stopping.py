"""Signals end a block once: repeated, in steps that must be whole, in imports, in finalisers."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from peftport.core.stopping import NUMBERS, asked, check, stopped_once, undisturbed


@pytest.fixture(autouse=True)
def handlers_by_default() -> Iterator[None]:
    """Ray leaves a handler of its own for SIGTERM in a process that has started it."""
    before = {
        number: signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        for number in NUMBERS
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_one_interruption_however_many_signals() -> None:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    told = 0
    with pytest.raises(KeyboardInterrupt), stopped_once():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            told += 1
            for number in NUMBERS * 3:  # while it unwinds
                signal.raise_signal(number)
            raise
    assert told == 1
    assert {number: signal.getsignal(number) for number in NUMBERS} == before
    with pytest.raises(KeyboardInterrupt), stopped_once():  # and again, in another block
        signal.raise_signal(signal.SIGHUP)
    assert not asked()


def test_a_step_that_must_be_whole_is_whole() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), stopped_once():
        with undisturbed():
            with undisturbed():
                signal.raise_signal(signal.SIGINT)
                steps.append("inner")
            steps.append("outer")
        steps.append("never")
    assert steps == ["inner", "outer"]


def test_an_import_is_not_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interruption comes when the module is there."""
    text = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsum(range(1000))\nwhole = True\n"
    (tmp_path / "torn_or_whole.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(KeyboardInterrupt), stopped_once():
        import torn_or_whole  # type: ignore[import-not-found]

        time.sleep(10)
    assert sys.modules.pop("torn_or_whole").whole
    assert torn_or_whole.whole


class Finalised:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))


def test_an_interruption_that_python_drops_comes_again(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), stopped_once():
        Finalised()
        gc.collect()
        time.sleep(10)
    assert capfd.readouterr().err == ""


def test_the_command_line_loses_no_interruption() -> None:
    """It takes its signals in hand once for all (`begin`); a study's own block then adds nothing."""
    program = (
        "import gc, os, signal, time; from peftport.core.stopping import begin, stopped_once; begin()\n"
        "class Finalised:\n    def __del__(self): os.kill(os.getpid(), signal.SIGTERM); sum(range(1000))\n"
        "with stopped_once():\n    Finalised(); gc.collect(); time.sleep(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode != 0
    assert ended.stderr.endswith("KeyboardInterrupt\n")
    assert "ignored" not in ended.stderr


def test_the_exit_code_is_ours_wherever_the_interruption_came(tmp_path: Path) -> None:
    """Within code compiled from a text, too, where Python would end by the signal although it was caught."""
    (tmp_path / "program.py").write_text(
        "import signal, sys; from peftport.core import stopping; stopping.begin()\n"
        "try: exec('signal.raise_signal(signal.SIGINT)')\n"
        "except KeyboardInterrupt: pass\n"
        "stopping.ignored(); sys.exit(130)\n"
    )
    assert subprocess.run([sys.executable, "-m", "program"], cwd=tmp_path, timeout=50, check=False).returncode == 130


def test_an_interruption_that_a_library_swallows_comes_again() -> None:
    with pytest.raises(KeyboardInterrupt), stopped_once():
        with suppress(BaseException):
            signal.raise_signal(signal.SIGINT)
        check()


def test_what_was_ignored_stays_ignored() -> None:
    """``nohup``: the terminal's end is not the work's."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_once():
            signal.raise_signal(signal.SIGHUP)
            assert not asked()
    finally:
        signal.signal(signal.SIGHUP, before)
