"""The inputs from which the maps between two hosts are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from peftport.hosts.host import Host
from peftport.modules.module import Module
from peftport.porting.base import PortInputs
from peftport.porting.pairs import Pair
from peftport.techniques import technique_named
from peftport.techniques.roles import Roles


@dataclass(frozen=True, eq=False)
class AlignInputs:
    """A module, the host that it goes to, pairs of slots by the receiver's slot, and the inputs of the port."""

    module: Module
    receiver: Host
    pairs: Mapping[str, Pair]
    rng: np.random.Generator
    port_inputs: PortInputs

    @property
    def origin(self) -> Host:
        """The host that the module was trained on, which methods that need weights or texts always have."""
        assert self.port_inputs.origin is not None
        return self.port_inputs.origin

    @property
    def roles(self) -> Roles:
        """What each matrix of the module reads, writes or scales."""
        return technique_named(self.module.spec.kind).roles
