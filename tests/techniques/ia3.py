"""(IA)3 as `docs/extending.md` adds it: one file; the tests put it into the registry, which is the one line."""

from typing import Literal

import torch

from peftport.techniques.base import MatrixTechnique, TechniqueSpec
from peftport.techniques.roles import Scales


class Ia3Spec(TechniqueSpec):
    kind: Literal["ia3"] = "ia3"
    sites: tuple[str, ...] = ("attn_k", "attn_v", "cross_k", "cross_v", "ffn_in")


class Ia3(MatrixTechnique[Ia3Spec]):
    name, title, source, spec_class = "ia3", "(IA)3", "Liu et al. 2022, arXiv 2205.05638", Ia3Spec
    learning_rates = {"encoder": 1e-2, "encoder_decoder": 1e-2, "decoder": 1e-2}
    roles = {"l": Scales("out")}
    output_matrices = ("l",)
    cannot_fold = ""

    def sites(self, spec):
        return spec.sites

    def shapes(self, spec, slot):
        return {"l": (slot.out_width,)}

    def fresh(self, spec, slot, rng):
        return {"l": torch.zeros(slot.out_width)}

    def apply(self, spec, slot, x, y, own, shared):
        return y * (1 + own["l"].unsqueeze(1))  # (K, N, D_out) * (K, 1, D_out)

    def effective(self, spec, slot, own, shared):
        return own["l"]  # (K, D_out): the diagonal of the update

    def folded(self, spec, slot, own, shared, weight):
        return weight * (1 + own["l"].unsqueeze(1))  # (D_out, D_in) * (D_out, 1)

    def folded_bias(self, spec, slot, own, shared, bias):
        return bias * (1 + own["l"])
