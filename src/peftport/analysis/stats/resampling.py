"""Aggregates over many cells of a grid, with stratified bootstrap intervals.

Scores have the shape (..., S, T): S seeds in each of T cells (host pair x data set x ...). Seeds are resampled within
each cell, so an interval speaks of these cells with new seeds, not of new cells. Source: Agarwal et al. 2021, arXiv
2108.13264, sec. 4. With few seeds such a bootstrap interval, like theirs, is too narrow by a factor of about sqrt((S -
1) / S).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from peftport.analysis.stats.intervals import Interval
from peftport.core.libraries import special

Floats = npt.NDArray[np.float64]
NUMBERS_AT_ONCE = 4_000_000


def interquartile_mean(scores: Floats) -> Floats:
    """The mean of the middle half of all scores of all cells and seeds: (..., S, T) -> (...)."""
    flat = scores.reshape(*scores.shape[:-2], -1)
    n = flat.shape[-1]
    cut = int(0.25 * n)
    ordered = np.partition(flat, (cut, n - cut - 1), axis=-1)
    mean: Floats = ordered[..., cut : n - cut].mean(-1)
    return mean


def probability_of_improvement(one: Floats, other: Floats) -> Floats:
    """How often a seed of ``one`` (..., S, T) beats one of ``other`` (..., S', T) in the same cell; a tie is half."""
    probability: Floats = _wins(one, other).mean((-3, -2, -1))
    return probability


def _wins(one: Floats, other: Floats) -> Floats:
    """(..., S, S', T): 1 where ``one`` is above, one half at ties."""
    pairs = one[..., :, None, :] - other[..., None, :, :]
    wins: Floats = 0.5 + 0.5 * np.sign(pairs)
    return wins


def stratified_bootstrap(
    statistic: Callable[..., Floats],
    samples: tuple[Floats, ...],
    *,
    level: float,
    rng: np.random.Generator,
    resamples: int = 1000,
    shared: bool = False,
) -> Interval:
    """The percentile interval of a statistic of score arrays (S, T), with seeds resampled within each cell.

    ``statistic`` takes arrays (B, S, T) and returns (B,). ``shared``: a seed is one draw in all cells, in which it
    begins with the same parameters and modules, so that all cells draw the same ones.
    """
    size = max(x.size for x in samples) * (1 if len(samples) == 1 else samples[0].shape[0])
    each = max(1, NUMBERS_AT_ONCE // max(1, size))
    drawn = []
    for begin in range(0, resamples, each):
        b = min(each, resamples - begin)
        picks = (_picks(rng, b, x, shared) for x in samples)
        drawn.append(statistic(*(np.take_along_axis(x[None], at, 1) for x, at in zip(samples, picks, strict=True))))
    low, high = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(*samples)), float(low), float(high), level)


def _picks(rng: np.random.Generator, resamples: int, scores: Floats, shared: bool) -> npt.NDArray[np.int64]:
    """Which seeds are drawn, (B, S, T)."""
    s, t = scores.shape
    drawn = rng.integers(0, s, (resamples, s, 1 if shared else t))
    return np.broadcast_to(drawn, (resamples, s, t))


def large_interquartile_mean(scores: Floats, *, level: float, shared: bool = False) -> Interval:
    """A formula in place of the stratified bootstrap, for many cells, from the influence function of the mean.

    The influence of a score is its value, limited to the quartiles (winsorised, w), divided by one half:

    Var = sum over cells of var_s(w) / S / (T / 2)^2. Huber & Ronchetti 2009, Robust Statistics, sec. 3.3. Where cells
    share seeds (``shared``), a seed's influences add up before they vary: var_s(sum over cells of w).
    """
    s, t = scores.shape
    low, high = np.quantile(scores, [0.25, 0.75])
    spread = _varied(np.clip(scores, low, high), shared) / s / (t / 2) ** 2
    return _normal(float(interquartile_mean(scores)), float(spread), level)


def large_probability_of_improvement(one: Floats, other: Floats, *, level: float, shared: bool = False) -> Interval:
    """A formula in place of the stratified bootstrap, for many cells, from the U statistic's projections.

    Hoeffding 1948, Annals of Mathematical Statistics 19.
    """
    wins = _wins(one, other)
    ours, theirs = _varied(wins.mean(1), shared) / one.shape[0], _varied(wins.mean(0), shared) / other.shape[0]
    spread = (ours + theirs) / one.shape[1] ** 2
    return _normal(float(wins.mean()), float(spread), level)


def _varied(influences: Floats, shared: bool) -> float:
    """The variance over seeds of the sum over cells, of influences (S, T)."""
    return float(influences.sum(1).var() if shared else influences.var(0).sum())


def _normal(estimate: float, variance: float, level: float) -> Interval:
    margin = float(special.ndtri((1 + level) / 2)) * variance**0.5
    return Interval(estimate, estimate - margin, estimate + margin, level)
