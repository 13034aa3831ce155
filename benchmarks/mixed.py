"""Mixed precision beside float32 and bfloat16: seconds, accuracy and zero-shot scores, paired over seeds.

    python benchmarks/mixed.py [HOST ...] [--steps 40] [--seeds 8] [--items 300]  writes benchmarks/results/mixed.json

Each technique is trained on rotten_tomatoes with 8 seeds at once, at its default learning rate, and tested on the same
items in every number format. Seconds are of the processor, on one thread, so that other work on the machine counts
little; on a processor without units for bfloat16 the two narrow formats are slower than float32.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from machine import machine_facts
from scipy import stats

import peftport as pp
from peftport.hosts.loading import Loading
from peftport.metrics import metric_named
from peftport.tasks import Task
from peftport.techniques import TECHNIQUES, make_spec
from peftport.training.bound_task import Start, bind_task
from peftport.workflows.job_inputs import train_settings

OUT = Path(__file__).parent / "results" / "mixed.json"
HOSTS, TASK, MAX_TOKENS, BATCH = ("all-MiniLM-L6-v2", "flan-t5-small"), "rotten_tomatoes", 64, 16
Format = Literal["float32", "mixed", "bfloat16"]
FORMATS: tuple[Format, ...] = ("float32", "mixed", "bfloat16")


def main() -> None:
    """Measure every host and technique, and write what is found after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("hosts", nargs="*", default=HOSTS)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--items", type=int, default=300)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    task = pp.load_task(TASK)
    found: dict[str, Any] = json.loads(OUT.read_text(encoding="utf-8")) if OUT.is_file() else {}
    for host in asked.hosts:
        rows = [row for dtype in FORMATS for row in measured(host, task, dtype, asked)]
        found[host] = {"rows": rows, "beside float32": compared(rows), "asked": vars(asked) | {"hosts": None}}
        OUT.write_text(json.dumps(found | {"machine": machine_facts()}, indent=1) + "\n", encoding="utf-8")
        print(host, json.dumps(found[host]["beside float32"], indent=1), flush=True)


def measured(host: str, task: Task, dtype: Format, asked: Any) -> list[dict[str, Any]]:
    """The bare host, and every technique with all seeds at once, in one number format."""
    settings = train_settings(MAX_TOKENS, BATCH)
    bound = bind_task(host, task, None, settings, asked.items, Loading(dtype=dtype))
    accuracy = metric_named("accuracy")
    [bare] = bound.test(None, [])
    rows: list[dict[str, Any]] = [{"dtype": dtype, "technique": "bare host", "accuracies": [accuracy.aggregate(bare)]}]
    for name, technique in TECHNIQUES.items():
        spec = make_spec(name)
        starts = [Start(bound.fresh(spec, seed), seed) for seed in range(asked.seeds)]
        rate = technique.learning_rates[bound.host.kind]
        bound.train(spec, starts, [1], rate)  # what the first pass alone pays for
        begun = time.process_time()
        kept = bound.train(spec, starts, [asked.steps], rate)
        trained = time.process_time()
        tests = bound.test(spec, [each[asked.steps].matrices for each in kept])
        tested = time.process_time()
        rows.append({
            "dtype": dtype, "technique": name, "accuracies": [accuracy.aggregate(test) for test in tests],
            "train_seconds_an_entry_step": round((trained - begun) / asked.steps / asked.seeds, 5),
            "test_seconds_an_item": round((tested - trained) / asked.items / asked.seeds, 5),
        })  # fmt: skip
    return rows


def compared(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Ratios of seconds, and the mean difference in accuracy with its 95 % t interval over seeds."""
    wide = {row["technique"]: row for row in rows if row["dtype"] == "float32"}
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["dtype"] == "float32":
            continue
        own = wide[row["technique"]]
        apart = np.array(row["accuracies"]) - np.array(own["accuracies"])
        half = stats.t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / len(apart) ** 0.5 if len(apart) > 1 else 0.0
        told: dict[str, Any] = {"difference": round(float(apart.mean()), 4), "half_interval": round(float(half), 4)}
        for key in ("train_seconds_an_entry_step", "test_seconds_an_item"):
            if key in row:
                told[f"{key}: times as fast"] = round(own[key] / row[key], 2)
        found[f"{row['dtype']}, {row['technique']}"] = told
    return found


if __name__ == "__main__":
    main()
