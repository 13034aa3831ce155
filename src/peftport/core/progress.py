"""How long work tells how far it is. The command line draws bars; by default nothing is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Somewhere to report stages of work."""

    def stage(self, title: str, total: int) -> Callable[[int], None]:
        """Begin a stage of ``total`` units; call what comes back with every number of units done."""


class Silent:
    """Reports to nobody."""

    def stage(self, title: str, total: int) -> Callable[[int], None]:
        """Nothing is shown."""
        return lambda units: None


def duration(seconds: float) -> str:
    """A time for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
