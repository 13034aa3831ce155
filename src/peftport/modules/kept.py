"""What a module keeps of a PEFT file that is more than a plain LoRA: the file, which `copy` writes again.

The module's own matrices are then a LoRA of nearly the same function on its host (formats.peft.fold), which every
method can carry. They hold for that host only, since a DoRA, for one, depends on the weights that it changes: `copy`
takes the file and folds it again on the receiver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


FOLDED = "folded"


@dataclass(frozen=True, eq=False)
class Kept:
    """A PEFT file: its ``adapter_config.json``, its tensors by their names in the trained model, and what is outside.

    Attributes:
        outside: the change of every weight of the host, by name, that is no linear map of the layers; the module's
            matrices do not have them.
        leave_out: the parts of the file that were not read.

    """

    config: dict[str, Any]
    tensors: Mapping[str, Tensor] = field(repr=False)
    outside: Mapping[str, Tensor] = field(repr=False, default_factory=dict)
    leave_out: tuple[str, ...] = ()

    @property
    def parts_vocabularies(self) -> bool:
        """Whether an embedding and a head that share their weights no longer do with this module.

        PEFT changes the one that is named, except for trained tokens, which it changes in both, and where it is told.
        """
        return not (self.config.get("trainable_token_indices") or self.config.get("ensure_weight_tying"))

    @property
    def outside_modules(self) -> tuple[str, ...]:
        """The names of the host's modules that are changed outside the linear maps of the layers."""
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in self.outside))
