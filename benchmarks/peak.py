"""Training and testing as a share of what this machine's matrix multiplication can do at the same shapes.

    PYTHONPATH=src:benchmarks python benchmarks/peak.py     writes benchmarks/results/peak.json

Every matrix product of one step (mm, addmm, bmm, baddbmm, forward and backward) is written down with its shape and
strides, then done again by itself, each shape often enough to be timed. The share is the seconds of the products alone
by the seconds of the step, the best of each. Products inside torch's attention kernel are not seen, so that its whole
time counts as lost: the share is a lower bound.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import machine_facts
from torch.utils._python_dispatch import TorchDispatchMode

from peftport.tasks import load_task
from peftport.techniques import TECHNIQUES, make_spec
from peftport.training.bound_task import BoundTask, bind_task
from peftport.training.evaluation import score_entries
from peftport.training.loop import Entry, TrainSettings, train_entries

OUT = Path(__file__).parent / "results" / "peak.json"
OPERATIONS: dict[Any, tuple[Any, int]] = {  # what it is done again by, and where its two factors are
    torch.ops.aten.mm.default: (torch.mm, 0),
    torch.ops.aten.addmm.default: (torch.mm, 1),
    torch.ops.aten.bmm.default: (torch.bmm, 0),
    torch.ops.aten.baddbmm.default: (torch.bmm, 1),
}
Shape = tuple[Any, tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class Products(TorchDispatchMode):
    """Writes down every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[Shape] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the factors' shapes and strides, then go on."""
        if func in OPERATIONS:
            product, at = OPERATIONS[func]
            a, b = args[at], args[at + 1]
            self.seen[product, tuple(a.shape), tuple(a.stride()), tuple(b.shape), tuple(b.stride())] += 1
        return func(*args, **(kwargs or {}))


def flops(shape: Shape) -> int:
    """2 x rows x inner x columns."""
    _, a, _, b, _ = shape
    count = 2 * b[-1]
    for size in a:
        count *= size
    return count


def seconds_alone(shape: Shape, at_least: float = 0.02) -> float:
    """Best seconds of one product by itself."""
    product, *layout = shape
    a, b = (torch.empty_strided(*layout[i : i + 2]).normal_() for i in (0, 2))
    best, spent = float("inf"), 0.0
    while spent < at_least:
        begun = time.perf_counter()
        product(a, b)
        took = time.perf_counter() - begun
        best, spent = min(best, took), spent + took
    return best


def share(step: Any, repeats: int) -> dict[str, float]:
    """Time a step, then its products alone."""
    step()
    with Products() as products:
        step()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
    alone = sum(seconds_alone(shape) * count for shape, count in products.seen.items())
    total = sum(flops(shape) * count for shape, count in products.seen.items())
    return {
        "step_seconds": median(times),
        "best_step_seconds": min(times),
        "products_alone_seconds": alone,
        "gflop": total / 1e9,
        "peak_gflops_at_these_shapes": total / alone / 1e9,
        "share_of_peak": alone / min(times),
    }


def measure(bound_task: BoundTask, technique: str, entries: int, repeats: int) -> dict[str, Any]:
    """Training steps of K entries, and testing K modules on the test items."""
    spec, coded, items = make_spec(technique), bound_task.train_split, bound_task.test_split
    starts = [bound_task.fresh(spec, seed) for seed in range(entries)]
    stack = [Entry(start, coded.rows, coded.targets, seed, 1e-4) for seed, start in enumerate(starts)]

    def training() -> None:
        train_entries(bound_task.host, bound_task.readout, spec, stack, [2], bound_task.settings)

    kept = train_entries(bound_task.host, bound_task.readout, spec, stack, [0], bound_task.settings)
    modules = [checkpoints[0].matrices for checkpoints in kept]

    def testing() -> None:
        score_entries(bound_task.host, bound_task.readout, spec, modules, items.rows, items.targets)

    found = {"host": bound_task.host.name, "technique": technique, "entries": entries}
    return {**found, "training_2_steps": share(training, repeats), "testing": share(testing, repeats)}


def main() -> None:
    """Measure every host, technique and K asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", nargs="+", default=["all-MiniLM-L6-v2", "flan-t5-small"])
    parser.add_argument("--techniques", nargs="+", default=list(TECHNIQUES))
    parser.add_argument("--entries", nargs="+", type=int, default=[1, 10])
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    found: dict[str, Any] = {"machine": machine_facts(), "rows": []}
    for host in asked.hosts:
        settings = TrainSettings(max_tokens=64)
        bound_task = bind_task(host, load_task("rotten_tomatoes"), settings=settings, test_items=asked.items)
        for technique in asked.techniques:
            for entries in asked.entries:
                found["rows"].append(measure(bound_task, technique, entries, asked.repeats))
                row = found["rows"][-1]
                shares = {kind: round(row[kind]["share_of_peak"], 3) for kind in ("training_2_steps", "testing")}
                print(host, technique, f"K={entries}", shares, flush=True)
                asked.out.parent.mkdir(exist_ok=True)
                asked.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
