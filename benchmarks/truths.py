"""How often the verdict is right where the truth is planted: the table of docs/statistics.md.

    PYTHONPATH=src:tests python benchmarks/truths.py      writes benchmarks/results/truths.json

Simulated ledgers (tests/planted.py): 200 settings a row, 5 seeds x 300 items, seeds and items varying.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from machine import machine_facts

from peftport.analysis.measures import Evidence
from peftport.analysis.verdict import verdicts
from planted import Grid, curve, ledger

SETTINGS = 200
SCRATCH = (0.6, 0.65, 0.75)
TRUTHS = {
    "ported equals bare and scratch": (0.6, 0.65, 0.75),
    "+.15 untrained and after 10 steps": (0.75, 0.8, 0.8),
    "+.10 untrained": (0.7, 0.65, 0.75),
    "+.05 untrained": (0.65, 0.65, 0.75),
    "-.15 at every budget": (0.45, 0.5, 0.6),
}
OUT = Path(__file__).parent / "results" / "truths.json"


def shares(ported: tuple[float, ...], seed: int) -> dict[str, float]:
    """How often each word is said of independent settings with one truth."""
    rate = curve(copy=ported, sampled=(0.6, 0.65, 0.72), scratch=SCRATCH, bare=(0.6,), ceiling=(0.8,))
    pairs = tuple((f"old-{i}", f"new-{i}") for i in range(SETTINGS))
    runs, correct = ledger(Grid(pairs=pairs), rate, np.random.default_rng(seed))
    said = verdicts(Evidence.of(runs, correct))["verdict"].to_list()
    return {word: said.count(word) / len(said) for word in sorted(set(said))}


if __name__ == "__main__":
    rows = [{"truth": truth, "seed": s, **shares(own, s)} for s, (truth, own) in enumerate(TRUTHS.items())]
    for row in rows:
        print(row)
    OUT.write_text(json.dumps({"settings": SETTINGS, "machine": machine_facts(), "rows": rows}, indent=2) + "\n")
