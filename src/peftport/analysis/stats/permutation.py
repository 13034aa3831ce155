"""Tests without a distribution: sign flips of paired differences; and Holm's correction for many tests.

With n pairs a two-sided sign-flip test has 2^n equally likely outcomes, two of which are the most extreme:
p cannot fall under 2^(1-n). Five seeds: 0.0625. Pitman 1937, JRSS Suppl. 4; Holm 1979, Scand. J. Stat. 6.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
EXACT_UP_TO = 12  # pairs: 4,096 sign patterns
ROUNDING = 1e-12


def sign_flip_floor(pairs: int) -> float:
    """The smallest p that a two-sided sign-flip test of so many pairs can give."""
    return min(1.0, 2.0 ** (1 - pairs))


def sign_flip(differences: Floats, *, rng: np.random.Generator, flips: int = 9999) -> Floats:
    """Two-sided p of G groups of S paired differences (G, S) -> (G,), statistic: the mean.

    Every sign pattern up to 12 pairs; above, ``flips`` random ones and the observed one.
    """
    groups, s = differences.shape
    exact = s <= EXACT_UP_TO
    if exact:  # a pattern and its mirror give one |mean|: half of them suffice
        patterns = 1.0 - 2.0 * ((np.arange(2 ** (s - 1))[:, None] >> np.arange(s)) & 1)
    else:
        patterns = rng.choice(np.array([-1.0, 1.0]), size=(flips, s))
    observed = np.abs(differences.sum(1))
    as_extreme = np.zeros(groups)
    for begin in range(0, groups, 20_000):
        part = slice(begin, begin + 20_000)
        sums = np.abs(differences[part] @ patterns.T)  # (G, patterns)
        as_extreme[part] = (sums >= observed[part, None] - ROUNDING).sum(1)
    return as_extreme / len(patterns) if exact else (as_extreme + 1) / (len(patterns) + 1)


def holm(p: Floats) -> Floats:
    """Holm's step-down adjustment of one family of p-values, (M,) -> (M,): each may be held against the level."""
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted
