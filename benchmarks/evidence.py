"""From a table of runs to every table of the report: time and memory at 10,000, 100,000 and 1,000,000 simulated runs.

    python benchmarks/evidence.py [RUNS ...]      writes benchmarks/results/evidence.json

Per-item results of so many runs are not held: seeds are paired, items taken as unpaired. A process a size.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl

from peftport.analysis.measures import Evidence, aggregates, curves, directions, gains, pooled, retention, savings
from peftport.analysis.verdict import regret_report, verdicts
from peftport.core.hashing import rng_for

OUT = Path(__file__).parent / "results" / "evidence.json"
SIZES = (10_000, 100_000, 1_000_000)
TECHNIQUES, METHODS, BUDGETS, SEEDS = (
    ("lora", "adapter", "compacter", "prefix"),
    ("copy", "theseus"),
    (0, 10, 20, 40, 80),
    5,
)
HOSTS, ITEMS, CEILING = 8, 300, 240
LIFT = {"copy": 0.7, "theseus": 0.5, "gaussian": 0.1, "scratch": 0.0, "ceiling": 1.0}


def simulated(wanted: int, rng: np.random.Generator) -> pl.DataFrame:
    """A grid of about so many runs: 4 techniques, 56 host pairs, as many data sets as it takes, 5 budgets, 5 seeds."""
    hosts = [f"host-{index}" for index in range(HOSTS)]
    each = len(TECHNIQUES) * HOSTS * (HOSTS - 1) * (len(METHODS) + 1) * len(BUDGETS) * SEEDS
    each += len(TECHNIQUES) * HOSTS * (len(BUDGETS) + 1) * SEEDS + HOSTS
    data = pl.DataFrame({"origin_task": [f"task-{i}" for i in range(max(1, round(wanted / each)))]})
    data = data.with_columns(receiver_task="origin_task")
    pairs = pl.DataFrame(
        [p for p in product(hosts, hosts) if p[0] != p[1]], schema=["origin", "receiver"], orient="row"
    )
    arms = [("ported", m) for m in METHODS] + [("sampled", "gaussian")]
    cross = pl.DataFrame({"technique": TECHNIQUES}).join(pl.DataFrame({"seed": range(SEEDS)}), how="cross")
    budgets = pl.DataFrame({"budget": BUDGETS})
    own = pl.DataFrame(arms, schema=["arm", "method"], orient="row").join(pairs, how="cross").join(data, how="cross")
    here = pl.DataFrame({"receiver": hosts}).join(data.select("receiver_task"), how="cross")
    parts = [
        own.join(cross, how="cross").join(budgets, how="cross"),
        here.join(cross, how="cross").join(budgets, how="cross").with_columns(arm=pl.lit("scratch")),
        here.join(cross, how="cross").with_columns(arm=pl.lit("ceiling"), budget=pl.lit(CEILING, pl.Int64)),
        here.with_columns(arm=pl.lit("bare"), budget=pl.lit(0, pl.Int64)),
    ]
    return _scored(pl.concat(parts, how="diagonal"), rng)


def _scored(runs: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Binomial accuracies around curves that rise from the arm's start to the ceiling."""
    start = pl.coalesce("method", "arm").replace_strict(LIFT, default=0.0, return_dtype=pl.Float64)
    share = start + (1 - start) * (1 - (-pl.col("budget") / 40.0).exp())
    rate = (
        runs.select(pl.when(pl.col("arm") == "bare").then(0.65).otherwise(0.65 + 0.15 * share)).to_series().to_numpy()
    )
    accuracy = rng.binomial(ITEMS, np.clip(rate + rng.normal(0, 0.01, len(rate)), 0, 1)) / ITEMS
    return runs.with_row_index("run").with_columns(
        pl.format("r{}", "run").alias("run"),
        accuracy=pl.lit(accuracy),
        auroc=pl.lit(accuracy),
        accuracy_at_median=pl.lit(accuracy),
        state=pl.lit("done"),
        n_items=pl.lit(ITEMS),
        steps="budget",
        train_seconds=pl.col("budget") * 0.1,
        host_distance=pl.when(pl.col("origin").is_not_null()).then(0.02),
    )


def measure(wanted: int) -> dict[str, object]:
    """Every table once; seconds of each, rows of each, and the process's largest memory."""
    runs = simulated(wanted, rng_for(0, "simulated", wanted))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds: dict[str, float] = {}
    rows: dict[str, int] = {}
    begun, cpu_begun = time.perf_counter(), time.process_time()
    evidence = Evidence.of(runs)
    seconds["index"] = time.perf_counter() - begun
    makers = {
        "curves": lambda: curves(evidence),
        "retention": lambda: retention(evidence),
        "gains": lambda: gains(evidence, rng=rng_for(0, "gains")),
        "savings": lambda: savings(evidence),
        "directions": lambda: directions(retention(evidence)),
        "pooled": lambda: pooled(evidence),
        "aggregates": lambda: aggregates(evidence, rng=rng_for(0, "aggregates")),
        "verdicts": lambda: verdicts(evidence),
        "regret": lambda: regret_report(evidence),
    }
    for name, make in makers.items():
        at = time.perf_counter()
        rows[name] = len(make())
        seconds[name] = time.perf_counter() - at
    total, cpu = time.perf_counter() - begun, time.process_time() - cpu_begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "runs": len(runs),
        "seconds": round(total, 2),
        "cpu_seconds": round(cpu, 2),  # of all threads: what is left of the time where the machine is shared
        "peak_mib": peak // 1024,
        "before_mib": before // 1024,
        "seconds_of": {name: round(value, 2) for name, value in seconds.items()},
        "rows_of": rows,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(int(sys.argv[2]))))
        sys.exit()
    found = []
    for size in [int(argument) for argument in sys.argv[1:]] or SIZES:
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(size)], capture_output=True, text=True, check=True
        )
        found.append(json.loads(done.stdout))
        print(found[-1], flush=True)
    if not sys.argv[1:]:
        OUT.write_text(json.dumps(found, indent=1) + "\n")
