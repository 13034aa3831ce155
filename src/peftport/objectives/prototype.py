"""prototype: a text is scored by its cosine to frozen embeddings of the labels' descriptions.

    score_c = cos(h(text), h_0(description of c)) / 0.05

h is the mean of the last hidden states with the module attached, h_0 that of the bare host. Made for sentence encoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftport.core.libraries import F, torch
from peftport.hosts.host import Host
from peftport.objectives.base import Head, LabelScorer, Row, mean_pooled
from peftport.objectives.cuts import Cuts
from peftport.tasks.spec import Example, TaskSpec, plain_text

if TYPE_CHECKING:
    from torch import Tensor

TEMPERATURE = 0.05


class Prototype(LabelScorer):
    """Cosine to label descriptions; nothing of its own to train."""

    name = "prototype"
    title = "cosine to frozen embeddings of label descriptions"
    kinds = ("encoder", "encoder_decoder", "decoder")
    view = "body"

    def __init__(self, host: Host, task: TaskSpec, max_tokens: int) -> None:
        """Embed the descriptions with the bare host, once: before any module is attached to it."""
        super().__init__(host, task, max_tokens)
        if host.device.type == "meta":  # opened without its weights, to be told what it would read
            return
        with torch.no_grad():
            self.prototypes = F.normalize(mean_pooled(host, self.encode(self.task.descriptions), 0), dim=-1)  # (C, D)
        self.cuts = self.cuts if self.cuts.total().cut else Cuts()  # descriptions that are whole are none of the texts

    def wording(self, example: Example) -> Example:
        """The text alone, behind the prefix that the host was trained with, if any."""
        return self.host.text_prefix + plain_text(example)

    def scores(self, rows: Sequence[Row], head: Head, shift: int) -> Tensor:
        """Cosines over the temperature, (N, C)."""
        return F.normalize(mean_pooled(self.host, rows, shift), dim=-1) @ self.prototypes.T / TEMPERATURE
