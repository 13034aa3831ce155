"""Differences of two arms: the estimate over seeds and test items, and a permutation test of it over items.

Gains, verdicts and `compare` take their differences from here, so that what is settled in one is so in all. The
permutation test can only take back what Student's t settles, so it is made where that does.

Shapes: G groups, S seeds, N items, P pairs of runs (the groups' seeds end to end), B patterns of swaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from peftport.analysis.measures.evidence import Evidence, Floats, Ints, Pairs
from peftport.analysis.stats.crossed import Estimates
from peftport.analysis.stats.swaps import OF_DRAWN, SWAPS, swapped_items, swapped_values, swaps_of
from peftport.core.hashing import rng_for
from peftport.core.libraries import pl
from peftport.metrics.resampling import swapped

LARGE, OF_LARGE = 2000, 499  # runs of a table; swaps there
DIFFERENCES_AT_ONCE = 8_000_000


@dataclass(frozen=True, eq=False)
class Differences:
    """Paired differences, a row of ``pairs.table`` each, with their variance and degrees of freedom."""

    pairs: Pairs
    estimates: Estimates

    @property
    def permuted(self) -> npt.NDArray[np.bool_]:
        """Where items can be swapped: their results, or the predictions that draws were made of, are held, (G,)."""
        return self.pairs.itemised


def differences(evidence: Evidence, rows: pl.DataFrame, group: Sequence[str], arms: tuple[str, str]) -> Differences:
    """The first arm minus the second in every group of rows (see `Evidence.pairs`)."""
    pairs = evidence.pairs(rows, group, arms)
    contrast = pairs.crossed.contrast([1.0, -1.0])
    settled = np.flatnonzero((contrast.p <= 1 - evidence.declared.level) & pairs.itemised)
    p = np.full(len(contrast.estimate), np.nan)
    if len(settled):
        sizes = pairs.crossed.seeds
        begins = np.cumsum(sizes) - sizes
        for s in np.unique(sizes[settled]):
            at = settled[sizes[settled] == s]
            p[at] = _swapped(evidence, pairs.runs[begins[at, None] + np.arange(s)])
    return Differences(pairs, replace(contrast, swapped=p))


def _swapped(evidence: Evidence, runs: Ints) -> Floats:
    """The permutation test of groups of as many seeds, runs (G, S, 2) -> (G,); NaN where items cannot be swapped."""
    p, items = np.full(len(runs), np.nan), evidence.counts[runs[:, 0, 0]]
    held = (evidence.begins[runs] >= 0).all((1, 2))
    for n in np.unique(items[held]):
        groups, each = np.flatnonzero(held & (items == n)), max(1, DIFFERENCES_AT_ONCE // (runs.shape[1] * int(n)))
        for part in (groups[begin : begin + each] for begin in range(0, len(groups), each)):
            p[part] = _of_items(evidence, runs[part], int(n))
    for k in np.flatnonzero(~held):
        p[k] = _of_tests(evidence, runs[k])
    return p


def _of_items(evidence: Evidence, runs: Ints, n: int) -> Floats:
    first, second = (
        evidence.items[evidence.begins[runs[:, :, arm]][..., None] + np.arange(n)].astype(np.float32) for arm in (0, 1)
    )  # (G, S, N) each
    swaps = SWAPS if len(evidence.runs) <= LARGE else OF_LARGE
    return swapped_items(first - second, rng=rng_for(0, "swaps"), swaps=swaps)


def _of_tests(evidence: Evidence, runs: Ints) -> float:
    """Of one group, runs (S, 2), whose metric is computed anew with the predictions of items swapped."""
    names = evidence.runs["run"]
    tests = [(evidence.tests.get(names[int(a)]), evidence.tests.get(names[int(b)])) for a, b in runs]
    whole = [(a, b) for a, b in tests if a is not None and b is not None]
    if len(whole) < len(tests):
        return np.nan
    differs = np.logical_or.reduce([(a.values != b.values).reshape(len(a.targets), -1).any(1) for a, b in whole])
    swaps = swaps_of(differs, rng=rng_for(0, "swaps"), swaps=OF_DRAWN)
    sign = 1 if evidence.metric.higher_is_better else -1
    values = sign * swapped(evidence.metric, whole, swaps.signs > 0)  # (B, S)
    return swapped_values(values, len(differs), swaps)
