"""A LoRA trained on hosts in bfloat16, 8 and 4 bits against float32: seconds, peak memory, accuracy.

    PYTHONPATH=src:benchmarks python benchmarks/bits.py     writes benchmarks/results/bits.json

Every training runs in a process of its own, so that its peak is its own; the ways of loading take turns, round by
round. `--table` prints what is there as docs/loading.md has it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from machine import machine_facts
from memory import elsewhere, peak_bytes

OUT = Path(__file__).parent / "results" / "bits.json"
WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "8 bits": {"bits": 8},
    "4 bits": {"bits": 4},
}


def measure(host: str, way: str, steps: int, items: int) -> dict[str, Any]:
    """Train and test once in this process."""
    from peftport.hosts.loading import Loading
    from peftport.tasks import load_task
    from peftport.techniques import make_spec, technique_named
    from peftport.training.bound_task import Start, bind_task
    from peftport.training.loop import TrainSettings

    settings = TrainSettings(max_tokens=64)
    bound_task = bind_task(
        host, load_task("rotten_tomatoes"), settings=settings, test_items=items, loading=Loading(**WAYS[way])
    )
    spec = make_spec("lora")
    begun = time.perf_counter()
    rate = technique_named("lora").learning_rates[bound_task.host.kind]
    [kept] = bound_task.train(spec, [Start(bound_task.fresh(spec, 0), 0)], [steps], rate)
    trained = time.perf_counter()
    [alone], [scores] = bound_task.test(None, []), bound_task.test(spec, [kept[steps].matrices])
    return {
        "host": host,
        "way": way,
        "step_seconds": (trained - begun) / steps,
        "test_seconds": time.perf_counter() - trained,
        "peak_bytes": peak_bytes(),
        "accuracy": scores.accuracy,
        "host_alone": alone.accuracy,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Medians over rounds, a line a host and way."""
    lines = [
        "| host | numbers | seconds a step | peak, MiB | accuracy | host alone |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for host, way in dict.fromkeys((row["host"], row["way"]) for row in rows):
        own = [row for row in rows if (row["host"], row["way"]) == (host, way)]
        step, peak, accuracy, alone = (
            median(row[key] for row in own) for key in ("step_seconds", "peak_bytes", "accuracy", "host_alone")
        )
        lines.append(f"| {host} | {way} | {step:.2f} | {peak / 2**20:.0f} | {accuracy:.3f} | {alone:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every host and way asked for."""
    if sys.argv[1:2] == ["--one"]:
        host, way, steps, items = sys.argv[2:]
        print(json.dumps(measure(host, way, int(steps), int(items))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", nargs="+", default=["all-MiniLM-L6-v2", "flan-t5-small"])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true", help="of what is there; measure nothing")
    asked = parser.parse_args()
    if asked.table:
        print(table(json.loads(asked.out.read_text(encoding="utf-8"))["rows"]))
        return
    found: dict[str, Any] = {"machine": machine_facts(), "steps": asked.steps, "items": asked.items, "rows": []}
    for _ in range(asked.rounds):
        for host in asked.hosts:
            found["rows"] += [elsewhere(__file__, host, way, asked.steps, asked.items) for way in WAYS]
    asked.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table(found["rows"]))


if __name__ == "__main__":
    main()
