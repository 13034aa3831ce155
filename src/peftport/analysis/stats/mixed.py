"""A linear mixed model of a measure over the grid: techniques are fixed effects, host pairs and data sets random ones.

    y = intercept + technique + u_pair + v_data + noise,   u ~ N(0, s_u^2), v ~ N(0, s_v^2), crossed

Fitted by restricted maximum likelihood: Laird & Ware 1982, Biometrics 38; computed by statsmodels' MixedLM.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from peftport.analysis.stats.intervals import Interval
from peftport.core.libraries import special


@dataclass(frozen=True)
class MixedModel:
    """The fixed effects by name, the standard deviations of the random ones, and whether the fit converged."""

    effects: dict[str, Interval]
    deviations: dict[str, float]
    converged: bool


def mixed_model(
    y: npt.NDArray[np.float64], fixed: Sequence[str], random: Mapping[str, Sequence[str]], *, level: float
) -> MixedModel:
    """Fit y (M,) with one fixed factor and crossed random factors, each given as M labels.

    The effects are the mean of each level of the fixed factor (there is no intercept), with normal intervals.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec  # a slow import, needed here alone

    names, codes = np.unique(np.asarray(fixed), return_inverse=True)
    exog = np.eye(len(names))[codes]
    levels = {name: np.unique(np.asarray(labels), return_inverse=True) for name, labels in random.items()}
    spec = VCSpec(
        list(levels),
        [[[f"{name}[{kind}]" for kind in kinds]] for name, (kinds, _) in levels.items()],
        [[np.eye(len(kinds))[at]] for kinds, at in levels.values()],
    )
    with warnings.catch_warnings():  # the result says whether the fit converged
        warnings.simplefilter("ignore")
        fit = MixedLM(y, exog, groups=np.zeros(len(y)), exog_vc=spec).fit(reml=True)
        errors = np.asarray(fit.bse_fe)
    margin = float(special.ndtri((1 + level) / 2)) * errors
    effects = {
        str(name): Interval(float(b), float(b - m), float(b + m), level)
        for name, b, m in zip(names, np.asarray(fit.fe_params), margin, strict=True)
    }
    deviations = {name: float(np.sqrt(max(0.0, v))) for name, v in zip(levels, np.atleast_1d(fit.vcomp), strict=True)}
    deviations["noise"] = float(np.sqrt(fit.scale))
    return MixedModel(effects, deviations, bool(fit.converged) and bool(np.isfinite(errors).all()))
