"""The choices that are made before the numbers are seen: metric, level, floor, target, families of comparisons."""

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
        metric: the metric that is judged, a name in `peftport.metrics`.
        level: the level of intervals and verdicts; 1 - level is the error allowed to a family of comparisons.
        floor: the least lift (ceiling - bare) of which a share is taken.
        target: the share of the lift at which training has reached its target.
        sampler: the sampled arm that counts; None for the only one, or ``gaussian``, or the first by name.
        test: how p of a gain is computed: ``crossed`` (over seeds and items, like the interval) or ``sign_flip`` (an
            exact test over seeds).
        family: the comparisons that Holm's correction takes together: those with one arm, those of one cell, or all.
        allowance: the largest budget, in training steps, that a verdict considers; None for all budgets.

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
