"""The scale of a column of numbers: what a regression is standardised by, and what its module keeps a record of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, PositiveFloat


class Scale(BaseModel):
    """The mean of some numbers, their standard deviation, and the lowest and the highest of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    mean: float
    deviation: PositiveFloat
    lowest: float
    highest: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Self:
        """The scale of numbers that are not all the same. Sums are exact: it is the same on every processor."""
        mean = math.fsum(numbers) / len(numbers)
        variance = math.fsum((value - mean) ** 2 for value in numbers) / len(numbers)
        return cls(mean=mean, deviation=math.sqrt(variance), lowest=min(numbers), highest=max(numbers))
