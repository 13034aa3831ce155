"""What a module records about another library's file, so that writing it back restores the file.

In memory every slot of a LoRA has the rank and scale of the spec: smaller ranks are padded with zeros, layers without a
LoRA are all zeros, and the scale of a slot is multiplied into B. None of this changes the function, and zero rows of A
that meet zero columns of B have no gradient. The record contains what the file had at each slot.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat

from peftport.hosts.fingerprint import Fingerprint

NumberType = Literal["float16", "bfloat16", "float32"]


class Closed(BaseModel):
    """A frozen record whose unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SlotInFile(Closed):
    """The rank (0 where there is no LoRA) and alpha of one slot in the file."""

    rank: NonNegativeInt
    alpha: PositiveFloat


class PeftRecord(Closed):
    """The record of a PEFT LoRA: what it had at each slot, and settings that PEFT uses in further training only.

    ``headed`` says whether the names of its matrices start at a model with a head (None: as in the host here).
    ``config`` is its whole ``adapter_config.json``. ``host`` is the host that it was read on.
    """

    kind: Literal["peft"] = "peft"
    slots: dict[str, SlotInFile]
    use_rslora: bool = False  # scale alpha / sqrt(r), Kalajdzievski 2023, arXiv 2312.03732, instead of alpha / r
    dropout: float = 0.0
    headed: bool | None = None
    numbers: NumberType = "float32"
    config: dict[str, Any] = {}
    host: Fingerprint | None = None


class AdaptersRecord(Closed):
    """The record of a checkpoint of the `adapters` library, with the name that is part of its tensors' names.

    ``config`` is its whole ``adapter_config.json``. ``host`` is the host that it was read on.
    """

    kind: Literal["adapters"] = "adapters"
    name: str
    numbers: NumberType = "float32"
    config: dict[str, Any] = {}
    host: Fingerprint | None = None


FileRecord = Annotated[PeftRecord | AdaptersRecord, Field(discriminator="kind")]
