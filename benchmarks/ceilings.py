"""How near a training step comes to two ceilings of the processor or GPU: its matrix products, and its memory.

    PYTHONPATH=src:benchmarks python benchmarks/ceilings.py [--note CHANGE]  adds to benchmarks/results/ceilings.json
    ... --device cuda --entries 1 8 64                                       the same on a GPU

Every operation of one step, forward and backward, is counted where torch dispatches it: the operations of products
(attention's own included), and the bytes that all other operations read and write once each. The ceilings are measured
in the same process: the best of large products in each number format, and of a large copy. `products` and `memory` are
the shares of the step's time that products would take at the first ceiling and other operations at the second; what is
left is lost to caches that are too small, to products too small for the ceiling, to arithmetic other than products, and
to starting operations. Runs are added to the file one after another, so that it is a log of changes.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import machine_facts
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from peftport.hosts.loading import Loading
from peftport.tasks import load_task
from peftport.techniques import TECHNIQUES, make_spec
from peftport.training.bound_task import BoundTask, bind_task
from peftport.training.loop import Entry, TrainSettings, train_entries

OUT = Path(__file__).parent / "results" / "ceilings.json"
FORMATS = {"float32": torch.float32, "mixed": torch.bfloat16, "bfloat16": torch.bfloat16}
PRODUCTS = {"mm": (0, 1), "addmm": (1, 2), "bmm": (0, 1), "baddbmm": (1, 2), "_linear_pointwise": (0, 1)}
ATTENTION = {
    f"_scaled_dot_product_{kind}{way}": products
    for kind in ("flash_attention_for_cpu", "efficient_attention", "flash_attention", "cudnn_attention")
    for way, products in (("", 2), ("_backward", 5))
}
STEPS = {"cpu": 1, "cuda": 20}  # that one timing spreads its start and its end over


class Counted(TorchDispatchMode):
    """Counts the operations of products by number format, and the bytes that all other operations touch."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[torch.dtype] = Counter()
        self.bytes, self.calls = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and go on."""
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            a, b = (args[at] for at in PRODUCTS[name])
            inner = a.shape[-1]
            outer = b.shape[0] if name == "_linear_pointwise" else b.shape[-1]
            self.operations[a.dtype] += 2 * math.prod(a.shape[:-1]) * inner * outer
        elif name in ATTENTION:
            query, key = (args[1], args[2]) if name.endswith("_backward") else (args[0], args[1])
            self.operations[query.dtype] += 2 * ATTENTION[name] * math.prod(query.shape) * key.shape[-2]
        elif not func.is_view:
            tensors = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, torch.Tensor)]
            self.bytes += sum(each.numel() * each.element_size() for each in tensors)
        self.calls += not func.is_view
        return out


def best_seconds(run: Callable[[], object], at_least: float = 1.0) -> float:
    """The best of as many runs as fit in some time, to the end of what they started on a GPU.

    On a processor they are seconds of its own, of which work beside it takes none.
    """
    on_gpu = torch.cuda.is_available()
    best, spent, clock = math.inf, 0.0, time.perf_counter if on_gpu else time.process_time
    while spent < at_least:
        begun = clock()
        run()
        if on_gpu:
            torch.cuda.synchronize()
        took = clock() - begun
        best, spent = min(best, took), spent + took
    return best


def ceilings(device: str) -> dict[str, float]:
    """Operations a second of large products in each format, and bytes a second of a large copy (read and written)."""
    found, size, length = {}, *{"cpu": (2048, 2**26), "cuda": (8192, 2**29)}[device]
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        found[str(dtype).removeprefix("torch.")] = 2 * size**3 / best_seconds(lambda a=a, b=b: torch.mm(a, b))  # type: ignore[misc]
    source, target = torch.randn(length, device=device), torch.empty(length, device=device)
    found["bytes"] = 2 * source.numel() * 4 / best_seconds(lambda: target.copy_(source))
    return found


def _between(step: Callable[[int], None], few: int, many: int) -> float:
    """The seconds of a step without those of beginning and ending a training."""
    short, long = (best_seconds(partial(step, steps), at_least=2.0) for steps in (few, many))
    return (long - short) / (many - few)


def measure(bound: BoundTask, technique: str, entries: int, limits: dict[str, float]) -> dict[str, Any]:
    """One step of K entries: what it computes and moves, its best seconds, and the shares of both ceilings."""
    spec, coded = make_spec(technique), bound.train_split
    stack = [Entry(bound.fresh(spec, seed), coded.rows, coded.targets, seed, 1e-4) for seed in range(entries)]

    def step(steps: int = 1) -> None:
        train_entries(bound.host, bound.readout, spec, stack, [steps], bound.settings)

    step()
    with Counted() as counted:
        step()
    steps = STEPS[bound.host.device.type]
    seconds = best_seconds(step, at_least=8.0) if steps == 1 else _between(step, 1, 1 + steps)
    products = sum(n / limits[str(dtype).removeprefix("torch.")] for dtype, n in counted.operations.items())
    memory = counted.bytes / limits["bytes"]
    return {
        "host": bound.host.name, "technique": technique, "entries": entries, "seconds": seconds,
        "giga_operations": {str(d).removeprefix("torch."): n / 1e9 for d, n in counted.operations.items()},
        "gigabytes": counted.bytes / 1e9, "calls": counted.calls,
        "products": products / seconds, "memory": memory / seconds,
    }  # fmt: skip


def main() -> None:
    """Measure every format and K that is asked for, and add the rows to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", nargs="+", default=["all-MiniLM-L6-v2"])
    parser.add_argument("--techniques", nargs="+", default=["lora"], choices=list(TECHNIQUES))
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--entries", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--device", default="cpu", choices=list(STEPS))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--note", default="", help="what changed since the run before")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    limits = ceilings(asked.device)
    rows = []
    for host in asked.hosts:
        for dtype in asked.formats:
            task = load_task("rotten_tomatoes")
            settings, loading = (
                TrainSettings(batch_size=asked.batch_size, max_tokens=64),
                Loading(device=asked.device, dtype=dtype),
            )
            bound = bind_task(host, task, settings=settings, loading=loading)
            for technique in asked.techniques:
                for entries in asked.entries:
                    rows.append(
                        {"dtype": dtype, "batch_size": asked.batch_size, **measure(bound, technique, entries, limits)}
                    )
                    print(json.dumps(rows[-1]), flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    run = {"note": asked.note, "commit": commit.strip(), "ceilings": limits, "machine": machine_facts(), "rows": rows}
    log = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.exists() else []
    asked.out.write_text(json.dumps([*log, run], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
