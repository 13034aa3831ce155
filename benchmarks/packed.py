"""Would frozen matrices packed once for MKL's matrix product make a host faster? Its layers' products, both ways.

    PYTHONPATH=src:benchmarks python benchmarks/packed.py     writes benchmarks/results/packed.json

torch's `mkl::_mkl_linear` takes a matrix that was packed for one number of rows and multiplies it only with as many;
with any other it does as `F.linear` does. The backward pass multiplies gradients with the same matrices turned.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from machine import machine_facts
from torch import nn

from peftport.hosts.load import load_host

OUT = Path(__file__).parent / "results" / "packed.json"
HOST = "all-MiniLM-L6-v2"
Products = Callable[[], object]


def ways(layers: list[nn.Linear], rows: int) -> dict[str, Products]:
    """All layers' products once, forward and backward, as they are and packed."""
    pack, packed = torch.ops.mkl._mkl_reorder_linear_weight, torch.ops.mkl._mkl_linear
    inputs = {width: torch.randn(rows, width) for layer in layers for width in layer.weight.shape}
    turned = [layer.weight.T.contiguous() for layer in layers]
    forward = [(inputs[m.in_features], m, pack(m.weight.detach(), rows)) for m in layers]
    backward = [(inputs[m.out_features], m.weight, t, pack(t, rows)) for m, t in zip(layers, turned, strict=True)]
    return {
        "forward": lambda: [F.linear(x, m.weight, m.bias) for x, m, _ in forward],
        "forward_packed": lambda: [packed(x, p, m.weight, m.bias, rows) for x, m, p in forward],
        "backward": lambda: [g @ w for g, w, _, _ in backward],
        "backward_packed": lambda: [packed(g, p, t, None, rows) for g, _, t, p in backward],
    }


@torch.no_grad()
def race(products: dict[str, Products], repeats: int) -> dict[str, float]:
    """Median seconds of each, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in products}
    for _ in range(repeats + 1):
        for name, run in products.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    return {name: median(each[1:]) for name, each in seconds.items()}  # without the first, which warms up


def same(products: dict[str, Products]) -> bool:
    """Whether packed products are the plain ones."""
    one, other = (products[name]() for name in ("forward", "forward_packed"))
    assert isinstance(one, list) and isinstance(other, list)
    return all(torch.allclose(a, b, atol=1e-3) for a, b in zip(one, other, strict=True))


def main() -> None:
    """Measure at each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[160, 320, 640, 1280, 2560])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    torch.manual_seed(0)
    base = load_host(HOST).base
    layers = [m for m in base.get_submodule("encoder").modules() if isinstance(m, nn.Linear)]
    found = []
    for rows in asked.rows:
        products = ways(layers, rows)
        assert same(products)
        took = race(products, asked.repeats)
        gain = {side: took[side] / took[f"{side}_packed"] for side in ("forward", "backward")}
        found.append({"rows": rows, "seconds": took, "speed_up": gain})
        print(rows, {side: f"{value:.2f}" for side, value in gain.items()}, flush=True)
    asked.out.write_text(json.dumps({"machine": machine_facts(), "rows": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
