"""The host: a frozen model with its slots, tokenizer and fingerprint."""

from __future__ import annotations

from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftport.core.libraries import torch
from peftport.hosts.fingerprint import Fingerprint
from peftport.hosts.layouts import HostKind, Layout
from peftport.hosts.slots import Slot, text_config

if TYPE_CHECKING:
    from torch import nn

# A "body" returns hidden states, a "language_model" scores tokens, a "sequence_classification" its own labels.
View = Literal["body", "language_model", "sequence_classification"]
# How configurations call the number of positions; encoder-decoders with two tables read texts in the encoder.
POSITIONS = ("max_position_embeddings", "max_encoder_position_embeddings")


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
        return int(text_config(self.base).hidden_size)

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
        table = self.layout.position_table
        if not (not self.layout.rotary if table is None else table):
            return None
        config = text_config(self.base)
        found: int | None = next((n for name in POSITIONS if (n := getattr(config, name, None)) is not None), None)
        first = getattr(getattr(self.base, "embeddings", None), "padding_idx", None)  # RoBERTa counts from behind it
        return found if found is None or first is None else found - first - 1

    @property
    def takes_positions(self) -> bool:
        """Whether it takes positions as an input; others count them by themselves, from the attention mask."""
        return "position_ids" in signature(self.base.forward).parameters

    def slot_module(self, slot: Slot) -> nn.Module:
        """Return the torch module that a slot attaches to."""
        return self.base.get_submodule(slot.path)
