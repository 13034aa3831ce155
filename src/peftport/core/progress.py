"""Report the progress of long work. The command line draws progress bars; by default nothing is shown."""

from __future__ import annotations

from collections.abc import Callable
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


def duration(seconds: float) -> str:
    """Format a time in seconds for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
