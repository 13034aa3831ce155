"""Seconds per run as a study grows from 48 to 480 runs, and the time of `peftport --help`.

    PYTHONPATH=src:benchmarks:benchmarks/peers python benchmarks/per_run.py   writes benchmarks/results/per_run.json

The slice of peers/slice.py with 1, 5 and 10 seeds, each the whole `peftport study run` command by the clock, afresh.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from machine import machine_facts
from slice import ours, study_file

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "results" / "per_run.json"
RUNS_A_SEED = 48  # 4 techniques x 2 pairs x 2 arms x 3 budgets
TECHNIQUES, BUDGETS = ["lora", "adapter", "compacter", "prefix"], [0, 5, 15]


def help_seconds(times: int) -> float:
    """Median seconds of `peftport --help`, from a warm disk."""
    found = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "peftport", "--help"],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        found.append(time.perf_counter() - begun)
    return median(found[1:])


def main() -> None:
    """Measure every size asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 5, 10])
    parser.add_argument("--origin-steps", type=int, default=40)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    found: dict[str, Any] = {"machine": machine_facts(), "help_seconds": help_seconds(9), "rows": []}
    print({"help_seconds": found["help_seconds"]}, flush=True)
    for seeds in asked.seeds:
        study = study_file(TECHNIQUES, BUDGETS, seeds, asked.origin_steps, asked.items)
        done, runs = ours(study, asked.workers), seeds * RUNS_A_SEED
        found["rows"].append({"runs": runs, "seconds_per_run": done["seconds"] / runs, **done})
        print(found["rows"][-1], flush=True)
        asked.out.parent.mkdir(exist_ok=True)
        asked.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
