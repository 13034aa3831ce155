"""The porters by name, and the samplers, which are porters too. A porter is one file and one line here."""

from __future__ import annotations

from peftport.errors import UnknownName
from peftport.porting.base import Porter
from peftport.porting.copy import Copy
from peftport.porting.crosslora import CrossLora
from peftport.porting.gradfix import GradFix
from peftport.porting.lorasuite import LoraSuite
from peftport.porting.regress import Regress
from peftport.porting.resize import Resize
from peftport.porting.sampled import Gaussian, NormMatched, Permutation, Sampler, Spectrum
from peftport.porting.skip import Skip
from peftport.porting.subspace import Subspace
from peftport.porting.theseus import Theseus
from peftport.porting.transfusion import TransFusion

METHODS: tuple[Porter, ...] = (
    Copy(), Resize(), Skip(), Subspace(), CrossLora(), TransFusion(), LoraSuite(), Theseus(), Regress(), GradFix(),
)  # fmt: skip
AUTO = "auto"  # no porter: whichever `check` chooses
PORTERS: dict[str, Porter] = {p.name: p for p in METHODS}
SAMPLERS: dict[str, Sampler] = {s.name: s for s in (Gaussian(), Permutation(), Spectrum(), NormMatched())}


def porter_named(name: str) -> Porter:
    """The porter of that name.

    Raises:
        UnknownName: there is none.

    """
    if name not in PORTERS:
        raise UnknownName.of("method", name, PORTERS)
    return PORTERS[name]


def sampler_named(name: str) -> Sampler:
    """The sampler of that name.

    Raises:
        UnknownName: there is none.

    """
    if name not in SAMPLERS:
        raise UnknownName.of("sampler", name, SAMPLERS)
    return SAMPLERS[name]
