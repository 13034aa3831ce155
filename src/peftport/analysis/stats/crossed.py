"""Means over seeds and test items, with a variance to which both contribute.

Every seed is tested on the same items, so the results are crossed: x_si = mu + a_s + b_i + e_si, with a part of the
seed, a part of the item and a rest. With the mean squares of the two-way analysis of variance,

    Var(mean) = (MS_seed + MS_item - MS_rest) / (S N),     df by Satterthwaite 1946, Biometrics Bulletin 2

which is unbiased and needs no resampling. MS_rest is subtracted because MS_seed and MS_item both contain it; it counts
for at most half of their sum, which keeps the variance positive. Satterthwaite's df are those of the t distribution
that fits a sum of several estimated variances.

The same holds for any weighted sum of K arms that share seeds and items, such as a difference of two: the mean squares
become matrices (K, K), whose off-diagonal elements are what pairing the arms gains. Source: Searle, Casella & McCulloch
1992, Variance Components, ch. 4. The sum is also that of two-way clustered errors (Cameron, Gelbach & Miller 2011, JBES
29), and what the pigeonhole bootstrap estimates (Owen 2007, AoAS 1). A ratio of two such sums has Fieller's interval:
all theta for which the numerator minus theta times the denominator is not settled to differ from zero (Fieller 1954,
JRSS B 16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from peftport.core.libraries import special

Floats = npt.NDArray[np.float64]
SMALLEST = 1e-12  # a variance below this is rounding error and counts as zero


@dataclass(frozen=True, eq=False)
class Estimates:
    """G estimates with the variance and the degrees of freedom of each, all (G,).

    Attributes:
        estimate, variance, df: as said.
        swapped: p of a permutation test of the same difference (stats.swaps); NaN where there was none. The more
            cautious of it and Student's t counts: an interval reaches zero where the permutation test settles nothing.

    """

    estimate: Floats
    variance: Floats
    df: Floats
    swapped: Floats | float = np.nan

    def margin(self, level: float | Floats) -> Floats:
        """Half the width of the interval, at one level for all or one level for each (G,)."""
        half: Floats = special.stdtrit(self.df, (1 + np.asarray(level)) / 2) * np.sqrt(self.variance)
        return np.where(self.swapped > 1 - np.asarray(level), np.maximum(half, np.abs(self.estimate)), half)

    @property
    def p(self) -> Floats:
        """Two-sided p for the hypothesis that the estimate is zero; 1 if nothing varies and nothing differs."""
        t = self._t
        p: Floats = np.where(np.isinf(t), 0.0, 2 * special.stdtr(self.df, -np.where(np.isinf(t), 0.0, t)))
        return np.fmax(p, self.swapped)

    @property
    def scores(self) -> Floats:
        """The normal deviates whose two-sided p are nearly those of Student's t (Wallace 1959, Ann Math Stat 30)."""
        return np.sqrt(self.df * np.log1p(self._t**2 / self.df)) * (8 * self.df + 1) / (8 * self.df + 3)

    @property
    def _t(self) -> Floats:
        """|t|; infinite if nothing varies and something differs, 0 if nothing varies and nothing differs."""
        flat, size = self.variance <= SMALLEST, np.abs(self.estimate)
        t: Floats = np.where(
            flat, np.where(size <= SMALLEST, 0.0, np.inf), size / np.sqrt(np.where(flat, 1.0, self.variance))
        )
        return t


@dataclass(frozen=True, eq=False)
class Ratios:
    """G ratios with Fieller's interval, which is ``bounded`` only if the denominator is settled to differ from zero."""

    estimate: Floats
    low: Floats
    high: Floats
    bounded: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Crossed:
    """K arms in each of G groups of S seeds and N items.

    Attributes:
        mean: the mean of each arm, (G, K).
        by_seed, by_item, rest: the matrices of mean squares and mean products, divided by S N, (G, K, K).
        seeds, items: the numbers of seeds and items, (G,).

    """

    mean: Floats
    by_seed: Floats
    by_item: Floats
    rest: Floats
    seeds: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]

    def contrast(self, weights: npt.ArrayLike) -> Estimates:
        """The weighted sum of the arms in every group; weights (K,) or (G, K)."""
        w = np.broadcast_to(np.asarray(weights, dtype=np.float64), self.mean.shape)
        # Arms that are alike cancel out, but for rounding, which may leave less than nothing.
        seed, item = (np.maximum(_form(w, part, w), 0.0) for part in (self.by_seed, self.by_item))
        rest = _form(w, self.rest, w)
        variance = np.maximum(seed + item - rest, (seed + item) / 2)  # the rest counts for half of the sum at most
        return Estimates((w * self.mean).sum(1), variance, self._df(variance, seed, item, rest))

    def _df(self, variance: Floats, seed: Floats, item: Floats, rest: Floats) -> Floats:
        s, n = np.maximum(self.seeds - 1, 1), np.maximum(self.items - 1, 1)
        spread = seed**2 / s + item**2 / n + rest**2 / (s * n)
        df: Floats = np.where(spread > 0, variance**2 / np.where(spread > 0, spread, 1.0), n)
        return np.maximum(df, 1.0)

    def ratio(self, above: npt.ArrayLike, below: npt.ArrayLike, level: float) -> Ratios:
        """One weighted sum divided by another, with Fieller's interval.

        The interval is all theta with (x - theta y)^2 <= t^2 Var(x - theta y); its ends are roots of a quadratic.
        """
        up, down = (np.broadcast_to(np.asarray(w, dtype=np.float64), self.mean.shape) for w in (above, below))
        x, y = (up * self.mean).sum(1), (down * self.mean).sum(1)
        theta = np.divide(x, y, out=np.zeros_like(x), where=y != 0)
        at = self.contrast(up - theta[:, None] * down)
        t2 = special.stdtrit(at.df, (1 + level) / 2) ** 2
        both = self.by_seed + self.by_item
        parts = np.stack([both - self.rest, both / 2])  # (2, G, K, K), as in `contrast`
        w = up - theta[:, None] * down
        used = np.argmax([_form(w, part, w) for part in parts], axis=0)  # the part that gave the variance at theta
        chosen = parts[used, np.arange(len(used))]
        a = y**2 - t2 * _form(down, chosen, down)
        b = x * y - t2 * _form(up, chosen, down)
        c = x**2 - t2 * _form(up, chosen, up)
        root = np.sqrt(np.maximum(b**2 - a * c, 0.0))
        bounded = a > 0
        safe = np.where(bounded, a, 1.0)
        return Ratios(theta, (b - root) / safe, (b + root) / safe, bounded)


def over_strata(strata: Sequence[Crossed], weights: Floats, seed_means: Floats) -> Estimates:
    """The weighted mean over T strata that share their seeds, and not their items: one estimate.

    A seed's trainings are one draw in all strata, as of several test tasks: what it does to their mean counts whole,
    while items and rests of different strata are independent,

        Var = MS_seed(g) / S + sum_t w_t^2 (by_item_t - rest_t),    g_s = sum_t w_t mean_i x_tsi

    with the bound on the rest as in `Crossed.contrast`, which this is for one stratum.

    Args:
        strata: one arm in one group each.
        weights: (T,), of sum 1.
        seed_means: the mean of every seed, (T, S).

    """
    of_seeds = weights @ seed_means  # (S,)
    s, squares = len(of_seeds), weights**2
    seed = float(of_seeds.var(ddof=1)) / s if s > 1 else 0.0
    items, rests = (squares * np.array([getattr(x, part)[0, 0, 0] for x in strata]) for part in ("by_item", "rest"))
    item, rest = float(items.sum()), float(rests.sum())
    variance = max(seed + item - rest, (seed + item) / 2)
    n = np.array([max(1, int(x.items[0]) - 1) for x in strata])
    spread = seed**2 / max(1, s - 1) + (items**2 / n).sum() + (rests**2 / (max(1, s - 1) * n)).sum()
    df = max(1.0, variance**2 / spread) if spread > 0 else float(n.min())
    return Estimates(np.array([of_seeds.mean()]), np.array([variance]), np.array([df]))


def crossed_from_items(values: npt.NDArray[Any]) -> Crossed:
    """From per-item results, or means of them, (G, K, S, N). With one seed, the items alone give the variance."""
    groups, arms, s, n = values.shape
    x: npt.NDArray[Any] = values.astype(np.float64 if values.dtype == np.float64 else np.float32)
    flat = x.reshape(groups, arms, s * n)
    squares = (flat @ flat.mT).astype(np.float64)  # counts below 2^24 are exact in float32
    seed_means = x.mean(3, dtype=np.float64)  # (G, K, S)
    item_means = x.mean(2, dtype=np.float64)  # (G, K, N)
    mean = seed_means.mean(2)  # (G, K)
    by_seed, by_item = _scatter(seed_means), _scatter(item_means)  # (G, K, K), sums of products about the mean
    total = squares - s * n * mean[:, :, None] * mean[:, None, :]
    rest = np.zeros_like(total) if s == 1 else (total - n * by_seed - s * by_item) / ((s - 1) * max(1, n - 1)) / (s * n)
    return Crossed(
        mean,
        by_seed / (max(1, s - 1) * s),
        by_item / (max(1, n - 1) * n),
        rest,
        np.full(groups, s),
        np.full(groups, n),
    )


def crossed_from_means(values: Floats, item_variance: Floats, items: npt.NDArray[np.int64]) -> Crossed:
    """From one mean for each seed, (G, K, S), if there are no per-item results.

    Args:
        values: the means, (G, K, S).
        item_variance: the variance of each arm's mean over draws of items, (G, K). Arms are treated as independent
            over items, since how they vary together is unknown. That is too wide if arms find the same items hard.
        items: the numbers of items, (G,).

    """
    groups, arms, s = values.shape
    by_item = item_variance[:, :, None] * np.eye(arms)
    rest = np.zeros((groups, arms, arms))
    return Crossed(values.mean(2), _scatter(values) / (max(1, s - 1) * s), by_item, rest, np.full(groups, s), items)


def crossed_from_draws(values: Floats, draws: Floats, items: npt.NDArray[np.int64]) -> Crossed:
    """From one value for each seed, (G, K, S), if single items have no value: the items are resampled.

    Args:
        values: the metric of all items, (G, K, S).
        draws: the metric on B draws of the items with replacement, the same for all arms and seeds, (G, K, S, B).
        items: the numbers of items, (G,).

    Over the draws, the mean over seeds varies by what the items do to all seeds alike and by 1/S of what they do to
    each seed apart; a single seed varies by both in full. From the difference of the two follows the rest, which the
    variance over seeds contains as well.

    """
    groups, _, s = values.shape
    b, finite = draws.shape[-1] - 1, (items / np.maximum(items - 1, 1))[:, None, None]
    of_mean = _scatter(draws.mean(2)) / b * finite  # (G, K, K)
    of_one = _scatter(draws.swapaxes(1, 2)).mean(1) / b * finite
    rest = np.zeros_like(of_mean) if s == 1 else (of_one - of_mean) / (s - 1)
    return Crossed(values.mean(2), _scatter(values) / (max(1, s - 1) * s), of_mean, rest, np.full(groups, s), items)


def _form(left: Floats, middle: Floats, right: Floats) -> Floats:
    form: Floats = np.einsum("gk,gkl,gl->g", left, middle, right)
    return form


def _scatter(x: Floats) -> Floats:
    centred = x - x.mean(-1, keepdims=True)
    scatter: Floats = centred @ centred.mT
    return scatter
