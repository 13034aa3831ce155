"""What `torch.compile` could gain: forward and backward of a bare host, as it is and compiled, and what it costs.

    OMP_NUM_THREADS=1 PYTHONPATH=src:benchmarks python benchmarks/compiled.py   writes benchmarks/results/compiled.json

The host without modules, its gradients wanted at its first layer: what every training step does, and the most that
could be compiled once for all modules. As it is and compiled take turns, shape by shape. Beside the gain stands its
price: seconds from the first call to the end of compiling, and the passes after which the gain has paid them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import machine_facts
from torch import Tensor, nn

from peftport.hosts.load import load_host

OUT = Path(__file__).parent / "results" / "compiled.json"
SHAPES = ((16, 32), (16, 48), (64, 40), (16, 24), (16, 64))  # texts, tokens; the last two are new to what is compiled


def one_pass(body: nn.Module, embedded: Tensor, mask: Tensor) -> float:
    """Seconds of one pass forward and backward."""
    begun = time.perf_counter()
    body(inputs_embeds=embedded, attention_mask=mask).last_hidden_state.mean().backward()
    return time.perf_counter() - begun


def measure(plain: nn.Module, fused: nn.Module, shape: tuple[int, int], width: int, passes: int) -> dict[str, Any]:
    """The first pass of each side at this shape, then the median of so many in turn."""
    embedded = torch.randn(*shape, width, requires_grad=True)
    mask = torch.ones(shape, dtype=torch.long)
    first = {name: one_pass(body, embedded, mask) for name, body in (("plain", plain), ("compiled", fused))}
    pairs = [(one_pass(plain, embedded, mask), one_pass(fused, embedded, mask)) for _ in range(passes)]
    return {
        "texts": shape[0],
        "tokens": shape[1],
        "seconds": median(a for a, _ in pairs),
        "compiled_seconds": median(b for _, b in pairs),
        "speed_up": median(a / b for a, b in pairs),
        "first_compiled_seconds": first["compiled"],
    }


def main() -> None:
    """Measure the shapes one after another with one compiled host, as a study would meet them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", nargs="+", default=["all-MiniLM-L6-v2"], help="encoders")
    parser.add_argument("--passes", type=int, default=30)
    asked = parser.parse_args()
    found: dict[str, Any] = {"machine": machine_facts(), "rows": []}
    for host in asked.hosts:
        plain, other = (load_host(host, "body") for _ in range(2))
        fused: Any = torch.compile(other.base, dynamic=True)
        width = plain.base.config.hidden_size
        for shape in SHAPES:
            found["rows"].append({"host": host, **measure(plain.base, fused, shape, width, asked.passes)})
            print(found["rows"][-1], flush=True)
    OUT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
