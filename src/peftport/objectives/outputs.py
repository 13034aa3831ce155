"""What the outputs of a head mean for each kind of task: for objectives whose head is the host's or a module's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from peftport.core.libraries import torch
from peftport.objectives.base import Head, LabelScorer, Objective, Row
from peftport.tasks.kinds.multi_label import MultiLabel
from peftport.tasks.kinds.regression import RegressionTask

if TYPE_CHECKING:
    from torch import Tensor


class Outputs(Objective):
    """An objective that gives C outputs for each row."""

    @abstractmethod
    def outputs(self, rows: Sequence[Row], head: Head, shift: int) -> Tensor:
        """The outputs of each row, (N, C)."""


class ClassOutputs(Outputs, LabelScorer):
    """The outputs are the logits of classes."""

    def scores(self, rows: Sequence[Row], head: Head, shift: int) -> Tensor:
        """The logits, (N, C)."""
        return self.outputs(rows, head, shift)


class NumberOutput(Outputs):
    """The only output is a number in the unit of the targets."""

    serves = ("regression",)
    task: RegressionTask

    def loss(self, rows: Sequence[Row], targets: Tensor, head: Head, shift: int) -> Tensor:
        """Squared error over the variance of the training targets, (N,). targets: in their own unit, (N,)."""
        assert self.task.scale is not None, "a task that was split has a scale"
        found = self.outputs(rows, head, shift)[:, 0]
        return ((found - targets.to(found)) / self.task.scale.deviation) ** 2

    def predict(self, rows: Sequence[Row], head: Head, shift: int) -> npt.NDArray[Any]:
        """Numbers in the unit that the head was trained for, (N,)."""
        found: npt.NDArray[Any] = self.outputs(rows, head, shift)[:, 0].double().cpu().numpy()
        return found


class LabelOutputs(Outputs):
    """Each output is the logit of a label of its own."""

    serves = ("multi_label",)
    task: MultiLabel

    def loss(self, rows: Sequence[Row], targets: Tensor, head: Head, shift: int) -> Tensor:
        """Mean binary cross-entropy of a row's labels, (N,). targets (N, L): which are right, or how probably."""
        found = self.outputs(rows, head, shift)
        each = torch.nn.functional.binary_cross_entropy_with_logits(found, targets.to(found), reduction="none")
        return each.mean(1)

    def predict(self, rows: Sequence[Row], head: Head, shift: int) -> npt.NDArray[Any]:
        """The logits of every label, (N, L)."""
        found: npt.NDArray[Any] = self.outputs(rows, head, shift).float().cpu().numpy()
        return found

    def taught(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The probability of each label, (N, L)."""
        from scipy.special import expit  # imported here: a study's driver does without

        return np.asarray(expit(values), dtype=np.float32)
