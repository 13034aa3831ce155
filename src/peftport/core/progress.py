"""Report the progress of long work. The command line draws progress bars; by default nothing is shown.

A workflow hands the progress object of its request to what it calls. What lies far below it, such as the hash of a
host's weights, reports to the one that is `current` while a command runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Progress(Protocol):
    """The interface of an object that receives the progress of work."""

    def stage(self, title: str, total: int) -> Callable[[int], None]:
        """Begin a stage of ``total`` units. Call the returned function with the number of units just done."""

    def tell(self, line: str) -> None:
        """Report what has been found so far, where the work goes on for a while."""


class Silent:
    """A progress object that ignores all reports."""

    def stage(self, title: str, total: int) -> Callable[[int], None]:
        """Return a function that ignores its argument."""
        return lambda units: None

    def tell(self, line: str) -> None:
        """Ignore what was found so far."""


_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


def current() -> Progress:
    """Return the progress object of the command that runs."""
    return _current.get() or Silent()


@contextmanager
def watched(progress: Progress | None) -> Iterator[None]:
    """Within the block, ``progress`` is the current one; with None, whichever was before."""
    token = _current.set(progress or _current.get())
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Report the block as a stage of one unit, for work that cannot be counted."""
    advance = current().stage(title, 1)
    try:
        yield
    finally:
        advance(1)


def duration(seconds: float) -> str:
    """Format a time in seconds for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
