"""copy: use the matrices unchanged, bit for bit. The paper calls this porting (Sabry & Belz 2024, arXiv 2401.14228)."""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from peftport.hosts.host import Host
from peftport.modules.module import Module
from peftport.porting.base import PortedMatrices, Porter, PortInputs


class Copy(Porter):
    """Unchanged matrices on a host with the same slots and widths."""

    name = "copy"
    title = "matrices unchanged"
    source = "Sabry & Belz 2024, arXiv 2401.14228; PortLLM, arXiv 2410.10870"

    @override
    def carry(self, module: Module, receiver: Host, rng: np.random.Generator, inputs: PortInputs) -> PortedMatrices:
        return PortedMatrices(
            {slot: dict(named) for slot, named in module.matrices.items()}, dict.fromkeys(module.matrices, "copied")
        )
