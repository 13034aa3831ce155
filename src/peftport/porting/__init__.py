"""The porters (porting methods) by name, and the samplers, which are porters as well.

A porter is one file in `methods` and one line here. `base` has their interface, `pairs` the pairing of slots,
`alignment` what several methods share.
"""

from __future__ import annotations

from peftport.core.errors import UnknownName
from peftport.porting.base import Porter
from peftport.porting.methods.anchor_ridge import AnchorMean, AnchorRidge
from peftport.porting.methods.bico import BiCo
from peftport.porting.methods.cast import Cast
from peftport.porting.methods.copy import Copy
from peftport.porting.methods.crosslora import CrossLora
from peftport.porting.methods.gradfix import GradFix
from peftport.porting.methods.lorasuite import LoraSuite
from peftport.porting.methods.orthogonal_shift import OrthogonalShift
from peftport.porting.methods.regress import Regress
from peftport.porting.methods.resize import Resize
from peftport.porting.methods.skip import Skip
from peftport.porting.methods.subspace import Subspace
from peftport.porting.methods.theseus import Theseus
from peftport.porting.methods.transfusion import TransFusion
from peftport.porting.samplers import Gaussian, NormMatched, Permutation, Sampler, Spectrum

METHODS: tuple[Porter, ...] = (
    Copy(), Resize(), Skip(), Subspace(), CrossLora(), TransFusion(), LoraSuite(), OrthogonalShift(), Theseus(),
    BiCo(), Cast(), Regress(), GradFix(), AnchorRidge(), AnchorMean(),
)  # fmt: skip
AUTO = "auto"  # not a porter, but the one that `check` recommends
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
