"""A readout: how a task's labels are read out of a host. It turns texts into token rows, and rows into label scores.

Letters: K entries, B rows an entry, N = K B rows of all entries, T tokens, C labels, V vocabulary, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from peftport.hosts.host import Host, View
from peftport.hosts.slots import HostKind
from peftport.tasks.task import TaskSpec

Row: TypeAlias = tuple[int, ...]  # token ids of one text, special tokens included
Head: TypeAlias = Mapping[str, Tensor] | None  # a linear readout's own matrices, stacked over K


class Readout(ABC):
    """One way to read labels, bound to one host and one task."""

    name: ClassVar[str]
    title: ClassVar[str]
    kinds: ClassVar[tuple[HostKind, ...]]
    view: ClassVar[View]

    def __init__(self, host: Host, task: TaskSpec, max_tokens: int) -> None:
        """Bind. Texts are cut to ``max_tokens`` tokens; prompts around them are kept whole."""
        self.host, self.task, self.max_tokens = host, task, max_tokens

    @abstractmethod
    def wording(self, text: str) -> str:
        """The text as the host reads it, prompt included."""

    @abstractmethod
    def scores(self, rows: Sequence[Row], head: Head, shift: int) -> Tensor:
        """Score every label for every row, (N, C), higher is likelier. ``shift``: positions before the text."""

    def loss(self, rows: Sequence[Row], labels: Tensor, head: Head, shift: int) -> Tensor:
        """Cross-entropy of each row, (N,). labels (N,)."""
        return torch.nn.functional.cross_entropy(self.scores(rows, head, shift), labels, reduction="none")

    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the readout's own trainable matrices; most have none."""
        return {}

    def encode(self, texts: Sequence[str]) -> list[Row]:
        """Token rows of texts: cut, worded, tokenised."""
        if not texts:
            return []
        worded = [self.wording(cut) for cut in self._cut(list(texts))]
        return [tuple(ids) for ids in self.host.tokenizer(worded, verbose=False)["input_ids"]]

    def _cut(self, texts: list[str]) -> list[str]:
        found = self.host.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans = found["offset_mapping"]
        limit = self.max_tokens
        return [t[: span[limit - 1][1]] if len(span) > limit else t for t, span in zip(texts, spans, strict=True)]


def pad(rows: Sequence[Row], pad_id: int | None, device: torch.device, *, left: bool = False) -> dict[str, Tensor]:
    """input_ids and attention_mask, each (N, T), padded to the longest row."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_id or 0)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for index, row in enumerate(rows):
        where = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[index, where] = torch.tensor(row)
        mask[index, where] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def decoder_inputs(host: Host, rows: Sequence[Row], shift: int) -> dict[str, Any]:
    """Inputs of a decoder-only host, padded on the left so that all rows end together; positions start at ``shift``."""
    inputs: dict[str, Any] = pad(rows, host.tokenizer.pad_token_id, host.device, left=True)
    inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0) + shift
    return {**inputs, "use_cache": False}


def mean_pooled(host: Host, rows: Sequence[Row], shift: int) -> Tensor:
    """Mean of the last hidden states over the tokens of each row, (N, D); of the encoder, where there is one."""
    if host.kind == "decoder":
        inputs = decoder_inputs(host, rows, shift)
        hidden = host.base(**inputs).last_hidden_state
    else:
        inputs = pad(rows, host.tokenizer.pad_token_id, host.device)
        body = host.model.get_encoder() if host.kind == "encoder_decoder" else host.base  # type: ignore[operator]
        hidden = body(**inputs).last_hidden_state  # (N, T, D)
    hidden = hidden.to(host.device, host.wide_dtype)
    mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    mean: Tensor = (hidden * mask).sum(1) / mask.sum(1)
    return mean
