"""An estimate with its interval, and the paired bootstrap over items, for one comparison whose seeds are averaged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from peftport.core.libraries import stats


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float
    level: float


def paired_difference(
    one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], *, level: float, rng: np.random.Generator
) -> Interval:
    """The mean of ``one - other`` over N paired items, with a BCa bootstrap interval over items.

    BCa (bias-corrected and accelerated): the interval lies between two quantiles of the mean over resampled items,
    which are shifted to correct for bias and skewness. It says nothing about other seeds.

    Args:
        one: correctness of each item, (N,), or its mean over seeds.
        other: the same items under the other condition, (N,).
        level: confidence level, such as 0.95.
        rng: draws the resamples.

    Source: Efron 1987, JASA 82, "Better bootstrap confidence intervals"; computed by scipy.stats.bootstrap.

    """
    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    estimate = float(difference.mean())
    if np.ptp(difference) == 0:  # all items are alike, so there is nothing to resample
        return Interval(estimate, estimate, estimate, level)
    interval = stats.bootstrap(
        (difference,), np.mean, n_resamples=4999, confidence_level=level, method="BCa", rng=rng, vectorized=True
    ).confidence_interval
    return Interval(estimate, float(interval.low), float(interval.high), level)
