"""Progress bars on a terminal: of each stage that takes longer than a moment, how far it is and the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.table import Table as RichTable

SHOWN_AFTER_SECONDS = 0.7


class SlowStages(RichProgress):
    """Bars of the stages that take longer than a moment: the others would only flicker."""

    def make_tasks_table(self, tasks: Iterable[RichTask]) -> RichTable:
        """Leave out the stages that were quick, or have just begun."""
        slow = [task for task in tasks if (task.finished_time or task.elapsed or 0.0) >= SHOWN_AFTER_SECONDS]
        return super().make_tasks_table(slow)


class Bars:
    """The progress object that draws them."""

    def __init__(self, progress: RichProgress) -> None:
        """Draw on a display of rich that has begun."""
        self._progress = progress

    def stage(self, title: str, total: int) -> Callable[[int], None]:
        """Begin a bar of so many units; return what moves it on by some."""
        task = self._progress.add_task(title, total=total)
        return lambda units: self._progress.advance(task, units)

    def tell(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, markup=False, highlight=False)


@contextmanager
def drawn_bars(console: Console) -> Iterator[Bars]:
    """Draw bars on a terminal until the block ends."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with SlowStages(*columns, console=console) as progress:
        yield Bars(progress)
