"""Both directions of a host pair side by side: retention from A to B against retention from B to A."""

from __future__ import annotations

from peftport.core.libraries import pl

TASKS = ("origin_task", "receiver_task")
COLUMNS = (
    "technique", "host_a", "host_b", *TASKS, "retention_ab", "low_ab", "high_ab", "retention_ba", "low_ba", "high_ba",
)  # fmt: skip
SHARE = ("retention", "low", "high")


def directions(retention: pl.DataFrame, method: str = "copy") -> pl.DataFrame:
    """The pairs of hosts with an eligible retention in both directions, by one method; A is the first by name."""
    known = retention.filter(pl.col("eligible") & (pl.col("method") == method))
    on = ("technique", *TASKS)
    back = known.select(*on, pl.col("origin").alias("host_b"), pl.col("receiver").alias("host_a"), *SHARE)
    there = known.filter(pl.col("origin") < pl.col("receiver")).rename({"origin": "host_a", "receiver": "host_b"})
    joined = there.rename({name: f"{name}_ab" for name in SHARE}).join(
        back.rename({name: f"{name}_ba" for name in SHARE}), on=(*on, "host_a", "host_b"), how="inner", nulls_equal=True
    )
    return joined.select(COLUMNS).sort(COLUMNS[:5])
