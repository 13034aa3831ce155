"""Where a training step's time goes, operation by operation: what could be gained by less overhead, and what could not.

    PYTHONPATH=src:benchmarks python benchmarks/step_profile.py     writes benchmarks/results/step_profile.json

torch's profiler over ten steps of one entry; each operation's own time, grouped. Whoever does the same forward and
backward pass in float32 does the products, the attention, the activation function, the norms and the additions too:
`needed` is their share, so that one run could be made at most 1 / needed times as fast by doing the rest for nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from machine import machine_facts
from torch.profiler import ProfilerActivity, profile

from peftport.tasks import load_task
from peftport.techniques import TECHNIQUES, make_spec
from peftport.training.bound_task import Start, bind_task
from peftport.training.loop import TrainSettings

OUT = Path(__file__).parent / "results" / "step_profile.json"
STEPS = 10
GROUPS = {  # the first group with a word that the kernel's name holds; autograd's and the optimiser's own are the rest
    "attention": ("scaled_dot_product", "softmax"),
    "products": ("mm", "matmul"),
    "activations": ("gelu", "relu", "silu", "tanh"),
    "norms": ("norm", "rsqrt", "pow", "mean"),
    "additions": ("::add", "::mul"),
    "copies": ("copy_", "fill_", "zero_", "aten::cat", "clone", "stack"),
}
NEEDED = ("attention", "products", "activations", "norms", "additions")


def group_of(operation: str) -> str:
    """Which group an operation belongs to."""
    held = (name for name, words in GROUPS.items() if any(word in operation for word in words))
    return next(held, "rest") if operation.startswith("aten::") else "rest"


def shares(host: str, technique: str) -> dict[str, Any]:
    """Each group's share of the time of ten steps."""
    bound_task = bind_task(host, load_task("rotten_tomatoes"), settings=TrainSettings(max_tokens=64))
    spec = make_spec(technique)
    starts = [Start(bound_task.fresh(spec, 0), 0)]
    bound_task.train(spec, starts, (1,), 1e-4)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        bound_task.train(spec, starts, (STEPS,), 1e-4)
    found = dict.fromkeys([*GROUPS, "rest"], 0.0)
    for operation in seen.key_averages():
        found[group_of(operation.key)] += operation.self_cpu_time_total
    whole = sum(found.values())
    parts = {name: spent / whole for name, spent in found.items()}
    return {"host": host, "technique": technique, **parts, "needed": sum(parts[name] for name in NEEDED)}


def main() -> None:
    """Profile every host and technique asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", nargs="+", default=["all-MiniLM-L6-v2", "flan-t5-small"])
    parser.add_argument("--techniques", nargs="+", default=list(TECHNIQUES))
    asked = parser.parse_args()
    rows = []
    for host in asked.hosts:
        for technique in asked.techniques:
            rows.append(shares(host, technique))
            print({k: v if isinstance(v, str) else round(v, 3) for k, v in rows[-1].items()}, flush=True)
    OUT.write_text(json.dumps({"machine": machine_facts(), "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
