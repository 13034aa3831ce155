"""Do 95 % intervals cover 95 %? Simulated arms of known truth: test items AND seeds vary, arms share both.

    python benchmarks/coverage.py [SIMULATIONS]      writes benchmarks/results/coverage.json

A run's answer to an item is right with probability logistic(arm + seed effect + item effect + the arm's own item
effect); the truth is the integral of that over seeds and items (Gauss-Hermite). Intervals of the gain: BCa over items
(seeds averaged) and the two-way bootstrap, both on a quarter of the simulations; the crossed t interval that the
measures use, with and without per-item results. Of the retention: Fieller's.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from peftport.analysis.stats import paired_difference
from peftport.analysis.stats.crossed import Crossed, crossed_from_items, crossed_from_means
from peftport.core.hashing import rng_for

OUT = Path(__file__).parent / "results" / "coverage.json"
LEVEL = 0.95
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """How much seeds, items and items of one arm vary (standard deviations on the logistic scale), and the arms."""

    name: str
    seeds: int
    items: int
    seed_sd: float
    item_sd: float = 1.5
    own_sd: float = 0.7
    arms: tuple[float, float, float] = (0.9, 0.4, 1.5)  # ported, bare or scratch, ceiling

    def truth(self) -> Floats:
        """The expected score of every arm, (3,)."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        spread = np.sqrt(self.seed_sd**2 + self.item_sd**2 + self.own_sd**2)
        right = 1 / (1 + np.exp(-(np.array(self.arms)[:, None] + spread * nodes)))
        found: Floats = right @ weights / weights.sum()
        return found

    def draw(self, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Per-item results of ported, other, ceiling: (3, S, N)."""
        shape = (3, self.seeds, self.items)
        latent = np.array(self.arms)[:, None, None] + self.seed_sd * rng.standard_normal((3, self.seeds, 1))
        latent = latent + self.item_sd * rng.standard_normal(self.items)
        latent = latent + self.own_sd * rng.standard_normal((3, 1, self.items))
        return (rng.random(shape) < 1 / (1 + np.exp(-latent))).astype(np.uint8)


SETTINGS = [
    Setting(f"{what}, {seeds} seeds, {items} items", seeds, items, sd)
    for what, sd in (("seeds alike", 0.0), ("seeds vary", 0.15), ("seeds vary much", 0.4))
    for seeds, items in ((3, 300), (5, 200), (5, 300), (10, 300))
]


def two_way_bootstrap(gain: Floats, rng: np.random.Generator, resamples: int = 999) -> tuple[float, float]:
    """Percentile interval of the mean of (S, N): seeds and items drawn anew, independently (Owen 2007)."""
    s, n = gain.shape
    seeds = rng.multinomial(s, np.full(s, 1 / s), resamples) / s  # (B, S)
    items = rng.multinomial(n, np.full(n, 1 / n), resamples) / n  # (B, N)
    low, high = np.quantile(((seeds @ gain) * items).sum(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def seed_level(correct: npt.NDArray[np.uint8]) -> Crossed:
    """The same arms with their per-item results forgotten."""
    means = correct.mean(3)
    p = means.mean(2)
    n = np.full(len(correct), correct.shape[3])
    return crossed_from_means(means, p * (1 - p) / n[:, None], n)


def measure(setting: Setting, simulations: int) -> dict[str, object]:
    """Share of simulations in which each interval holds the truth, and mean widths."""
    rng = rng_for(0, "coverage", setting.name)
    truth = setting.truth()
    gain, share = truth[0] - truth[1], (truth[0] - truth[1]) / (truth[2] - truth[1])
    held = dict.fromkeys(("bca_items", "two_way_bootstrap", "crossed", "crossed_without_items"), 0)
    width = dict.fromkeys(held, 0.0)
    draws = np.stack([setting.draw(rng) for _ in range(simulations)])  # (M, 3, S, N)
    pairs, blind = crossed_from_items(draws), seed_level(draws)
    for name, kind in (("crossed", pairs), ("crossed_without_items", blind)):
        found = kind.contrast([1.0, -1.0, 0.0])
        margin = found.margin(LEVEL)
        held[name] = int((np.abs(found.estimate - gain) <= margin).sum())
        width[name] = float(2 * margin.sum())
    bootstrapped = draws[: simulations // 4]
    for correct in bootstrapped:
        means = correct.mean(1)  # (3, N)
        bca = paired_difference(means[0], means[1], level=LEVEL, rng=rng)
        low, high = two_way_bootstrap(correct[0].astype(float) - correct[1], rng)
        for name, (one, other) in (("bca_items", (bca.low, bca.high)), ("two_way_bootstrap", (low, high))):
            held[name] += one <= gain <= other
            width[name] += other - one
    over = {name: simulations if name.startswith("crossed") else len(bootstrapped) for name in held}
    ratio = pairs.ratio([1.0, -1.0, 0.0], [0.0, -1.0, 1.0], LEVEL)
    inside = ratio.bounded & (ratio.low <= share) & (share <= ratio.high)
    return {
        **asdict(setting),
        "gain": float(gain),
        "retention": float(share),
        "coverage": {name: count / over[name] for name, count in held.items()},
        "width": {name: total / over[name] for name, total in width.items()},
        "fieller": {
            "bounded": float(ratio.bounded.mean()),
            "coverage_of_bounded": float(inside.sum() / ratio.bounded.sum()),
        },
    }


if __name__ == "__main__":
    simulations = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    begun, rows = time.perf_counter(), []
    for setting in SETTINGS:
        rows.append(measure(setting, simulations))
        print(setting.name, rows[-1]["coverage"], rows[-1]["fieller"], flush=True)
    found = {"simulations": simulations, "level": LEVEL, "seconds": round(time.perf_counter() - begun), "rows": rows}
    OUT.write_text(json.dumps(found, indent=1) + "\n")
