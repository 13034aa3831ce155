"""linear: a trainable head on the mean hidden state. The head is part of the module, ported or fresh with it.

output = W mean(h) + b          W (C, D), b (C); a fresh head is zero

What the outputs are is the kind of task's own: `Linear` scores classes, `LinearRegression` predicts a number
(C = 1), `LinearLabels` says labels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftport.core.libraries import torch
from peftport.objectives.base import Head, LabelScorer, Objective, Row, mean_pooled
from peftport.tasks.spec import Example

if TYPE_CHECKING:
    from torch import Tensor


class LinearHead(Objective):
    """A trained linear map of the pooled text, or of a pair of texts read together."""

    name = "linear"
    title = "a trainable head on the mean hidden state"
    kinds = ("encoder", "encoder_decoder", "decoder")
    view = "body"

    @property
    @abstractmethod
    def width(self) -> int:
        """The number C of outputs."""

    @property
    def prompt_name(self) -> str | None:
        """The one that is answered, where it names both texts of a pair."""
        return self.answered_prompt if len(self.task.fields) > 1 and self.host.kind != "encoder" else None

    def wording(self, example: Example) -> Example:
        """The text or pair alone, behind the prefix that the host was trained with; a pair on a decoder in a prompt."""
        return worded_alone(self, example)

    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """Weight (C, D) and bias (C)."""
        return {"weight": (self.width, self.host.width), "bias": (self.width,)}

    def outputs(self, rows: Sequence[Row], head: Head, shift: int) -> Tensor:
        """Each entry's head on its own rows, (N, C); zeros where there is no head."""
        states = mean_pooled(self.host, rows, shift)  # (N, D)
        if head is None:
            return states.new_zeros(len(rows), self.width)
        entries = head["weight"].shape[0]
        logits = torch.baddbmm(head["bias"].unsqueeze(1), states.view(entries, -1, states.shape[-1]), head["weight"].mT)
        return logits.flatten(0, 1)


class Linear(LinearHead, LabelScorer):
    """A trained linear classifier; a fresh head prefers no class."""

    @property
    def width(self) -> int:
        """The number of classes."""
        return len(self.task.labels)

    def scores(self, rows: Sequence[Row], head: Head, shift: int) -> Tensor:
        """A score for each class, (N, C)."""
        return self.outputs(rows, head, shift)


def worded_alone(objective: Objective, example: Example) -> Example:
    """The text or pair alone, behind the prefix that the host was trained with; a pair on a decoder in a prompt."""
    if isinstance(example, str):
        return objective.host.text_prefix + example
    if objective.host.kind != "encoder":
        return objective.prompted(example)
    return (objective.host.text_prefix + example[0], *example[1:])
