"""Control-C, SIGTERM and SIGHUP end the work once, and never in the middle of a step that must be whole.

The first of them raises KeyboardInterrupt in the main thread; what comes while that one unwinds is ignored, for it
would break the tidying up. Within `undisturbed`, and while a module is being imported (compiled libraries turn an
exception there into another one, or into the end of the process), it waits. Python drops an exception that is raised
where nobody can catch it, in a finaliser: such a stop comes again. A signal that whoever started the process had
ignored (``nohup``, a shell's background) stays ignored.
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
    """What was asked for, and how far it is."""

    def __init__(self) -> None:
        self.number = int(NUMBERS[0])
        self.whole = 0  # steps under way that must be whole
        self.timer: threading.Timer | None = None
        self.forget(0)

    def forget(self, imports: int) -> None:
        """Begin anew; ``imports``: how many are under way around the block."""
        self.asked = self.raised = False  # a signal has come; the main thread was told
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
    """Whether the work was asked to end."""
    return _stop.asked


@contextmanager
def stopped_once() -> Iterator[None]:
    """Signals end this block by one KeyboardInterrupt. Inside another such block, and in other threads: nothing new."""
    before = begin()
    hook = sys.unraisablehook
    if before:
        sys.unraisablehook = _unraisable
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:
            sys.unraisablehook = hook
            _stop.forget(0)


def begin() -> dict[int, Any]:
    """Take the signals that have their default handlers; those handlers, to be put back."""
    before: dict[int, Any] = {}
    if threading.current_thread() is not threading.main_thread():
        return before
    if not _stop.asked:
        _stop.forget(_imports(sys._getframe()))
    for number in NUMBERS:
        handler = signal.getsignal(number)
        if handler in (signal.SIG_DFL, signal.default_int_handler):
            before[number] = signal.signal(number, _stop.arrive)
    return before


def ignored() -> None:
    """The process is at its end: whatever still comes changes nothing."""
    for number in NUMBERS:
        if signal.getsignal(number) == _stop.arrive:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def undisturbed() -> Iterator[None]:
    """A stop that is asked for in this block comes at its end; in other threads than the main one there is none."""
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
    """How many frames of imports a stack has."""
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
