"""A permutation test over test items: the two arms' values of an item are swapped in all seeds together.

Under the null hypothesis that arms do not matter, an item's differences d_si (seed s) are as likely as -d_si for all s.
The statistic is the t of the crossed design (stats.crossed), which has the seeds' variation in its denominator:

    z = normal score of |mean| / sqrt(Var(mean)) under Student's t with Satterthwaite's degrees of freedom

so that samples with few degrees of freedom are held against others fairly. With one seed this is Pitman's test (1937,
JRSS Suppl. 4), of right and wrong answers McNemar's exact one. With several, swapping items alone leaves the seeds'
variation out, and a statistic without it (the mean) would reject too often; divided by a variance of both, the test is
valid for both in large samples: Chung & Romano 2013, Annals of Statistics 41 (studentised permutation tests);
MacKinnon, Nielsen & Webb 2021, JBES 39 (two-way clusters, signs drawn for one dimension). Flipping the signs of seeds
too would leave too few patterns: see stats.permutation.

Shapes: G groups, S seeds, N items, B patterns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from peftport.analysis.stats.crossed import Crossed, Floats

EXACT_UP_TO = 11  # items that differ: 1,024 patterns
SWAPS, OF_DRAWN = 1999, 499  # a metric without per-item values is computed anew for each
AT_ONCE = 100_000  # statistics computed at a time: what a processor's cache holds
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Swaps:
    """Patterns of swaps; the first is the observed one.

    Attributes:
        signs: -1 where an item is swapped, else 1, (B, N).
        exact: whether the patterns are all there are, but for their mirror images.
        floor: the smallest p that all patterns of the items that differ could give.

    """

    signs: npt.NDArray[np.float32]
    exact: bool
    floor: float

    def p(self, z: Floats) -> Floats:
        """Two-sided p of statistics (B, G) -> (G,).

        Where none of the random swaps is as extreme as what was observed, they resolve no more: ``floor``.
        """
        beyond = (~(z[1:] < z[0] * (1 - ROUNDING))).sum(0)
        if self.exact:
            p: Floats = (beyond + 1) / len(z)
            return p
        return np.where(beyond > 0, (beyond + 1) / len(z), self.floor)


def swaps_of(differs: npt.NDArray[np.bool_], *, rng: np.random.Generator, swaps: int) -> Swaps:
    """All swaps of the items that differ, (N,), where those are few; else random ones of all items."""
    k = int(differs.sum())
    if k > EXACT_UP_TO:
        drawn = rng.integers(0, 2, (swaps + 1, len(differs)), dtype=np.int8)
        drawn[0] = 0
        return Swaps((1 - 2 * drawn).astype(np.float32), False, 2.0 ** (1 - k))
    signs = np.ones((2 ** max(k - 1, 0), len(differs)), np.float32)
    if k:
        signs[:, differs] = 1 - 2 * ((np.arange(len(signs))[:, None] >> np.arange(k)) & 1)
    return Swaps(signs, True, 1 / len(signs))


def swapped_items(differences: npt.NDArray[np.float32], *, rng: np.random.Generator, swaps: int = SWAPS) -> Floats:
    """Two-sided p of paired differences of items, (G, S, N) -> (G,); see `Swaps.p` for the smallest."""
    groups, s, n = differences.shape
    differs = (differences != 0).any(1)  # (G, N)
    few = differs.sum(1) <= EXACT_UP_TO
    p = np.ones(groups)
    for at in np.flatnonzero(few):
        swapped = swaps_of(differs[at], rng=rng, swaps=swaps)
        p[at] = swapped.p(_statistics(differences[at, None], swapped.signs))[0]
    many = np.flatnonzero(~few)
    if len(many):
        drawn = swaps_of(np.ones(n, bool), rng=rng, swaps=swaps)
        for begin in range(0, len(many), max(1, AT_ONCE // len(drawn.signs))):
            part = many[begin : begin + max(1, AT_ONCE // len(drawn.signs))]
            p_drawn = drawn.p(_statistics(differences[part], drawn.signs))
            p[part] = np.maximum(p_drawn, 2.0 ** (1.0 - differs[part].sum(1)))
    return p


def _statistics(differences: npt.NDArray[np.float32], signs: npt.NDArray[np.float32]) -> Floats:
    """The statistic of every group under every pattern, (G, S, N), (B, N) -> (B, G).

    Squares of items do not change with their signs, so that the sums of each seed are all that is needed.
    """
    groups, s, n = differences.shape
    seed_means = [(signs @ differences[:, seed].T).astype(np.float64) / n for seed in range(s)]  # S of (B, G)
    mean = sum(seed_means, np.zeros((len(signs), groups))) / s
    of_seeds = sum(((seed_mean - mean) ** 2 for seed_mean in seed_means), np.zeros_like(mean))
    item_squares = (differences.mean(1, dtype=np.float64) ** 2).sum(1)  # (G,)
    of_items = np.maximum(item_squares - n * mean**2, 0.0)
    total = (differences.astype(np.float64) ** 2).sum((1, 2)) - s * n * mean**2
    rest = np.zeros_like(mean)
    if s > 1:
        rest = np.maximum(total - n * of_seeds - s * of_items, 0.0) / ((s - 1) * max(1, n - 1)) / (s * n)
    return _scores(mean, (of_seeds / (max(1, s - 1) * s), of_items / (max(1, n - 1) * n), rest), (s, n))


def swapped_values(values: Floats, items: int, swaps: Swaps) -> float:
    """Two-sided p where items have no value of their own.

    What items do to the variance of the mean is then what the swaps do to it: one number for all patterns, while the
    spread of the seeds is each pattern's own.

    Args:
        values: the difference of the metric, computed anew under every pattern, for every seed, (B, S).
        items: how many, N.
        swaps: the patterns.

    """
    s, mean = values.shape[1], values.mean(1)
    spread = ((values - mean[:, None]) ** 2).sum(1) / (max(1, s - 1) * s)
    of_mean, of_one = float((mean**2).mean()), float((values**2).mean())
    rest = max(of_one - of_mean, 0.0) / (s - 1) if s > 1 else 0.0
    by_item, shared = (np.full((len(values), 1), part) for part in (of_mean, rest))
    return float(swaps.p(_scores(mean[:, None], (spread[:, None], by_item, shared), (s, items)))[0])


def _scores(mean: Floats, parts: tuple[Floats, Floats, Floats], shape: tuple[int, int]) -> Floats:
    """Normal scores of the crossed design's t, elementwise, (B, G); ``parts`` by seeds, by items and the rest."""
    by_seed, by_item, rest = (part.reshape(-1, 1, 1) for part in parts)
    seeds, items = (np.full(mean.size, count) for count in shape)
    contrast = Crossed(mean.reshape(-1, 1), by_seed, by_item, rest, seeds, items).contrast([1.0])
    return contrast.scores.reshape(mean.shape)
