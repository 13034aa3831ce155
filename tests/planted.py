"""Simulated ledgers of known truth: tables of runs as a study exports them, with arms planted at given accuracies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import polars as pl

from peftport.analysis.columns import CORRECT, run_columns

Rate = Callable[["Key"], float]


@dataclass(frozen=True)
class Key:
    """What a run is of; None where that does not apply."""

    technique: str | None
    origin: str | None
    receiver: str
    origin_task: str | None
    receiver_task: str
    arm: str
    method: str | None
    budget: int
    seed: int | None


@dataclass(frozen=True)
class Grid:
    """A small study; a pair is (origin, receiver), data (origin task, receiver task)."""

    techniques: tuple[str, ...] = ("lora",)
    pairs: tuple[tuple[str, str], ...] = (("old", "new"),)
    data: tuple[tuple[str, str], ...] = (("reviews", "reviews"),)
    methods: tuple[str, ...] = ("copy",)
    budgets: tuple[int, ...] = (0, 10, 40)
    seeds: int = 5
    items: int = 300
    ceiling_steps: int = 120
    item_sd: float = 0.15  # how far items differ in difficulty, on the scale of probabilities
    seed_sd: float = 0.01
    shared_seed_sd: float = 0.0  # how far a seed moves an arm in all cells and tasks alike

    def keys(self) -> Iterator[Key]:
        """Every run of the grid once."""
        seeds = range(self.seeds)
        for t, (o, r), (ot, rt), b, s in product(self.techniques, self.pairs, self.data, self.budgets, seeds):
            for method in self.methods:
                yield Key(t, o, r, ot, rt, "ported", method, b, s)
            yield Key(t, o, r, ot, rt, "sampled", "gaussian", b, s)
        places = sorted({(r, rt) for (_, r), (_, rt) in product(self.pairs, self.data)})
        for t, (r, rt), s in product(self.techniques, places, seeds):
            for b in self.budgets:
                yield Key(t, None, r, None, rt, "scratch", None, b, s)
            yield Key(t, None, r, None, rt, "ceiling", None, self.ceiling_steps, s)
        for r, rt in places:
            yield Key(None, None, r, None, rt, "bare", None, 0, None)


def ledger(grid: Grid, rate: Rate, rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Runs and per-item results; ``rate`` gives each run's expected accuracy, items share their difficulty."""
    difficulty: dict[tuple[str, str], npt.NDArray[np.float64]] = {}
    rows, correct, shared = [], [], dict[tuple[str, int], float]()
    for index, key in enumerate(grid.keys()):
        place = (key.receiver, key.receiver_task)
        if place not in difficulty:
            difficulty[place] = rng.uniform(-1, 1, grid.items) * grid.item_sd * np.sqrt(3)
        shift = grid.seed_sd * rng.standard_normal() if key.seed is not None else 0.0
        if key.seed is not None and grid.shared_seed_sd:
            if (key.arm, key.seed) not in shared:
                shared[key.arm, key.seed] = grid.shared_seed_sd * rng.standard_normal()
            shift += shared[key.arm, key.seed]
        right = rng.random(grid.items) < rate(key) + shift + difficulty[place]
        trained = key.budget if key.arm != "bare" else 0
        rows.append({
            "run": f"r{index}", **key.__dict__, "state": "done", "accuracy": float(right.mean()),
            "auroc": float(right.mean()), "accuracy_at_median": float(right.mean()), "n_items": grid.items, "loss": 0.5,
            "steps": trained, "train_seconds": trained * 0.1, "test_seconds": 1.0,
            "host_distance": 0.02 if key.origin else None, "error": None, "job": f"j{index}",
        })  # fmt: skip
        correct.append({"run": f"r{index}", "correct": right.tolist()})
    return pl.DataFrame(rows, schema=run_columns()), pl.DataFrame(correct, schema=CORRECT)


def curve(**arms: tuple[float, ...]) -> Rate:
    """Rates by arm (or porter) over the budgets 0, 10, 40, and ``bare``, ``ceiling`` of one each."""

    def rate(key: Key) -> float:
        values = arms.get(key.method or "", arms.get(key.arm, arms["scratch"]))
        return values[(0, 10, 40).index(key.budget)] if len(values) > 1 else values[0]

    return rate
