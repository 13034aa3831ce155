"""cosine: a pair of texts is scored by the cosine of their embeddings. Made for sentence encoders.

    c = cos(mean(h(one)), mean(h(other)))
    loss = (c - (y - lowest) / (highest - lowest))^2        prediction = lowest + (highest - lowest) c

Each text is read on its own. The lowest and the highest target of the training split are what cosines of 0 and 1 stand
for; a correlation does not depend on them. Nothing of its own is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy.typing as npt

from peftport.core.libraries import F
from peftport.core.scale import Scale
from peftport.objectives.base import Head, Objective, Row, mean_pooled
from peftport.tasks.kinds.regression import RegressionTask
from peftport.tasks.spec import Example

if TYPE_CHECKING:
    from torch import Tensor


class TwoTexts(tuple[int, ...]):
    """The row of the first text, and that of the ``second``, which is read apart from it."""

    second: Row

    def __new__(cls, first: Iterable[int], second: Iterable[int]) -> Self:
        """Of the token ids of both."""
        row = super().__new__(cls, first)
        row.second = tuple(second)
        return row


class Cosine(Objective):
    """Cosine of two texts; the bare host has one, too."""

    name = "cosine"
    title = "cosine of the embeddings of two texts"
    kinds = ("encoder", "encoder_decoder", "decoder")
    view = "body"
    serves = ("regression",)
    task: RegressionTask

    def wording(self, example: Example) -> Example:
        """One of the texts, behind the prefix that the host was trained with, if any."""
        assert isinstance(example, str), "both texts are read apart"
        return self.host.text_prefix + example

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """Both texts of each pair as a row of its own, each cut to the limit."""
        firsts, seconds = (super(Cosine, self).encode([pair[place] for pair in examples]) for place in (0, 1))
        return [TwoTexts(first, second) for first, second in zip(firsts, seconds, strict=True)]

    def cosines(self, rows: Sequence[Row], shift: int) -> Tensor:
        """The cosine of the two texts of each row, (N,). Rows of one entry stay together, its pairs side by side."""
        apart = [part for row in rows for part in (tuple(row), getattr(row, "second", ()))]
        states = F.normalize(mean_pooled(self.host, apart, shift), dim=-1).view(len(rows), 2, -1)
        return (states[:, 0] * states[:, 1]).sum(-1)

    def loss(self, rows: Sequence[Row], targets: Tensor, head: Head, shift: int) -> Tensor:
        """Squared error of the cosine against the target scaled to [0, 1], (N,)."""
        cosines, scale = self.cosines(rows, shift), self._scale
        wanted = (targets.double() - scale.lowest) / (scale.highest - scale.lowest)
        return (cosines - wanted.to(cosines)) ** 2

    def predict(self, rows: Sequence[Row], head: Head, shift: int) -> npt.NDArray[Any]:
        """Numbers in the target's unit, (N,)."""
        cosines, scale = self.cosines(rows, shift).double().cpu(), self._scale
        values: npt.NDArray[Any] = (scale.lowest + (scale.highest - scale.lowest) * cosines).numpy()
        return values

    @property
    def _scale(self) -> Scale:
        assert self.task.scale is not None, "a task that was split has a scale"
        return self.task.scale
