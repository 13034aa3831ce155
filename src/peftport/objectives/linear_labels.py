"""linear, for sets of labels: a trainable head on the mean hidden state gives each label a probability of its own.

    p_c = sigmoid(w_c . mean(h) + b_c)        loss = mean over labels of the binary cross-entropy

A label is said where p_c > 1/2. The host without a head, and a fresh head of zeros, say none.
"""

from __future__ import annotations

from peftport.objectives.linear import LinearHead
from peftport.objectives.outputs import LabelOutputs


class LinearLabels(LinearHead, LabelOutputs):
    """A trained linear classifier for each label."""

    @property
    def width(self) -> int:
        """The number of labels."""
        return len(self.task.labels)

    def alone(self) -> str:
        """It has no head."""
        return "the host alone has no head, so it says no label for any text"
