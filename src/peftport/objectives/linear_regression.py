"""linear, for a number as target: a trainable head on the mean hidden state predicts it, standardised.

    z = w . mean(h) + b        loss = (z - (y - mean) / deviation)^2        prediction = mean + deviation z

Mean and deviation are those of the training split. The host without a head, and a fresh head of zeros, predict the mean
for every text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from peftport.core.scale import Scale
from peftport.objectives.base import Head, HeadMatrices, Row
from peftport.objectives.linear import LinearHead
from peftport.tasks.kinds.regression import RegressionTask

if TYPE_CHECKING:
    from torch import Tensor


class LinearRegression(LinearHead):
    """A trained linear regression on the pooled text, or on a pair of texts read together."""

    serves = ("regression",)
    task: RegressionTask

    @property
    def width(self) -> int:
        """The head gives one number."""
        return 1

    @property
    def scale(self) -> Scale:
        """By what the targets are standardised."""
        assert self.task.scale is not None, "a task that was split has a scale"
        return self.task.scale

    def loss(self, rows: Sequence[Row], targets: Tensor, head: Head, shift: int) -> Tensor:
        """Squared error of the standardised numbers, (N,). targets: in their own unit, (N,)."""
        predicted = self.outputs(rows, head, shift)[:, 0]
        wanted = (targets.double() - self.scale.mean) / self.scale.deviation
        return (predicted - wanted.to(predicted)) ** 2

    def predict(self, rows: Sequence[Row], head: Head, shift: int) -> npt.NDArray[Any]:
        """Numbers in the target's unit, (N,)."""
        predicted = self.outputs(rows, head, shift)[:, 0].double().cpu()
        values: npt.NDArray[Any] = (self.scale.mean + self.scale.deviation * predicted).numpy()
        return values

    def alone(self) -> str:
        """It has no head."""
        return (
            f"the host alone has no head, so it predicts the mean of the training targets, {self.scale.mean:.4g}, for "
            "every text; correlations with that are undefined"
        )

    def own_head(self, head: HeadMatrices, record: Scale | None) -> HeadMatrices:
        """The head for this task's scale, so that it predicts what it predicted by the recorded one."""
        if record is None or record == self.scale:
            return head
        has = self.scale
        ratio, shift = record.deviation / has.deviation, (record.mean - has.mean) / has.deviation
        return {"weight": head["weight"] * ratio, "bias": head["bias"] * ratio + shift}
