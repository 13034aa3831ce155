"""Seconds per entry-step as K grows, and one process of two threads against two processes of one.

    PYTHONPATH=src:benchmarks python benchmarks/stack.py     writes benchmarks/results/stack.json

Rounds go through all K in turn, so that a change of the machine's load meets all of them; the median round counts. The
two ways to fill two cores train the same entries: all in one process, or half in each of two at the same time.
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

OUT = Path(__file__).parent / "results" / "stack.json"


def by_entries(host: str, technique: str, sizes: list[int], steps: int, rounds: int) -> dict[int, float]:
    """Median seconds per entry-step for every K, in this process."""
    from peftport.tasks import load_task
    from peftport.techniques import make_spec
    from peftport.training.bound_task import Start, bind_task
    from peftport.training.loop import TrainSettings

    bound_task = bind_task(host, load_task("rotten_tomatoes"), settings=TrainSettings(max_tokens=64))
    spec = make_spec(technique)
    starts = [Start(bound_task.fresh(spec, seed), seed) for seed in range(max(sizes))]
    bound_task.train(spec, starts[:1], [1], 1e-4)
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            begun = time.perf_counter()
            bound_task.train(spec, starts[:size], [steps], 1e-4)
            times[size].append((time.perf_counter() - begun) / (size * steps))
    return {size: median(own) for size, own in times.items()}


def two_cores(host: str, technique: str, entries: int, steps: int, rounds: int) -> dict[str, float]:
    """Seconds per entry-step of the machine: one process of two threads, and two of one thread at the same time."""
    [whole] = _together(host, technique, [entries], 2, steps, rounds)
    halves = _together(host, technique, [entries // 2] * 2, 1, steps, rounds)
    return {"one_process_two_threads": whole, "two_processes_one_thread": max(halves) / 2}


def _together(host: str, technique: str, sizes: list[int], threads: int, steps: int, rounds: int) -> list[float]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    commands = [[sys.executable, __file__, "--one", host, technique, str(n), str(steps), str(rounds)] for n in sizes]
    running = [subprocess.Popen(c, env=environment, stdout=subprocess.PIPE, text=True) for c in commands]
    said = [process.communicate()[0] for process in running]
    assert not any(process.returncode for process in running), "a process of the measurement failed"
    return [float(next(iter(json.loads(text.splitlines()[-1]).values()))) for text in said]


def main() -> None:
    """Measure every host and technique asked for."""
    if sys.argv[1:2] == ["--one"]:
        host, technique, *numbers = sys.argv[2:]
        entries, steps, rounds = (int(n) for n in numbers)
        print(json.dumps(by_entries(host, technique, [entries], steps, rounds)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", nargs="+", default=["all-MiniLM-L6-v2", "flan-t5-small"])
    parser.add_argument("--techniques", nargs="+", default=["lora", "adapter", "compacter", "prefix"])
    parser.add_argument("--entries", nargs="+", type=int, default=[1, 2, 4, 10, 16])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for host in asked.hosts:
        for technique in asked.techniques:
            seconds = by_entries(host, technique, asked.entries, asked.steps, asked.rounds)
            ways = two_cores(host, technique, max(2, max(asked.entries)), asked.steps, asked.rounds)
            rows.append({"host": host, "technique": technique, "seconds_per_entry_step": seconds, "two_cores": ways})
            print(rows[-1], flush=True)
    found = {"machine": machine_facts(), "rows": rows}
    asked.out.parent.mkdir(exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
