"""What two ideas for the rest of a training step could save: one product for queries, keys and values, a cheaper GELU.

    PYTHONPATH=src:benchmarks python benchmarks/rest_of_step.py   writes benchmarks/results/rest_of_step.json

Rows are the tokens of one entry and of eight, 16 texts each, of MiniLM's widths. `qkv` is the forward product of a
layer's queries, keys and values and the gradient of its input: three products of D columns as it is, or one of 3 D.
`gelu` is the activation function forward and back, beside one multiplication of the same numbers, which is what its
way back would cost if the derivative were kept for nothing. Milliseconds, the best of a second of runs, one thread;
freed memory is kept as in training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from ceilings import best_seconds
from machine import machine_facts
from torch.nn import functional as F

from peftport.hosts.allocation import keep_freed_memory

OUT = Path(__file__).parent / "results" / "rest_of_step.json"
ROWS = {1: 800, 8: 6400}  # tokens of so many entries
WIDTH, INNER = 384, 1536


def queries_keys_values(rows: int, dtype: torch.dtype) -> dict[str, float]:
    """Milliseconds of the three maps of a layer, apart and as one."""
    x = torch.randn(rows, WIDTH, dtype=dtype)
    apart = [torch.randn(WIDTH, WIDTH, dtype=dtype) for _ in range(3)]
    grads = [torch.randn(rows, WIDTH, dtype=dtype) for _ in apart]
    joined, gradient = torch.cat(apart), torch.cat(grads, 1)

    def three_back() -> torch.Tensor:
        first, second, third = (g @ w for g, w in zip(grads, apart, strict=True))
        return first.add_(second).add_(third)

    found = {
        "three, forward": lambda: [F.linear(x, w) for w in apart],
        "one, forward": lambda: F.linear(x, joined),
        "three, back": three_back,
        "one, back": lambda: gradient @ joined,
    }
    return {name: best_seconds(run) * 1e3 for name, run in found.items()}


def gelu(rows: int, dtype: torch.dtype) -> dict[str, float]:
    """Milliseconds of the activation function, and of one multiplication."""
    x, grad = (torch.randn(rows, INNER, dtype=dtype) for _ in range(2))
    found = {
        "forward": lambda: F.gelu(x),
        "back": lambda: torch.ops.aten.gelu_backward(grad, x),
        "one multiplication": lambda: grad * x,
    }
    return {name: best_seconds(run) * 1e3 for name, run in found.items()}


def main() -> None:
    """Measure both ideas in both formats."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows: list[dict[str, Any]] = []
    for entries, tokens in ROWS.items():
        for dtype in (torch.float32, torch.bfloat16):
            shape = {"entries": entries, "rows": tokens, "dtype": str(dtype).removeprefix("torch.")}
            rows.append({**shape, "qkv": queries_keys_values(tokens, dtype), "gelu": gelu(tokens, dtype)})
            print(json.dumps(rows[-1]), flush=True)
    OUT.write_text(json.dumps({"machine": machine_facts(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
