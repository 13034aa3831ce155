"""linear: a trainable head on the mean hidden state. The head is part of the module, ported or fresh with it.

score = W mean(h) + b          W (C, D), b (C); a fresh head is zero, so that it prefers no label
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from peftport.objectives.base import Head, LabelScorer, Row, mean_pooled
from peftport.tasks.spec import Example


class Linear(LabelScorer):
    """A trained linear classifier of the pooled text, or of a pair of texts read together."""

    name = "linear"
    title = "a trainable head on the mean hidden state"
    kinds = ("encoder", "encoder_decoder", "decoder")
    view = "body"

    def wording(self, example: Example) -> Example:
        """The text or pair alone, behind the prefix that the host was trained with; a pair on a decoder in a prompt."""
        if isinstance(example, str):
            return self.host.text_prefix + example
        if self.host.kind != "encoder":
            return self.prompted(example)
        return (self.host.text_prefix + example[0], *example[1:])

    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """Weight (C, D) and bias (C)."""
        return {"weight": (len(self.task.labels), self.host.width), "bias": (len(self.task.labels),)}

    def scores(self, rows: Sequence[Row], head: Head, shift: int) -> Tensor:
        """Each entry's head on its own rows, (N, C)."""
        states = mean_pooled(self.host, rows, shift)  # (N, D)
        if head is None:
            return states.new_zeros(len(rows), len(self.task.labels))
        entries = head["weight"].shape[0]
        own = torch.baddbmm(head["bias"].unsqueeze(1), states.view(entries, -1, states.shape[-1]), head["weight"].mT)
        return own.flatten(0, 1)
