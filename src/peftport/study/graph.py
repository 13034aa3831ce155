"""Decide which stack can be done next: one is ready when all jobs that it needs are resolved.

This is pure bookkeeping in memory: it uses no clock, process or disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from peftport.store.ledger import State
from peftport.study.jobs import Job
from peftport.study.plan import JobBatch


@dataclass(frozen=True, slots=True)
class Ready:
    """The jobs of a stack that can be done, and those that cannot because a job that they need has failed."""

    stack: int
    jobs: tuple[Job, ...]
    blocked: tuple[tuple[Job, str], ...]  # each with the failed job that blocks it


class Graph:
    """The stacks of a plan, the jobs they need, and the state of every job so far."""

    def __init__(self, stacks: list[JobBatch], states: Mapping[str, State]) -> None:
        """Begin with the states of the jobs that are on record."""
        self._stacks = stacks
        # All jobs are entered at the start, so that memory does not grow later. None: not resolved yet; True: done.
        self._done: dict[str, bool | None] = dict.fromkeys(job.id for stack in stacks for job in stack.jobs)
        self._done.update((job, state == "done") for job, state in states.items())
        self._waiting: dict[int, int] = {}
        self._dependants: dict[str, list[int]] = {}
        self._ready: deque[int] = deque()
        for stack in stacks:
            if all(self._done[job.id] is not None for job in stack.jobs):
                continue
            open_ = [need for need in stack.needs if self._done[need] is None]
            for need in open_:
                self._dependants.setdefault(need, []).append(stack.index)
            if open_:
                self._waiting[stack.index] = len(open_)
            else:
                self._ready.append(stack.index)

    def next(self) -> Ready | None:
        """Return a stack that can begin, or None if none is ready now."""
        if not self._ready:
            return None
        stack = self._stacks[self._ready.popleft()]
        jobs = [job for job in stack.jobs if self._done[job.id] is None]
        blocked = {job.id: next((need for need in job.needs if self._done[need] is False), None) for job in jobs}
        return Ready(
            stack.index,
            tuple(job for job in jobs if blocked[job.id] is None),
            tuple((job, need) for job in jobs if (need := blocked[job.id]) is not None),
        )

    def resolve(self, good: Collection[str], bad: Collection[str]) -> None:
        """Mark jobs as done (``good``), or as failed or blocked (``bad``)."""
        self._done.update(dict.fromkeys(good, True))
        self._done.update(dict.fromkeys(bad, False))
        for job in (*good, *bad):
            for index in self._dependants.pop(job, ()):
                self._waiting[index] -= 1
                if not self._waiting[index]:
                    del self._waiting[index]
                    self._ready.append(index)

    @property
    def exhausted(self) -> bool:
        """Return whether no stack is ready and none is waiting."""
        return not self._ready and not self._waiting
