"""Pooled gains of a study's ported modules, from its exported table alone; it shares no code with peftport.

python tools/recompute_gains.py results/paper [METRIC]
"""

import sys

import polars as pl

CELL = ["technique", "origin", "receiver", "origin_task", "receiver_task", "budget", "seed"]
OPPONENTS = {"sampled": CELL, "shuffled": CELL, "scratch": ["technique", "receiver", "receiver_task", "budget", "seed"]}


def gains(folder: str, metric: str = "accuracy") -> pl.DataFrame:
    """A row for each opponent, same-task or cross-task cells, budget, and technique (null: all): the mean gain."""
    runs = pl.read_parquet(f"{folder}/runs.parquet")
    ported, found = runs.filter(arm="ported"), []
    for opponent, key in OPPONENTS.items():
        other = runs.filter(
            pl.col("arm") == opponent, pl.col("method").is_in(["gaussian", "copy"]) | (opponent == "scratch")
        )
        both = ported.join(other.select(*key, other=metric), on=key, validate="m:1")
        same = pl.col("origin_task") == pl.col("receiver_task")
        tasks = pl.when(same).then(pl.lit("same-task")).otherwise(pl.lit("cross-task"))
        both = both.with_columns(gain=pl.col(metric) - pl.col("other"), versus=pl.lit(opponent), tasks=tasks)
        cells = both.group_by("versus", "tasks", *CELL[:-1]).agg(pl.col("gain").mean())
        for key in (["technique"], []):
            pooled = cells.group_by("versus", "tasks", "budget", *key).agg(pl.col("gain").mean(), cells=pl.len())
            found.append(pooled if key else pooled.with_columns(technique=pl.lit(None, pl.String)))
    return pl.concat(found, how="diagonal").sort("versus", "tasks", "budget", "technique")


if __name__ == "__main__":
    with pl.Config(tbl_rows=-1):
        print(gains(*sys.argv[1:]))
