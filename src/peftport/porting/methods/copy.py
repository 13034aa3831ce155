"""copy: use the matrices unchanged, bit for bit. The paper calls this porting (Sabry & Belz 2024, arXiv 2401.14228)."""

from __future__ import annotations

from typing import Any

import numpy as np
from typing_extensions import override

from peftport.hosts.host import Host
from peftport.modules.formats.peft.tokens import other_ids
from peftport.modules.module import Module
from peftport.porting.base import Need, PortedMatrices, Porter, PortInputs


class Copy(Porter):
    """Unchanged matrices on a host with the same slots and widths."""

    name = "copy"
    title = "matrices unchanged"
    source = "Sabry & Belz 2024, arXiv 2401.14228; PortLLM, arXiv 2410.10870"

    keeps_files = True
    carries_numbers = True

    @override
    def needs_for(self, module: Module[Any], receiver: Host) -> Need:
        """Trained tokens are found on the receiver by their spelling, which the origin's tokenizer has."""
        return "weights" if other_ids(module, receiver) else "nothing"

    @override
    def carry(
        self, module: Module[Any], receiver: Host, rng: np.random.Generator, inputs: PortInputs
    ) -> PortedMatrices:
        if module.kept is not None:
            from peftport.modules.formats.peft.read import copied  # imported here: a study's driver does without

            again = copied(module, module.kept, inputs.origin, receiver)
            return PortedMatrices(again.matrices, dict.fromkeys(again.matrices, "copied"), again.spec, again)
        return PortedMatrices(
            {slot: dict(named) for slot, named in module.matrices.items()}, dict.fromkeys(module.matrices, "copied")
        )
