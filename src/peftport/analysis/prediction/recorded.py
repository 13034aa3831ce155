"""The table of recorded ports, recorded.json: the results of committed studies, one row for each setting.

It is made from the studies' own tables (tools/record_ports.py) and never written by hand.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt

from peftport.analysis.stats import Interval

TABLE = "recorded.json"
LEVEL = 0.95  # the level of the records' own intervals
FLOOR = 0.03  # the smallest gain of a training of which a share is taken, or that a port can be expected to carry
MARK = 16  # hex digits of a host's weights that stand for it, as a study's own record has them
Accuracy = Annotated[float, Field(ge=0, le=1)]


class _ClosedRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RecordedPort(_ClosedRecord):
    """A module of one technique ported by one method and tested before any training, mean over seeds.

    Attributes:
        study: the study that recorded it.
        marks: the first digits of the origin's and the receiver's weights (sha256).
        distance: relative distance of the receiver's weights from the origin's; None where their shapes differ.
        task: the task that the module was trained for and is tested on.
        origin_steps: for how many steps it was trained on its origin.
        home: its gain in accuracy over the bare origin, there; None where that was not recorded. ``home_low`` is the
            lower bound of its 95 % interval.
        base: accuracy of the bare receiver.
        ceiling: accuracy of a module trained on the receiver for as many steps as the origin's.
        lift_low: the lower bound of the ceiling's gain over the bare receiver; None where that was not recorded.
        ported: accuracy of the ported module.
        sampled: accuracy of parameters sampled from the ported module's distribution, if that was run.
        gain_low, gain_high: the 95 % interval of the gain over the bare receiver, over seeds and test items.

    """

    study: str
    origin: str
    receiver: str
    marks: tuple[str, str]
    origin_family: str
    receiver_family: str
    same_vocabulary: bool
    distance: NonNegativeFloat | None
    technique: str
    method: str
    task: str
    seeds: PositiveInt
    items: PositiveInt
    base: Accuracy
    ceiling: Accuracy
    ported: Accuracy
    sampled: Accuracy | None
    gain_low: float
    gain_high: float
    origin_steps: PositiveInt
    home: float | None
    home_low: float | None
    lift_low: float | None

    @property
    def learnt(self) -> bool:
        """Whether the module may have had something to bring: not, where what it gained at home is not settled."""
        return self.home_low is None or self.home_low >= FLOOR

    @property
    def gain(self) -> float:
        """The accuracy of the ported module minus that of the bare receiver."""
        return self.ported - self.base

    @property
    def gain_interval(self) -> Interval:
        """The gain with its interval."""
        return Interval(self.gain, self.gain_low, self.gain_high, LEVEL)

    @property
    def lift(self) -> float:
        """The accuracy of a module trained on the receiver minus that of the bare receiver."""
        return self.ceiling - self.base

    @property
    def pair(self) -> frozenset[str]:
        """The two hosts, regardless of which is the origin."""
        return frozenset(self.marks)


class Recorded(_ClosedRecord):
    """The whole table and the command that made it."""

    version: Literal[2] = 2
    command: str
    ports: tuple[RecordedPort, ...]


@cache
def recorded() -> Recorded:
    """The table that is part of the package."""
    text = (resources.files("peftport.analysis.prediction") / TABLE).read_text(encoding="utf-8")
    return Recorded.model_validate_json(text)
