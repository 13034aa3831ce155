"""Seconds of the products of a LoRA's slot, each as autograd asks for it and as its transpose, by rank.

    PYTHONPATH=src:benchmarks python benchmarks/thin_products.py   writes benchmarks/results/thin_products.json

`both` is a forward and a backward pass of y + x A^T B^T: by torch's own products and by `techniques.products`. Each
figure is the best of a second of runs, on one thread.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from ceilings import best_seconds
from machine import machine_facts
from torch import Tensor

from peftport.techniques.products import add_product

OUT = Path(__file__).parent / "results" / "thin_products.json"


def both_ways(y: Tensor, x: Tensor, a: Tensor, b: Tensor, grad: Tensor) -> dict[str, float]:
    """The milliseconds of a slot's forward and backward pass, by both kinds of products."""
    leaves = (x, a, b)

    def plain() -> Any:
        return torch.autograd.grad(torch.baddbmm(y, torch.bmm(x, a.mT), b.mT), leaves, grad)

    def ours() -> Any:
        return torch.autograd.grad(add_product(y, add_product(None, x, a), b), leaves, grad)

    return {"torch": best_seconds(plain) * 1e3, "peftport": best_seconds(ours) * 1e3}


def measure(entries: int, rows: int, width: int, rank: int) -> dict[str, Any]:
    """Milliseconds of every product of one slot, and of all of them."""
    x, y, grad = (torch.randn(entries, rows, width) for _ in range(3))
    a, b = torch.randn(entries, rank, width), torch.randn(entries, width, rank)
    low = torch.bmm(x, a.mT)
    products = {
        "x A^T": (x, a.mT), "gradient of low: g B": (grad, b), "gradient of B: g^T low": (grad.mT, low),
        "gradient of A: x^T g": (x.mT, low),
    }  # fmt: skip
    times = {
        name: {
            "as it is": best_seconds(lambda p=p, q=q: torch.bmm(p, q)) * 1e3,  # type: ignore[misc]
            "transposed": best_seconds(lambda p=p, q=q: torch.bmm(q.mT, p.mT)) * 1e3,  # type: ignore[misc]
        }
        for name, (p, q) in products.items()
    }
    for leaf in (x, a, b):
        leaf.requires_grad_()
    shape = {"entries": entries, "rows": rows, "width": width, "rank": rank}
    return {**shape, "products": times, "both": both_ways(y, x, a, b, grad)}


def main() -> None:
    """Measure every K and rank."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--ranks", nargs="+", type=int, default=[4, 8, 12, 16, 24, 32])
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(entries, 640, 384, rank) for entries in asked.entries for rank in asked.ranks]
    for row in rows:
        print(json.dumps(row), flush=True)
    asked.out.write_text(json.dumps({"machine": machine_facts(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
