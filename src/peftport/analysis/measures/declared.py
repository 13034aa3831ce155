"""What is decided before the numbers are seen: metric, level, floor, target, families of comparisons."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat

from peftport.metrics import metric_named


def _known(name: str) -> str:
    return metric_named(name).name


Share = Annotated[float, Field(gt=0, lt=1)]


class Declared(BaseModel):
    """How a table of runs is judged.

    Attributes:
        metric: what counts, a name of `peftport.metrics`.
        level: of intervals and verdicts; 1 - level is the error allowed to a family.
        floor: the least lift (ceiling - bare) that a share can be taken of.
        target: steps to target count until this share of the lift is there.
        sampler: the sampled arm; None: the only one there is, or ``gaussian``, or the first by name.
        test: p of a gain: ``crossed`` (over seeds and items, as the interval) or ``sign_flip`` (over seeds, exact).
        family: over what Holm corrects: all comparisons with one arm, those of one cell, or all.
        allowance: the most training steps in the receiver that a verdict weighs; None: all budgets of the table.

    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Annotated[str, AfterValidator(_known)] = "accuracy"
    level: Share = 0.95
    floor: PositiveFloat = 0.03
    target: Share = 0.9
    sampler: str | None = None
    test: Literal["crossed", "sign_flip"] = "crossed"
    family: Literal["versus", "cell", "all"] = "versus"
    allowance: NonNegativeInt | None = None
