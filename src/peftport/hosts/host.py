"""The host: a frozen model with its slots, tokenizer and fingerprint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from peftport.hosts.fingerprint import Fingerprint
from peftport.hosts.slots import HostKind, Layout, Slot

# A "body" returns hidden states, a "language_model" scores tokens, a "sequence_classification" its own labels.
View = Literal["body", "language_model", "sequence_classification"]


@dataclass(frozen=True, eq=False)
class Host:
    """A frozen pretrained transformer.

    Attributes:
        base: the module that the paths of slots start from.
        slots: every slot by name, in layer order.
        text_prefix: the text that is put before every input (``query: `` for e5), from the folder's config.

    """

    name: str
    folder: Path | None
    kind: HostKind
    layout: Layout
    model: nn.Module
    tokenizer: Any
    fingerprint: Fingerprint
    slots: dict[str, Slot] = field(repr=False)
    text_prefix: str = ""

    @property
    def base(self) -> nn.Module:
        """The model without its language-model head; paths of slots are relative to it."""
        return self.model.base_model  # type: ignore[return-value]

    @property
    def config(self) -> Any:
        """The transformers configuration of the model."""
        return self.model.config

    @property
    def width(self) -> int:
        """D, the width of the residual stream."""
        return int(self.config.hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the host computes in; the matrices of techniques are cast to it."""
        return next(p.dtype for p in self.model.parameters() if p.is_floating_point())

    @property
    def wide_dtype(self) -> torch.dtype:
        """The dtype of trained parameters and of scores: float32 where the host computes in a narrower one."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def device(self) -> torch.device:
        """The device that inputs are put on, which is that of the first weights."""
        return next(self.model.parameters()).device

    @property
    def positions(self) -> int | None:
        """How many tokens it can read; None where positions are rotated or relative, so that no table ends."""
        if self.layout.rotary:
            return None
        limit: int | None = getattr(self.config, "max_position_embeddings", None)
        first = getattr(getattr(self.base, "embeddings", None), "padding_idx", None)  # RoBERTa counts from behind it
        return limit if limit is None or first is None else limit - first - 1

    def slot_module(self, slot: Slot) -> nn.Module:
        """Return the torch module that a slot attaches to."""
        return self.base.get_submodule(slot.path)
