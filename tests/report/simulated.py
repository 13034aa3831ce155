"""Simulated findings of any size, with names and states that break careless pages. Planted numbers, no training."""

from __future__ import annotations

import itertools
import math

import numpy as np
import polars as pl

from peftport.report.findings import Findings

HOSTILE = "<script>alert(1)</script>"
HOSTS = ("t5-base", HOSTILE, "a & b", "flan-t5-größe-日本語", "org/a-rather-long-name-for-a-host-v1.1")
TECHNIQUES = ("adapter", "compacter", "lora", "prefix")
TASKS = (("sst2", "rotten_tomatoes"), ("rotten_tomatoes", "rotten_tomatoes"), ("rotten_tomatoes", "sst2"))
BUDGETS = (0, 10, 40)
ORIGIN_STEPS = 120
LOST = "TrainingFailed: loss is NaN at step 7 <b>not bold</b>"
LOW_LIFT = "a lift of .015 is under the floor of .030"
STRENGTH = dict(zip(TECHNIQUES, (0.8, 0.35, 0.6, 0.15), strict=True))


def simulated(
    *,
    runs: int = 1440,
    seeds: int = 5,
    rng: np.random.Generator,
    techniques: tuple[str, ...] = TECHNIQUES,
    awkward: bool = True,
) -> Findings:
    """About as many runs as asked for: techniques x ordered pairs x tasks x methods x arms x budgets x seeds."""
    share = len(techniques) * 2 * len(BUDGETS) * seeds * len(TASKS)
    pairs, methods = _grid(max(1, round(runs / share)))
    cells = pl.DataFrame(
        [
            {"technique": t, "origin": a, "receiver": b, "origin_task": o, "receiver_task": r, "method": m}
            for (a, b), (o, r), m, t in itertools.product(pairs, TASKS, methods, techniques)
        ]
    )
    table = _runs(cells, seeds, rng, awkward)
    return Findings(
        study="Simulated study" + (f" of {HOSTILE}" if awkward else ""),
        about="Planted numbers: every module keeps a share of the lift that falls with the distance between hosts.",
        command="peftport study run studies/simulated.toml --dir runs/simulated",
        versions={"peftport": "0.1.0", "torch": "2.13.0"},
        machine={"processor": "simulated", "cores": "2", "memory": "24 GiB"},
        hosts={host: f"{index:016x}" for index, host in enumerate(sorted({h for pair in pairs for h in pair}))},
        seeds=tuple(range(seeds)),
        headlines=(
            f"Copying keeps a median of {0.48:.0%} of the lift without training; adapters keep most, prefixes least.",
            f"Porting from {HOSTILE} to a & b is worth it for three of four techniques." if awkward else "Planted.",
        ),
        scale=f"{seeds} seeds: a sign-flip test over seeds alone cannot give p under {2 ** (1 - seeds):.3f}.",
        notes=("Simulated: nothing was trained.",),
        **_measures(cells, table, seeds, rng, awkward),
    )


def _grid(units: int) -> tuple[list[tuple[str, str]], list[str]]:
    """Ordered pairs and methods whose product is about ``units``; small grids stay on the awkward hosts."""
    methods = ["copy"] if units <= 20 else ["copy", "theseus", "crosslora", "regress", "distill"]
    wanted = max(1, round(units / len(methods)))
    both_ways = math.ceil(wanted / 2)
    number = math.ceil((1 + math.sqrt(1 + 8 * both_ways)) / 2)
    hosts = [*HOSTS, *(f"host-{index:03d}" for index in range(len(HOSTS), number))][:number]
    there = list(itertools.combinations(hosts, 2))[:both_ways]
    return [pair for a, b in there for pair in ((a, b), (b, a))][:wanted], methods


def _distance(origin: str, receiver: str) -> float:
    return 0.05 + (sum(map(ord, origin)) * sum(map(ord, receiver)) % 97) / 100


def _runs(cells: pl.DataFrame, seeds: int, rng: np.random.Generator, awkward: bool) -> pl.DataFrame:
    arms = pl.DataFrame({"arm": ["ported", "sampled"]})
    budgets, seed = pl.DataFrame({"budget": BUDGETS}), pl.DataFrame({"seed": range(seeds)})
    grid = cells.join(arms, how="cross").join(budgets, how="cross").join(seed, how="cross")
    accuracy = _accuracy(grid) + rng.normal(0, 0.012, grid.height)
    bad = rng.random(grid.height) < (0.01 if awkward else 0)
    return grid.with_columns(
        run=pl.format("run-{}", pl.int_range(pl.len())),
        job=pl.format("job-{}", pl.int_range(pl.len())),
        state=pl.Series(np.where(bad, "failed", "done")),
        accuracy=pl.Series(np.where(bad, np.nan, accuracy)),
        auroc=pl.Series(np.where(bad, np.nan, accuracy + 0.05)),
        accuracy_at_median=pl.Series(np.where(bad, np.nan, accuracy)),
        n_items=pl.lit(300),
        loss=pl.Series(rng.uniform(0.2, 0.7, grid.height)),
        steps=pl.col("budget"),
        train_seconds=pl.col("budget") * 0.11,
        test_seconds=pl.lit(0.8),
        host_distance=_distances(grid),
        error=pl.Series([LOST if lost else None for lost in bad], dtype=pl.String),
    )


def _distances(grid: pl.DataFrame) -> pl.Series:
    pairs = grid.select("origin", "receiver").unique()
    found = pairs.with_columns(d=pl.Series([_distance(a, b) for a, b in pairs.iter_rows()], dtype=pl.Float64))
    return grid.join(found, on=["origin", "receiver"], how="left", maintain_order="left")["d"]


def _kept(cells: pl.DataFrame) -> np.ndarray:
    """The planted retention of each cell."""
    strength = cells["technique"].replace_strict(STRENGTH, default=0.5).to_numpy()
    return strength * (1.25 - 1.3 * _distances(cells).to_numpy())


def _accuracy(grid: pl.DataFrame) -> np.ndarray:
    """Bare .64, ceiling .78; the sampled arm starts at the bare host; training closes the gap."""
    start = np.where(grid["arm"].to_numpy() == "ported", _kept(grid), 0.0)
    budget = grid["budget"].to_numpy()
    reached = start + (1 - start) * (1 - np.exp(-budget / 25)) * 0.9
    return np.asarray(0.64 + 0.14 * reached)


def _measures(
    cells: pl.DataFrame, runs: pl.DataFrame, seeds: int, rng: np.random.Generator, awkward: bool
) -> dict[str, pl.DataFrame]:
    retention = _retention(cells, rng, awkward)
    return {
        "runs": runs,
        "curves": _curves(cells, runs),
        "retention": retention,
        "gains": _gains(cells, runs, rng),
        "savings": _savings(cells, rng),
        "verdicts": _verdicts(retention, rng),
        "lifts": _lifts(cells),
        "directions": _directions(retention),
        "pooled": _pooled(retention),
        "aggregates": _aggregates(retention),
    }


def _curves(cells: pl.DataFrame, runs: pl.DataFrame) -> pl.DataFrame:
    key = [*cells.columns, "arm", "budget"]
    drawn = (
        runs.filter(pl.col("state") == "done")
        .group_by(key, maintain_order=True)
        .agg(mean=pl.col("accuracy").mean(), seeds=pl.len())
        .with_columns(low=pl.col("mean") - 0.02, high=pl.col("mean") + 0.022, items=pl.lit(300))
    )
    arms = pl.DataFrame(
        {
            "arm": ["scratch"] * len(BUDGETS) + ["bare", "ceiling"],
            "budget": [*BUDGETS, 0, ORIGIN_STEPS],
            "mean": [0.64 + 0.126 * (1 - math.exp(-b / 30)) for b in BUDGETS] + [0.64, 0.78],
        }
    ).with_columns(low=pl.col("mean") - 0.025, high=pl.col("mean") + 0.025, seeds=pl.lit(5), items=pl.lit(300))
    return pl.concat([drawn, cells.join(arms, how="cross")], how="diagonal_relaxed")


def _retention(cells: pl.DataFrame, rng: np.random.Generator, awkward: bool) -> pl.DataFrame:
    kept = _kept(cells) + rng.normal(0, 0.05, cells.height)
    eligible = rng.random(cells.height) > (0.05 if awkward else 0)
    value = pl.Series(np.where(eligible, kept, np.nan))
    return cells.with_columns(
        base=pl.lit(0.64),
        ceiling=pl.Series(np.where(eligible, 0.78, 0.655)),
        ported=pl.Series(0.64 + 0.14 * kept),
        retention=value,
        low=value - 0.18,
        high=value + 0.16,
        eligible=pl.Series(eligible),
        reason=pl.Series([None if good else LOW_LIFT for good in eligible], dtype=pl.String),
        host_distance=_distances(cells),
    )


def _gains(cells: pl.DataFrame, runs: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    grid = cells.join(pl.DataFrame({"budget": BUDGETS}), how="cross")
    grid = grid.join(pl.DataFrame({"versus": ["sampled", "scratch"]}), how="cross")
    gain = 0.14 * _kept(grid) * np.exp(-grid["budget"].to_numpy() / 25) + rng.normal(0, 0.008, grid.height)
    p = np.clip(np.exp(-np.abs(gain) * 90), 0.0625, 1)
    return grid.with_columns(
        gain=pl.Series(gain),
        low=pl.Series(gain - 0.03),
        high=pl.Series(gain + 0.03),
        p=pl.Series(p),
        p_holm=pl.Series(np.minimum(1, p * 6)),
        permuted=pl.lit("items"),
        seeds=pl.lit(5),
        note=pl.lit(None, dtype=pl.String),
    )


def _savings(cells: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    kept = _kept(cells)
    ported = np.clip(30 * (1 - kept), 0, 40).round()
    lost, late = ported >= 35, rng.random(cells.height) < 0.2
    scratch = np.where(late, 40, rng.integers(20, 40, cells.height))
    saved = np.where(lost | late, np.nan, 1 - ported / scratch)
    plain = {"break_even": 38.0, "area_ported": 0.74, "area_sampled": 0.71, "area_scratch": 0.7}
    return cells.with_columns(
        target=pl.lit(0.9),
        steps_ported=pl.Series(ported),
        steps_scratch=pl.Series(scratch).cast(pl.Float64),
        ported_censored=pl.Series(lost),
        scratch_censored=pl.Series(late),
        training_saved=pl.Series(saved),
        negative_flips=pl.Series(rng.uniform(0, 0.1, cells.height)),
        regret=pl.Series(rng.uniform(0, 0.02, cells.height)),
        **{name: pl.lit(value) for name, value in plain.items()},
    )


def _verdicts(retention: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    value = retention["retention"].to_numpy()
    names = np.select(
        [np.isnan(value), value > 0.6, value > 0.35, value > 0.2],
        ["not enough evidence", "copy", "align", "refresh"],
        default="retrain",
    )
    sentences = [
        f"copying keeps {v:.0%} of the lift at no cost; 10 steps of training overtake it"
        if v == v
        else "too small a lift"
        for v in value
    ]
    cell = ["technique", "origin", "receiver", "origin_task", "receiver_task", "method"]
    return retention.select(cell).with_columns(
        verdict=pl.Series(names),
        sentence=pl.Series(sentences),
        cost_steps=pl.lit(10.0),
        cost_seconds=pl.lit(4.2),
        low=pl.Series(value - 0.1),
        high=pl.Series(value + 0.1),
        regret=pl.Series(rng.uniform(0, 0.02, retention.height)),
    )


def _lifts(cells: pl.DataFrame) -> pl.DataFrame:
    gain = pl.Series(0.14 * _kept(cells))
    return cells.with_columns(
        lift=pl.lit(0.14), lift_low=pl.lit(0.11), lift_high=pl.lit(0.17), gain=gain, low=gain - 0.03, high=gain + 0.02,
        seeds=pl.lit(5),
    )  # fmt: skip


def _directions(retention: pl.DataFrame) -> pl.DataFrame:
    first = retention.filter(pl.col("method") == "copy", pl.col("retention").is_finite())
    there = first.filter(pl.col("origin") < pl.col("receiver"))
    on = ["technique", "origin_task", "receiver_task"]
    both = there.join(first, left_on=[*on, "origin", "receiver"], right_on=[*on, "receiver", "origin"], suffix="_back")
    return both.select(
        *on,
        host_a="origin",
        host_b="receiver",
        retention_ab="retention",
        low_ab="low",
        high_ab="high",
        retention_ba="retention_back",
        low_ba="low_back",
        high_ba="high_back",
    )


def _pooled(retention: pl.DataFrame) -> pl.DataFrame:
    rows = []
    for technique in [None, *TECHNIQUES]:
        for budget, versus, beside in (
            (0, "sampled", None),
            (0, "scratch", None),
            (0, "sampled", "the other techniques"),
        ):
            row = {"scope": "technique" if technique else "all", "technique": technique, "budget": budget}
            row |= {"origin": None, "receiver": None, "method": "copy", "versus": versus, "beside": beside}
            row |= {"tasks": "same-task", "other_metric": "auroc", "other_gain": 0.04}
            rows.append(
                row | {"gain": 0.05, "low": 0.01, "high": 0.09, "p": 0.01, "p_holm": 0.04, "cells": 12, "seeds": 5}
            )
    return pl.DataFrame(rows, schema_overrides={"origin": pl.String, "receiver": pl.String}, infer_schema_length=None)


def _aggregates(retention: pl.DataFrame) -> pl.DataFrame:
    rows = []
    for technique in [None, *TECHNIQUES]:
        own = retention if technique is None else retention.filter(pl.col("technique") == technique)
        for quantity, shift in (("interquartile mean of retention", 0.0), ("probability of improvement", 0.3)):
            middle = (own["retention"].fill_nan(None).median() or 0) + shift
            row = {"technique": technique, "quantity": quantity, "estimate": middle}
            rows.append(row | {"low": middle - 0.08, "high": middle + 0.07, "note": None})
    return pl.DataFrame(rows, schema_overrides={"note": pl.String}, infer_schema_length=None)
