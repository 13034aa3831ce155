"""Send runs to a tracker in a separate thread, so that a slow or broken tracker does not affect the study."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from peftport.tracking.base import TrackedRun, Tracker

THREAD = "track-"


class TrackerThread:
    """The thread of one tracker. After a failure it sends nothing more; the next call of the study sends the rest."""

    def __init__(self, name: str, tracker: Tracker, study: str, folder: Path, warn: Callable[[str], None]) -> None:
        """Start the thread; ``warn`` is called at most once, from the thread."""
        self.name, self.sent, self.known = name, 0, 0
        self.trouble: str | None = None
        self._tracker, self._study, self._folder, self._warn = tracker, study, folder, warn
        self._queue: SimpleQueue[TrackedRun | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"{THREAD}{name}", daemon=True)
        self._thread.start()

    def send(self, run: TrackedRun) -> None:
        """Put a run in the queue."""
        self._queue.put(run)

    def close(self) -> None:
        """Wait until all queued runs are sent, or the tracker has failed."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            there = frozenset(self._tracker.begin(self._study, self._folder))
            while (run := self._queue.get()) is not None:
                if run.id in there:
                    self.known += 1
                else:
                    self._tracker.log(run)
                    self.sent += 1
            self._tracker.close()
        except Exception as error:  # no failure of a tracker may affect the study
            first = (str(error) or "no message").splitlines()[0]
            self.trouble = (
                f"--track {self.name}: {type(error).__name__}: {first}; the study goes on without it, run the same "
                "command again to send what is missing"
            )
            self._warn(self.trouble)


@contextmanager
def unsaid() -> Iterator[None]:
    """Discard what trackers print: some print every run on stdout, which is reserved for the result of the study."""
    with redirect_stdout(_OtherThreads(sys.stdout)):
        yield


class _OtherThreads:
    """A stream that passes on what all threads write, except those of trackers."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if threading.current_thread().name.startswith(THREAD) else int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
