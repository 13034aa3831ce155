"""Finished runs as arrays: which seeds pair with which, and what every pair of arms scored, item by item where held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from peftport.analysis.measures.declared import Declared
from peftport.analysis.stats.crossed import Crossed, crossed_from_items, crossed_from_means
from peftport.core.errors import BadRequest

SETTING = ("technique", "origin", "receiver", "origin_task", "receiver_task")  # what arms of one question share
CELL = (*SETTING, "method")
NEEDED = (
    "run", *SETTING, "arm", "method", "budget", "seed", "state", "accuracy", "auroc", "accuracy_at_median",
    "n_items", "steps", "train_seconds", "host_distance",
)  # fmt: skip
IDENTITY = (*CELL, "arm", "budget", "seed")
ITEMS_AT_ONCE = 16_000_000  # per-item results held at a time
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """What G groups of seeds say about K arms; ``table`` has a row a group, in the order of ``crossed``.

    ``itemised``: whether per-item results were held for all runs of the group, (G,).
    """

    table: pl.DataFrame
    crossed: Crossed
    itemised: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Evidence:
    """A table of runs, its per-item results if they are held, and how it is to be judged."""

    runs: pl.DataFrame
    declared: Declared
    items: npt.NDArray[np.uint8] = field(repr=False)  # per-item results of all runs, end to end
    begins: Ints = field(repr=False)  # where each run's items begin, (R,); -1: not held
    _arms: dict[str, pl.DataFrame] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, runs: pl.DataFrame, correct: pl.DataFrame | None = None, declared: Declared | None = None) -> Evidence:
        """Check and index a table of runs.

        Args:
            runs: a row a run.
            correct: ``run`` and ``correct``, a list of booleans, one a test item; None: seeds alone are paired.
            declared: how it is judged.

        Raises:
            BadRequest: a column is missing, two rows are one run, or items do not agree with the runs.

        """
        declared = declared or Declared()
        missing = [name for name in NEEDED if name not in runs.columns]
        if missing:
            raise BadRequest(
                f"runs: expected columns {', '.join(NEEDED)}, got none named {', '.join(missing)}; export the runs anew"
            )
        names = [*SETTING, "method", "arm"]
        indexed = runs.with_columns(
            pl.col(names).cast(pl.String).cast(pl.Categorical), value=pl.col(declared.metric).cast(pl.Float64)
        ).with_row_index("row")
        twice = indexed.filter(pl.struct(IDENTITY).is_duplicated()) if _suspicious(indexed) else indexed.clear()
        if len(twice):
            raise BadRequest(
                f"runs: expected one row for each cell, arm, budget and seed, got {', '.join(twice['run'][:2])} "
                "for one; leave one out"
            )
        return cls(indexed, declared, *_laid_out(indexed, correct if declared.metric == "accuracy" else None))

    @cached_property
    def done(self) -> pl.DataFrame:
        """Runs that finished with a value."""
        return self.runs.filter((pl.col("state") == "done") & pl.col("value").is_not_null())

    @cached_property
    def values(self) -> Floats:
        """The declared metric of every run, (R,); NaN where there is none."""
        return self.runs["value"].fill_null(float("nan")).to_numpy()

    @cached_property
    def item_variances(self) -> Floats:
        """Variance of each run's value over a new draw of as many items, (R,).

        Binomial for accuracies; for AUROC Hanley & McNeil 1982, Radiology 143, with as many positives as negatives.
        """
        v, n = self.values, np.maximum(self.counts, 1)
        if self.declared.metric != "auroc":
            return v * (1 - v) / n
        half = np.maximum(n / 2, 1)
        found: Floats = (v * (1 - v) + (half - 1) * ((v / (2 - v) - v**2) + (2 * v**2 / (1 + v) - v**2))) / half**2
        return found

    @cached_property
    def counts(self) -> Ints:
        """Test items of every run, (R,)."""
        return self.runs["n_items"].fill_null(0).cast(pl.Int64).to_numpy()

    @cached_property
    def sampler(self) -> str | None:
        """The sampled arm that counts."""
        known = sorted(self.runs.filter(pl.col("arm") == "sampled")["method"].drop_nulls().unique().to_list())
        wanted = self.declared.sampler
        if wanted is not None and wanted not in known:
            raise BadRequest(f"sampler: expected one of {', '.join(known) or 'none run'}, got {wanted!r}; name another")
        return wanted or ("gaussian" if "gaussian" in known else next(iter(known), None))

    @cached_property
    def planned(self) -> pl.DataFrame:
        """Every ported (cell, budget) of the table, finished or not, with the number of its seeds, in order."""
        ported = self.runs.filter(pl.col("arm") == "ported")
        counted = ported.group_by(*CELL, "budget").agg(pl.col("seed").n_unique().alias("planned"))
        return counted.sort(*CELL, "budget", nulls_last=True)

    def arm(self, arm: str) -> pl.DataFrame:
        """Finished runs of one arm, keyed by what that arm depends on, with their row as ``row_<arm>``.

        A ceiling has its longest training alone. The bare host has neither seed nor budget.
        """
        if arm not in self._arms:
            self._arms[arm] = self._arm(arm)
        return self._arms[arm]

    def _arm(self, arm: str) -> pl.DataFrame:
        found = self.done.filter(pl.col("arm") == arm)
        if arm == "sampled":
            found = found.filter(pl.col("method") == (self.sampler or ""))
        if arm == "ceiling":
            found = found.filter(
                pl.col("budget") == pl.col("budget").max().over("technique", "receiver", "receiver_task")
            )
            found = found.rename({"budget": "ceiling_steps"})
        kept = {"ceiling": (*KEYS["ceiling"], "ceiling_steps")}.get(arm, KEYS[arm])
        found = found.select(*kept, pl.col("row").alias(f"row_{arm}"))
        return found.unique(KEYS["bare"], keep="first", maintain_order=True) if arm == "bare" else found

    def pairs(self, rows: pl.DataFrame, group: Sequence[str], arms: Sequence[str]) -> Pairs:
        """Group rows (a row a seed, ``row_<arm>`` its K runs) and compute what each group says.

        Raises:
            BadRequest: runs of one group were tested on different numbers of items.

        """
        columns = [f"row_{arm}" for arm in arms]
        rows = rows.drop_nulls(columns)
        grouped = rows.group_by(*group, maintain_order=True).agg(*columns)
        sizes = grouped[columns[0]].list.len().to_numpy() if len(grouped) else np.zeros(0, np.int64)
        index = (
            np.stack([grouped[c].explode().to_numpy().astype(np.int64) for c in columns], -1) if len(grouped) else None
        )
        crossed, itemised = self._crossed(index, sizes.astype(np.int64), len(arms))
        return Pairs(grouped.drop(columns), crossed, itemised)

    def _crossed(self, index: Ints | None, sizes: Ints, arms: int) -> tuple[Crossed, npt.NDArray[np.bool_]]:
        """Of runs end to end, group after group (P, K), by groups of like shape."""
        groups, square = len(sizes), (len(sizes), arms, arms)
        out = Crossed(
            np.zeros((groups, arms)), np.zeros(square), np.zeros(square), np.zeros(square), sizes, np.zeros(groups, int)
        )
        itemised = np.zeros(groups, bool)
        if index is None:
            return out, itemised
        begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        n = self.counts[index]
        first = n[np.repeat(begins, sizes), 0]
        if (n != first[:, None]).any():
            raise BadRequest(
                "runs: expected as many test items in all runs of a receiver and task, got different numbers; "
                "test them on the same items"
            )
        held = np.logical_and.reduceat((self.begins[index] >= 0).all(1), begins)
        out.items[:], itemised[:] = n[begins, 0], held
        for s, items, of_kind in _alike(sizes, np.where(held, out.items, -1)):
            each = max(1, ITEMS_AT_ONCE // max(1, arms * s * max(1, items)))
            for part in (of_kind[at : at + each] for at in range(0, len(of_kind), each)):
                runs = index[begins[part, None] + np.arange(s)].swapaxes(1, 2)  # (G, K, S)
                _write(out, part, self._of_items(runs, items) if items >= 0 else self._of_means(runs, out.items[part]))
        return out, itemised

    def _of_items(self, runs: Ints, items: int) -> Crossed:
        return crossed_from_items(self.items[self.begins[runs][..., None] + np.arange(items)])

    def _of_means(self, runs: Ints, items: Ints) -> Crossed:
        return crossed_from_means(self.values[runs], self.item_variances[runs].mean(2), items)


def _alike(sizes: Ints, items: Ints) -> Iterator[tuple[int, int, Ints]]:
    """Groups of as many seeds and items, which are computed at once."""
    keys = (sizes << 32) + items + 1
    for key in [keys[0]] if keys.min() == keys.max() else np.unique(keys):
        yield int(key >> 32), int(key & 0xFFFFFFFF) - 1, np.flatnonzero(keys == key)


# What a run of an arm depends on: two runs that agree on it stand for one another in every setting.
_HERE = ("technique", "receiver", "receiver_task", "budget", "seed")
KEYS: dict[str, tuple[str, ...]] = {
    "ported": (*CELL, "budget", "seed"),
    "sampled": (*SETTING, "budget", "seed"),
    "scratch": _HERE,
    "ceiling": ("technique", "receiver", "receiver_task", "seed"),
    "bare": ("receiver", "receiver_task"),
}


def join(left: pl.DataFrame, arm: pl.DataFrame, name: str) -> pl.DataFrame:
    """Runs of ``left`` with the run of another arm that pairs with each; those without one are left out."""
    return left.join(arm, on=KEYS[name], how="inner", nulls_equal=True, maintain_order="left")


def plain(table: pl.DataFrame) -> pl.DataFrame:
    """Names as text again."""
    return table.with_columns(pl.col(pl.Categorical).cast(pl.String))


def _suspicious(indexed: pl.DataFrame) -> bool:
    return len(indexed.select(IDENTITY).unique()) < len(indexed)


def _write(out: Crossed, at: Ints, found: Crossed) -> None:
    for name in ("mean", "by_seed", "by_item", "rest"):
        getattr(out, name)[at] = getattr(found, name)


def _laid_out(runs: pl.DataFrame, correct: pl.DataFrame | None) -> tuple[npt.NDArray[np.uint8], Ints]:
    """Per-item results end to end, and where each run's begin."""
    begins = np.full(len(runs), -1, dtype=np.int64)
    if correct is None or not len(correct):
        return np.zeros(0, np.uint8), begins
    known = correct.join(runs.select("run", "row", "n_items", "value", "state"), on="run", how="inner")
    known = known.filter(pl.col("state") == "done")
    sizes = known["correct"].list.len().to_numpy().astype(np.int64)
    wrong = known.filter(
        (pl.col("correct").list.len() != pl.col("n_items"))
        | ((pl.col("correct").list.mean() - pl.col("value")).abs() > 1e-6)
    )
    if len(wrong):
        run, items, value = wrong.select("run", "n_items", "value").row(0)
        raise BadRequest(
            f"correct: run {run}: expected {items} items of accuracy {value:.6f} as in runs, got "
            f"{len(wrong['correct'][0])} of {wrong['correct'].list.mean()[0]:.6f}; export both tables from one ledger"
        )
    begins[known["row"].to_numpy()] = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(sizes) else begins[:0]
    return known["correct"].explode().cast(pl.UInt8).to_numpy(), begins
