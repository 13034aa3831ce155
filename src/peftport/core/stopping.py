"""Stop cleanly on Control-C, SIGTERM and SIGHUP: only once, and never in the middle of a step that must be whole.

The first signal raises KeyboardInterrupt in the main thread. Signals that arrive while that exception unwinds are
ignored, because they would interrupt the cleanup. Within `undisturbed`, and while a module is being imported (compiled
libraries turn an exception there into another one, or end the process), the exception is delayed. Python drops an
exception that is raised in a finaliser, where nobody can catch it; then it is raised again. A library may swallow it,
too: long loops call `check`. A signal that the parent process ignores (``nohup``, a shell's background job) remains
ignored.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTED = 130
TOLD = "interrupted; nothing half-written was left behind"
NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
AGAIN_SECONDS = 0.02
_IMPORTING = "<frozen importlib"


class _Stop:
    """Whether a stop was asked for, and whether it was raised."""

    def __init__(self) -> None:
        self.number = int(NUMBERS[0])
        self.whole = 0  # number of nested `undisturbed` blocks
        self.timer: threading.Timer | None = None
        self.forget(0)

    def forget(self, imports: int) -> None:
        """Reset the state; ``imports`` is the number of imports around the block."""
        self.asked = self.raised = False  # a signal has come; KeyboardInterrupt was raised
        self.imports = imports
        if self.timer is not None:
            self.timer.cancel()

    def arrive(self, number: int, frame: FrameType | None) -> None:
        self.asked, self.number = True, number
        if self.raised or self.whole:
            return
        if _imports(frame) > self.imports:
            self.come_again(number)
        else:
            self.tell()

    def come_again(self, number: int) -> None:
        main = threading.main_thread().ident or 0
        self.timer = threading.Timer(AGAIN_SECONDS, signal.pthread_kill, (main, number))
        self.timer.start()

    def tell(self) -> None:
        self.raised = True
        raise KeyboardInterrupt


_stop = _Stop()


def asked() -> bool:
    """Return whether a signal has asked the work to stop."""
    return _stop.asked


@contextmanager
def stopped_once() -> Iterator[None]:
    """Signals end this block with one KeyboardInterrupt. Nested blocks and other threads are not affected."""
    hook = sys.unraisablehook
    before = begin()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:
            sys.unraisablehook = hook
            _stop.forget(0)


def begin() -> dict[int, Any]:
    """Handle the signals that have their default handlers, and what finalisers raise, for the rest of the process.

    Returns these handlers, so that they can be restored.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is not threading.main_thread():
        return before
    if not _stop.asked:
        _stop.forget(_imports(sys._getframe()))
    for number in NUMBERS:
        handler = signal.getsignal(number)
        if handler in (signal.SIG_DFL, signal.default_int_handler):
            before[number] = signal.signal(number, _stop.arrive)
    if before:
        sys.unraisablehook = _unraisable
    return before


def check() -> None:
    """Raise KeyboardInterrupt once more where a library swallowed it: no long loop goes on while a stop unwinds."""
    if _stop.raised and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def ignored() -> None:
    """Ignore all further signals, because the process is about to end, with the exit code that it has chosen.

    Where KeyboardInterrupt has left code that was compiled from a text (named tuples and dataclasses have such code),
    Python takes note, and in the end kills itself by SIGINT, though the exception was caught. The next such code clears
    the note.
    """
    for number in NUMBERS:
        if signal.getsignal(number) == _stop.arrive:
            signal.signal(number, signal.SIG_IGN)
    exec("")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Delay a stop until the end of this block. Only the main thread receives stops."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _stop.whole += 1
    try:
        yield
    finally:
        _stop.whole -= 1
        if _stop.asked and not (_stop.whole or _stop.raised):
            _stop.tell()


def _imports(frame: FrameType | None) -> int:
    """Count the frames of imports on a stack."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename.startswith(_IMPORTING)
        frame = frame.f_back
    return count


def _unraisable(lost: Any) -> None:
    if isinstance(lost.exc_value, KeyboardInterrupt) and _stop.raised:
        _stop.raised = False
        _stop.come_again(_stop.number)
        return
    sys.__unraisablehook__(lost)
