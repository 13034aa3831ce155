"""Peak memory of K entries in one stack against one entry, and how much of it is activations.

    PYTHONPATH=src:benchmarks python benchmarks/memory.py     writes benchmarks/results/memory.json

Every K runs in a process of its own, so that its peak is its own. All batches are of the longest texts; activations are
what autograd keeps for one, counted by peftport.training.memory. The goal: peak(16) <= 2 x peak(1) + 15 x activations.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import machine_facts

OUT = Path(__file__).parent / "results" / "memory.json"
STEPS, TEXTS = 4, 64


def measure(host: str, technique: str, entries: int) -> dict[str, Any]:
    """Train K entries some steps; bytes at the highest point of this process, before and after."""
    from peftport.tasks import load_task
    from peftport.techniques import make_spec
    from peftport.training.bound_task import bind_task
    from peftport.training.loop import Entry, TrainSettings, train_entries
    from peftport.training.memory import entry_memory

    bound_task = bind_task(host, load_task("rotten_tomatoes"), settings=TrainSettings(max_tokens=64))
    spec, coded = make_spec(technique), bound_task.train_split
    longest = sorted(range(len(coded.rows)), key=lambda index: -len(coded.rows[index]))[:TEXTS]
    rows, labels = [coded.rows[index] for index in longest], coded.targets[longest]
    stack = [Entry(bound_task.fresh(spec, seed), rows, labels, seed, 1e-4) for seed in range(entries)]
    before = peak_bytes()
    need = (
        entry_memory(bound_task.host, bound_task.readout, spec, stack[0], bound_task.settings) if entries == 1 else None
    )
    train_entries(bound_task.host, bound_task.readout, spec, stack, [STEPS], bound_task.settings)
    found: dict[str, Any] = {"entries": entries, "before_bytes": before, "peak_bytes": peak_bytes()}
    return found | ({"activation_bytes": need.activation_bytes} if need else {})


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compare(host: str, technique: str, most: int) -> dict[str, Any]:
    """One entry and ``most``, each in its own process."""
    one, many = (elsewhere(__file__, host, technique, entries) for entries in (1, most))
    bound = 2 * one["peak_bytes"] + (most - 1) * one["activation_bytes"]
    kept = many["peak_bytes"] <= bound
    return {"host": host, "technique": technique, "one": one, "many": many, "bound_bytes": bound, "within": kept}


def elsewhere(script: str, *arguments: Any) -> dict[str, Any]:
    """What a script prints of one measurement (``--one ...``), made in a process of its own."""
    command = [sys.executable, script, "--one", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure every host and technique asked for."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", nargs="+", default=["all-MiniLM-L6-v2", "flan-t5-small"])
    parser.add_argument("--techniques", nargs="+", default=["lora", "adapter", "compacter", "prefix"])
    parser.add_argument("--entries", type=int, default=16)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    rows = []
    for host in asked.hosts:
        for technique in asked.techniques:
            rows.append(compare(host, technique, asked.entries))
            peaks = [f"{rows[-1][side]['peak_bytes'] / 2**20:.0f} MiB" for side in ("one", "many")]
            print(host, technique, *peaks, "within" if rows[-1]["within"] else "over", flush=True)
    found = {"machine": machine_facts(), "rows": rows}
    asked.out.parent.mkdir(exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
