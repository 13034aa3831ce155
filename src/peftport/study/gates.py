"""Gates: what must hold before a study's grid is run, and which jobs tell. The study tests them on validation items.

    lift        an origin's modules at home over the bare origin: the lower bound of the gain
    closeness   the bare receiver beside the bare origin, in accuracy and AUROC: the difference

Modules that gain nothing at home have nothing to port, and a receiver that lost what its origin knew is no update of
it: comparisons with such modules and receivers say nothing of porting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from peftport.core.libraries import pl
from peftport.metrics import metric_named
from peftport.modules.module import Closed
from peftport.study.grid import Run

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class LiftGate:
    """Holds a technique's modules at home to their bare host: the jobs that test this, and one module for each seed."""

    technique: str
    origin: str
    task: str
    bare: str
    home: dict[int, str] = field(hash=False)
    kind: ClassVar[Literal["lift"]] = "lift"
    receiver: ClassVar[None] = None

    @property
    def jobs(self) -> tuple[str, ...]:
        """The jobs that the gate goes by, the bare origin first."""
        return (self.bare, *self.home.values())


@dataclass(frozen=True, slots=True)
class ClosenessGate:
    """Holds a bare receiver to its bare origin on one task: the jobs that test them."""

    origin: str
    receiver: str
    task: str
    bare_origin: str
    bare_receiver: str
    kind: ClassVar[Literal["closeness"]] = "closeness"
    technique: ClassVar[None] = None

    @property
    def jobs(self) -> tuple[str, ...]:
        """The jobs that the gate goes by, the bare origin first."""
        return (self.bare_origin, self.bare_receiver)


Gate = LiftGate | ClosenessGate


@dataclass(frozen=True)
class Gates:
    """The gates of a plan: of each technique, origin and origin task, and of each pair of hosts and receiver task."""

    lifts: dict[Key, LiftGate] = field(default_factory=dict)
    closeness: dict[Key, ClosenessGate] = field(default_factory=dict)

    def __len__(self) -> int:
        """The number of gates."""
        return len(self.lifts) + len(self.closeness)

    def __iter__(self) -> Iterator[Gate]:
        """Yield the gates of lift first, then those of closeness."""
        yield from self.lifts.values()
        yield from self.closeness.values()

    @property
    def jobs(self) -> list[str]:
        """The jobs that the gates go by."""
        return [job for gate in self for job in gate.jobs]

    def of(self, runs: Iterable[Run]) -> Gates:
        """The gates that these runs must pass."""
        lifts, pairs = set[Key](), set[Key]()
        for run in runs:
            if run.technique is not None and run.origin is not None and run.origin_task is not None:
                lifts.add((run.technique, run.origin, run.origin_task))
                pairs.add((run.origin, run.receiver, run.receiver_task))
        return Gates(
            {key: gate for key, gate in self.lifts.items() if key in lifts},
            {key: gate for key, gate in self.closeness.items() if key in pairs},
        )


class GateResult(Closed):
    """One gate in one metric.

    Attributes:
        score: of the module at home (lift) or of the bare receiver (closeness).
        beside: of the bare origin.
        difference: by how much ``score`` is better, with its interval from ``low`` to ``high``.
        needed: what the lower bound must exceed (lift), or the difference must not (closeness); None where the metric
            is shown beside the one that decides.
        passed: whether it does; None where nothing is needed or nothing is known.
        note: why nothing is known; else empty.

    """

    gate: Literal["lift", "closeness"]
    technique: str | None
    origin: str
    receiver: str | None
    task: str
    metric: str
    score: float | None = None
    beside: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    needed: float | None = None
    passed: bool | None = None
    seeds: int = 0
    items: int = 0
    note: str = ""

    @property
    def stops(self) -> bool:
        """Whether the study must not go on: what is needed does not hold, or is not known."""
        return self.needed is not None and self.passed is not True

    @property
    def who(self) -> str:
        """What is held: a technique at home, or a receiver beside its origin."""
        if self.gate == "lift":
            return f"{self.technique} on {self.origin}, {self.task}"
        return f"bare {self.receiver} beside bare {self.origin}, {self.task}"

    @property
    def figures(self) -> str:
        """The difference with its interval; empty where nothing is known."""
        if self.difference is None or self.low is None or self.high is None:
            return ""
        return f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    @property
    def line(self) -> str:
        """The gate in one line: what it is, what was found, what was expected."""
        if self.note or not self.figures:
            return f"{self.gate}: {self.who}: {self.note or 'not known'}"
        expected = "a lower bound above" if self.gate == "lift" else "a difference of at most"
        over = f"{self.seeds} seeds and {self.items}" if self.gate == "lift" else f"{self.items}"
        needed = "" if self.needed is None else f", expected {expected} {self.needed:g}"
        title = metric_named(self.metric).title
        return f"{self.gate}: {self.who}: {title} {self.figures} on {over} validation items{needed}"


def gate_table(results: tuple[GateResult, ...]) -> pl.DataFrame:
    """A row for each gate and metric."""
    schema = {
        name: {"needed": pl.Float64, "passed": pl.Boolean, "seeds": pl.Int64, "items": pl.Int64}.get(
            name, pl.Float64 if name in ("score", "beside", "difference", "low", "high") else pl.String
        )
        for name in GateResult.model_fields
    }
    return pl.DataFrame([result.model_dump() for result in results], schema=schema, orient="row")
