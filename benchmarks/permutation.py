"""Do tests over seeds and items keep their level, and what power have they? Simulated arms of known truth.

    python benchmarks/permutation.py [SIMULATIONS]      writes benchmarks/results/permutation.json

Arms as in coverage.py: items differ in difficulty, an arm has items of its own, seeds vary by a planted amount; under
the null both arms have one mean. Shares of simulations with p <= .05:

    student     Student's t over seeds and items
    items       items swapped in all seeds together, statistic: that t (stats.swaps)
    both        the more cautious of the two: what gains and verdicts go by
    items_mean  items swapped, statistic: the mean, which leaves the seeds' variation out
    seeds       signs of the seeds flipped, which leaves the items' variation out

The rows of AUROC compute the metric anew with swapped predictions and have ``student`` (from 200 draws of the items)
and ``both``, on a tenth of the simulations.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from coverage import Setting
from machine import machine_facts

from peftport.analysis.columns import run_columns
from peftport.analysis.measures import Declared, Evidence, gains
from peftport.analysis.stats.crossed import crossed_from_items
from peftport.analysis.stats.permutation import sign_flip
from peftport.analysis.stats.swaps import swapped_items, swaps_of
from peftport.core.hashing import rng_for
from peftport.metrics import metric_named
from peftport.metrics.resampling import resampled
from peftport.tasks.kinds.classification import Scores

OUT = Path(__file__).parent / "results" / "permutation.json"
ALPHA = 0.05
NULL, APART = (0.4, 0.4, 0.4), (0.9, 0.4, 0.4)
SETTINGS = [
    Setting(f"{what}, {seeds} seeds, {items} items", seeds, items, sd, arms=NULL)
    for what, sd in (("seeds alike", 0.0), ("seeds vary", 0.15), ("seeds vary much", 0.4))
    for seeds, items in ((1, 20), (1, 300), (3, 20), (3, 300), (5, 300))
    if seeds > 1 or sd == 0.0  # one seed cannot tell: its variation is no part of the question
]
AUROC = [(1, 0.0), (3, 0.0), (3, 0.15)]  # seeds, their spread; 150 items
Floats = npt.NDArray[np.float64]


def rejected(setting: Setting, arms: tuple[float, float, float], simulations: int) -> dict[str, float]:
    """The share of simulations in which each test rejects."""
    rng = rng_for(0, "permutation", setting.name, str(arms))
    own = Setting(setting.name, setting.seeds, setting.items, setting.seed_sd, arms=arms)
    drawn = np.stack([own.draw(rng)[:2] for _ in range(simulations)])  # (M, 2, S, N)
    d = drawn[:, 0].astype(np.float32) - drawn[:, 1]
    p = {"student": crossed_from_items(drawn).contrast([1.0, -1.0]).p, "items": swapped_items(d, rng=rng)}
    p["both"] = np.maximum(p["student"], p["items"])
    signs = swaps_of(np.ones(own.items, bool), rng=rng, swaps=1999).signs
    means = np.abs(signs @ d.mean(1).T)
    p["items_mean"] = (means >= means[0] - 1e-6).mean(0)
    p["seeds"] = sign_flip(d.mean(2).astype(np.float64), rng=rng)
    return {name: float((own <= ALPHA).mean()) for name, own in p.items()}


def of_auroc(seeds: int, spread: float, lead: float, simulations: int) -> dict[str, float]:
    """The same of AUROC, by `gains` itself: ``p`` of the table is what a reader sees."""
    rng, n, metric = rng_for(0, "permutation", "auroc", str((seeds, spread, lead))), 150, metric_named("auroc")
    found: dict[str, list[float]] = {"student": [], "both": []}
    for _ in range(simulations):
        labels, hard = rng.integers(0, 2, n), rng.normal(0, 1, n)
        tests = {}
        for arm, own in (("ported", lead), ("scratch", 0.0)):
            items = hard + rng.normal(0, 0.5, n)
            for seed in range(seeds):
                margin = (items + rng.normal(0.5 + own + spread * rng.normal(), 1, n)) * (2 * labels - 1)
                tests[arm, seed] = Scores(np.stack([-margin, margin], 1).astype(np.float32), labels)
        runs: dict[str, Scores] = {f"{arm}-{seed}": test for (arm, seed), test in tests.items()}
        rows = [row(run, test) for run, test in runs.items()]
        draws = dict(zip(runs, resampled(metric, list(runs.values()), rng=rng), strict=True))
        table = pl.DataFrame(rows, schema=run_columns())
        for name, held in (("student", None), ("both", runs)):
            evidence = Evidence.of(table, None, Declared(metric="auroc"), draws=draws, tests=held)
            [p] = gains(evidence, rng=rng)["p"]
            found[name].append(p)
    return {name: float((np.array(own) <= ALPHA).mean()) for name, own in found.items()}


def row(run: str, test: Scores) -> dict[str, Any]:
    """A run of a table, named by its arm and seed."""
    arm, seed = run.split("-")
    place = {"technique": "lora", "receiver": "b", "receiver_task": "t", "arm": arm, "budget": 0, "steps": 0}
    ported = {"origin": "a", "method": "copy"} if arm == "ported" else {}
    return {"run": run, "job": run, "seed": int(seed), "state": "done", "n_items": len(test), **place, **ported} | {
        "auroc": metric_named("auroc").aggregate(test)
    }


if __name__ == "__main__":
    simulations = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    begun, rows = time.perf_counter(), []
    for setting in SETTINGS:
        null, power = (rejected(setting, arms, simulations) for arms in (NULL, APART))
        rows.append({"setting": setting.name, "metric": "accuracy", "null": null, "planted": power})
        print(rows[-1], flush=True)
    for seeds, spread in AUROC:
        null, power = (of_auroc(seeds, spread, lead, simulations // 10) for lead in (0.0, 0.3))
        name = f"seeds vary by {spread}, {seeds} seeds, 150 items"
        rows.append({"setting": name, "metric": "auroc", "null": null, "planted": power})
        print(rows[-1], flush=True)
    seconds = round(time.perf_counter() - begun)
    found = {"simulations": simulations, "alpha": ALPHA, "seconds": seconds, "machine": machine_facts(), "rows": rows}
    OUT.write_text(json.dumps(found, indent=1) + "\n")
