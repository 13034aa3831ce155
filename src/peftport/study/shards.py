"""Divide a study among machines that know nothing of each other: by the plan alone, so that all divide it alike.

A shard is some of the runs with all jobs that they need. Each run is in exactly one shard. Stacks are not divided,
because results depend on a stack in their last bits: shards that are merged are the undivided study to the byte. A
stack that several shards need, such as that of an origin's modules, is done in each of them.

Stacks are put in an order in which those that need the same others are neighbours. This order is cut into N stretches
so that the costliest, with all that it needs, costs as little as it can in this order.
"""

from __future__ import annotations

from dataclasses import dataclass

from peftport.study.estimate import passes
from peftport.study.grid import Run
from peftport.study.plan import Plan

FACT = "shards"  # the fact of a ledger that lists the shards of the whole study that were run in its folder


@dataclass(frozen=True)
class Shard:
    """One shard of several: ``3/16`` is the third of 16."""

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Shard:
        """Return the shard that ``3/16`` names."""
        number, _, count = text.partition("/")
        return cls(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class Division:
    """A study in shards.

    Attributes:
        runs: the runs of each shard, in the order of the plan.
        costs: what each shard costs, with all that its runs need, in passes (`peftport.study.estimate.passes`).
        undivided: what the whole study costs.

    """

    runs: tuple[tuple[Run, ...], ...]
    costs: tuple[int, ...]
    undivided: int

    @property
    def repeated(self) -> float:
        """The cost of what is done more than once, as a share of the whole study."""
        return sum(self.costs) / self.undivided - 1 if self.undivided else 0.0

    @property
    def longest(self) -> float:
        """The cost of the costliest shard, as a share of the whole study."""
        return max(self.costs) / self.undivided if self.undivided else 0.0


def divide(plan: Plan, count: int) -> Division:
    """Divide a plan into ``count`` shards. Some are empty where there are fewer stacks with results."""
    wanted: dict[int, set[str]] = {}  # the distances that the runs of a stack need, by stack
    stack_of = {job.id: stack.index for stack in plan.stacks for job in stack.jobs}
    for run in plan.runs():
        distance = plan.distance_of(run)
        wanted.setdefault(stack_of[plan.job_of(run)], set()).update([distance] if distance else [])
    costs = [sum(passes(job, plan.study) for job in stack.jobs) for stack in plan.stacks]
    with_needs = {stack: _with_needs(plan, stack, distances, stack_of) for stack, distances in wanted.items()}
    order = sorted(wanted, key=lambda stack: sorted(with_needs[stack]))
    stretches = _cut(order, with_needs, costs, count)
    stretches += [[] for _ in range(count - len(stretches))]
    shard_of = {stack: number for number, stacks in enumerate(stretches) for stack in stacks}
    runs: list[list[Run]] = [[] for _ in range(count)]
    for run in plan.runs():
        runs[shard_of[stack_of[plan.job_of(run)]]].append(run)
    done = [set[int]().union(*(with_needs[stack] for stack in stacks)) for stacks in stretches]
    return Division(
        tuple(map(tuple, runs)),
        tuple(sum(costs[stack] for stack in stacks) for stacks in done),
        sum(costs),
    )


def _with_needs(plan: Plan, stack: int, distances: set[str], stack_of: dict[str, int]) -> frozenset[int]:
    """Return a stack and all stacks that it and its runs' distances need."""
    found, todo = {stack}, [*plan.stacks[stack].needs, *distances]
    while todo:
        need = stack_of[todo.pop()]
        if need not in found:
            found.add(need)
            todo += plan.stacks[need].needs
    return frozenset(found)


def _cut(order: list[int], with_needs: dict[int, frozenset[int]], costs: list[int], count: int) -> list[list[int]]:
    """Cut an order into at most ``count`` stretches whose greatest cost is least."""
    least = max((sum(costs[each] for each in with_needs[stack]) for stack in order), default=0)
    most = max(least, sum(costs))
    while least < most:
        middle = (least + most) // 2
        if len(_filled(order, with_needs, costs, middle)) <= count:
            most = middle
        else:
            least = middle + 1
    return _filled(order, with_needs, costs, least)


def _filled(order: list[int], with_needs: dict[int, frozenset[int]], costs: list[int], limit: int) -> list[list[int]]:
    """Cut an order into as few stretches as cost at most ``limit`` each: each is as long as it can be."""
    stretches: list[list[int]] = []
    have, cost = set[int](), limit + 1  # nothing fits: the first stack begins a stretch
    for stack in order:
        more = sum(costs[each] for each in with_needs[stack] - have)
        if cost + more > limit:
            stretches.append([])
            have, cost = set(), 0
            more = sum(costs[each] for each in with_needs[stack])
        stretches[-1].append(stack)
        have |= with_needs[stack]
        cost += more
    return stretches
