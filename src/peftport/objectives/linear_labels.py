"""linear, for sets of labels: a trainable head on the mean hidden state gives each label a probability of its own.

    p_c = sigmoid(w_c . mean(h) + b_c)        loss = mean over labels of the binary cross-entropy

A label is said where p_c > 1/2. The host without a head, and a fresh head of zeros, say none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from peftport.objectives.base import Head, Row
from peftport.objectives.linear import LinearHead
from peftport.tasks.kinds.multi_label import MultiLabel


class LinearLabels(LinearHead):
    """A trained linear classifier for each label."""

    serves = ("multi_label",)
    task: MultiLabel

    @property
    def width(self) -> int:
        """The number of labels."""
        return len(self.task.labels)

    def loss(self, rows: Sequence[Row], targets: Tensor, head: Head, shift: int) -> Tensor:
        """Mean binary cross-entropy of a row's labels, (N,). targets (N, L): which are right, or how probably."""
        logits = self.outputs(rows, head, shift)
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.to(logits), reduction="none")
        return each.mean(1)

    def predict(self, rows: Sequence[Row], head: Head, shift: int) -> npt.NDArray[Any]:
        """The logits of every label, (N, L)."""
        logits: npt.NDArray[Any] = self.outputs(rows, head, shift).float().cpu().numpy()
        return logits

    def alone(self) -> str:
        """It has no head."""
        return "the host alone has no head, so it says no label for any text"

    def taught(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The probability of each label, (N, L)."""
        from scipy.special import expit  # imported here: a study's driver does without

        return np.asarray(expit(values), dtype=np.float32)
