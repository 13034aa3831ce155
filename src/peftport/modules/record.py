"""What a module remembers of another library's file, so that writing it back gives what was there.

In memory every slot of a LoRA has the spec's rank and scale: smaller ranks are filled up with zeros, layers without a
LoRA are zeros altogether, and a slot's own scale is multiplied into B. All three leave the function as it was, and
zero rows of A beside zero columns of B have no gradient. The record says what the file had at each slot.
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
    """Rank (0: no LoRA there) and alpha of one slot, as the file has them."""

    rank: NonNegativeInt
    alpha: PositiveFloat


class PeftRecord(Closed):
    """A PEFT LoRA: what it had at each slot, and what PEFT uses in further training only.

    ``headed``: made on a model with a head, below which the names of its matrices start (None: as our host is).
    ``config``: its whole ``adapter_config.json``. ``host``: the host that it was read on.
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
    """A checkpoint of the `adapters` library: the name that is part of its tensors' names.

    ``config``: its whole ``adapter_config.json``. ``host``: the host that it was read on.
    """

    kind: Literal["adapters"] = "adapters"
    name: str
    numbers: NumberType = "float32"
    config: dict[str, Any] = {}
    host: Fingerprint | None = None


FileRecord = Annotated[PeftRecord | AdaptersRecord, Field(discriminator="kind")]
