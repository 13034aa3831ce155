"""A porter: a method that turns a module of one host into a module of another, and says slot by slot what it did."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from peftport.hosts.load import Host
from peftport.modules.module import Module, PortRecord, check_fits
from peftport.techniques.base import Parameters

Need = Literal["nothing", "weights", "texts", "labels", "training"]


@dataclass(frozen=True)
class Fits:
    """What origin and receiver may differ in."""

    width: Literal["same", "any"] = "same"
    depth: Literal["same", "any"] = "same"
    techniques: tuple[str, ...] = ("lora", "adapter", "compacter", "prefix")


@dataclass(frozen=True, eq=False)
class Ported:
    """Matrices for the receiver and, for every slot, what was done there."""

    matrices: Parameters
    slots: dict[str, str]


class Porter(ABC):
    """One method, declared by what it needs and what it fits."""

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[Need] = "nothing"
    fits: ClassVar[Fits] = Fits()

    @abstractmethod
    def carry(self, module: Module, receiver: Host, rng: np.random.Generator) -> Ported:
        """Make the receiver's matrices. The module has been found to fit what `fits` declares."""

    def port(self, module: Module, receiver: Host, rng: np.random.Generator) -> Module:
        """Port a module to a receiver, with the port on its record.

        Raises:
            SlotMismatch: the module does not fit the receiver by this method.

        """
        if self.fits.width == "same" and self.fits.depth == "same":
            check_fits(module, receiver, self.name)
        ported = self.carry(module, receiver, rng)
        record = PortRecord(method=self.name, origin=module.host, receiver=receiver.fingerprint, slots=ported.slots)
        return module.with_matrices(ported.matrices, host=receiver.fingerprint, ports=(*module.ports, record))
