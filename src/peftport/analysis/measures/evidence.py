"""A table of runs indexed for measures: which runs pair by seed, and what they scored, item by item if known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from peftport.analysis.measures.declared import Declared
from peftport.analysis.stats.crossed import Crossed, crossed_from_draws, crossed_from_items, crossed_from_means
from peftport.core.errors import BadRequest
from peftport.core.libraries import pl
from peftport.metrics import metric_named
from peftport.metrics.base import Metric, Predicted

SETTING = ("technique", "origin", "receiver", "origin_task", "receiver_task")  # what all arms of a question share
CELL = (*SETTING, "method")
NEEDED = (
    "run", *SETTING, "arm", "method", "budget", "seed", "state", "n_items", "steps", "train_seconds", "host_distance",
)  # fmt: skip
IDENTITY = (*CELL, "arm", "budget", "seed")
UNPAIRED, DRAWN = -1, -2  # in place of a number of items: only seeds are paired; items are resampled
ITEMS_AT_ONCE = 16_000_000  # per-item results in memory at a time
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """The results of G groups of seeds for K arms; ``table`` has one row per group, in the order of ``crossed``.

    ``itemised`` says whether there are per-item results for all runs of a group, (G,). ``runs`` are the rows of the
    paired runs in `Evidence.runs`, one group after the other, (P, K).
    """

    table: pl.DataFrame
    crossed: Crossed
    itemised: npt.NDArray[np.bool_]
    runs: Ints


@dataclass(frozen=True, eq=False)
class Evidence:
    """A table of runs, its per-item results if there are any, and how it is to be judged.

    Higher is better in all values, including those of items and draws: if lower values of the metric are better, their
    sign is turned (`as_scored` turns it back).
    """

    runs: pl.DataFrame
    declared: Declared
    items: npt.NDArray[np.uint8] | Floats = field(repr=False)  # per-item results of all runs, end to end
    begins: Ints = field(repr=False)  # where each run's items begin, (R,); -1: not held
    draws: Floats = field(repr=False)  # each run's values on resampled items, (R, B); NaN: not held
    tests: Mapping[str, Predicted] = field(repr=False)  # by run, the predictions that draws were made of
    _arms: dict[str, pl.DataFrame] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls,
        runs: pl.DataFrame,
        correct: pl.DataFrame | None = None,
        declared: Declared | None = None,
        *,
        items: pl.DataFrame | None = None,
        draws: Mapping[str, Floats] | None = None,
        tests: Mapping[str, Predicted] | None = None,
    ) -> Evidence:
        """Check and index a table of runs.

        Args:
            runs: one row for each run.
            correct: ``run`` and ``correct``, a list with a boolean for each test item: the items of ``accuracy``.
            declared: how the runs are judged.
            items: ``run``, ``metric`` and ``values``, a list with a number for each test item, of other metrics.
            draws: by run, the declared metric on resampled test items, (B,), if single items have no value.
            tests: by run, the predictions from which ``draws`` were made; a permutation test swaps them between arms.

        Without per-item results and draws, only seeds are paired.

        Raises:
            BadRequest: a column is missing, two rows are the same run, or the items do not agree with the runs.

        """
        declared = declared or Declared()
        needed = (*NEEDED, declared.metric)
        missing = [name for name in needed if name not in runs.columns]
        if missing:
            raise BadRequest(
                f"runs: expected columns {', '.join(needed)}, got none named {', '.join(missing)}; export the runs anew"
            )
        sign = 1 if metric_named(declared.metric).higher_is_better else -1
        names = [*SETTING, "method", "arm"]
        indexed = runs.with_columns(
            pl.col(names).cast(pl.String).cast(pl.Categorical), value=sign * pl.col(declared.metric).cast(pl.Float64)
        ).with_row_index("row")
        twice = indexed.filter(pl.struct(IDENTITY).is_duplicated()) if _suspicious(indexed) else indexed.clear()
        if len(twice):
            raise BadRequest(
                f"runs: expected one row for each cell, arm, budget and seed, got {', '.join(twice['run'][:2])} "
                "for one; leave one out"
            )
        values = _items_of(declared.metric, correct, items, sign)
        laid_out, drawn = _laid_out(indexed, declared.metric, values), _drawn(indexed, draws or {}, sign)
        return cls(indexed, declared, *laid_out, drawn, tests or {})

    @property
    def metric(self) -> Metric:
        """The metric that the runs are judged by."""
        return metric_named(self.declared.metric)

    def as_scored(self, values: Floats) -> Floats:
        """Values with the sign that the metric itself has."""
        return values if self.metric.higher_is_better else -values

    def as_scored_column(self, name: str) -> pl.Expr:
        """The column with the sign that the metric itself has."""
        return pl.col(name) if self.metric.higher_is_better else (-pl.col(name)).alias(name)

    @cached_property
    def done(self) -> pl.DataFrame:
        """The runs that finished with a value."""
        return self.runs.filter((pl.col("state") == "done") & pl.col("value").is_not_null())

    @cached_property
    def values(self) -> Floats:
        """The declared metric of every run, (R,); NaN where there is none."""
        return self.runs["value"].fill_null(float("nan")).to_numpy()

    @cached_property
    def item_variances(self) -> Floats:
        """The variance of each run's value over draws of as many items, (R,).

        For AUROC it follows Hanley & McNeil 1982, Radiology 143, with as many positives as negatives. Otherwise it is
        the largest variance of a mean of n values between the metric's bounds (Bhatia & Davis 2000, Am Math Mon 107),
        which for accuracies is the binomial variance.
        """
        v, n = self.as_scored(self.values), np.maximum(self.counts, 1)
        if self.declared.metric != "auroc":
            low, high = self.metric.bounds
            if not np.isfinite(high - low):
                raise BadRequest(
                    f"--metric {self.declared.metric}: expected its per-item results, as its values have no bounds to "
                    "tell how far they spread over test items, got tables without; export the study with --items, or "
                    "name a metric with bounds"
                )
            return np.maximum((v - low) * (high - v), 0.0) / n
        half = np.maximum(n / 2, 1)
        variance: Floats = (v * (1 - v) + (half - 1) * ((v / (2 - v) - v**2) + (2 * v**2 / (1 + v) - v**2))) / half**2
        return variance

    @cached_property
    def counts(self) -> Ints:
        """The number of test items of every run, (R,)."""
        return self.runs["n_items"].fill_null(0).cast(pl.Int64).to_numpy()

    @cached_property
    def sampler(self) -> str | None:
        """The sampler of the sampled arm that counts."""
        known = sorted(self.runs.filter(pl.col("arm") == "sampled")["method"].drop_nulls().unique().to_list())
        wanted = self.declared.sampler
        if wanted is not None and wanted not in known:
            raise BadRequest(f"sampler: expected one of {', '.join(known) or 'none run'}, got {wanted!r}; name another")
        return wanted or ("gaussian" if "gaussian" in known else next(iter(known), None))

    @cached_property
    def opponents(self) -> tuple[str, ...]:
        """The arms that the ported one is compared with, as far as they were run; further samplers are named."""
        sampled = self.done.filter(pl.col("arm") == "sampled")["method"].drop_nulls().unique().cast(pl.String).sort()
        further = [f"{FURTHER}{name}" for name in sampled if name != self.sampler]
        return tuple(arm for arm in ("sampled", *further, "shuffled", "scratch", "bare") if self.arm(arm).height)

    @cached_property
    def planned(self) -> pl.DataFrame:
        """Every cell and budget of the ported arm, finished or not, with the number of its seeds, in order."""
        ported = self.runs.filter(pl.col("arm") == "ported")
        counted = ported.group_by(*CELL, "budget").agg(pl.col("seed").n_unique().alias("planned"))
        return counted.sort(*CELL, "budget", nulls_last=True)

    def arm(self, arm: str) -> pl.DataFrame:
        """The finished runs of one arm, keyed by the factors that it depends on, with their row as ``row_<arm>``.

        Of a ceiling, only its longest training counts. The bare host has neither seed nor budget. ``sampled`` is by the
        sampler that counts; ``sampled by X`` by another.
        """
        if arm not in self._arms:
            self._arms[arm] = self._arm(arm)
        return self._arms[arm]

    def _arm(self, arm: str) -> pl.DataFrame:
        key = key_of(arm)
        runs = self.done.filter(pl.col("arm") == ("sampled" if arm.startswith(FURTHER) else arm))
        if runs.height and arm.startswith("sampled"):
            sampler = (self.sampler or "") if arm == "sampled" else arm.removeprefix(FURTHER)
            runs = runs.filter(pl.col("method") == sampler)
        if arm == "ceiling":
            runs = runs.filter(
                pl.col("budget") == pl.col("budget").max().over("technique", "receiver", "receiver_task")
            )
            runs = runs.rename({"budget": "ceiling_steps"})
        kept = (*key, "ceiling_steps") if arm == "ceiling" else key
        runs = runs.select(*kept, pl.col("row").alias(f"row_{arm}"))
        return runs.unique(KEYS["bare"], keep="first", maintain_order=True) if arm == "bare" else runs

    def pairs(self, rows: pl.DataFrame, group: Sequence[str], arms: Sequence[str]) -> Pairs:
        """Group rows (one for each seed, with its K runs as ``row_<arm>``) and compute the results of each group.

        Raises:
            BadRequest: runs of one group were tested on different numbers of items.

        """
        columns = [f"row_{arm}" for arm in arms]
        rows = rows.drop_nulls(columns)
        grouped = rows.group_by(*group, maintain_order=True).agg(*columns)
        sizes = grouped[columns[0]].list.len().to_numpy() if len(grouped) else np.zeros(0, np.int64)
        index = (
            np.stack([grouped[c].explode().to_numpy().astype(np.int64) for c in columns], -1)
            if len(grouped)
            else np.zeros((0, len(columns)), np.int64)
        )
        crossed, itemised = self._crossed(index, sizes.astype(np.int64), len(arms))
        return Pairs(grouped.drop(columns), crossed, itemised, index)

    def _crossed(self, index: Ints, sizes: Ints, arms: int) -> tuple[Crossed, npt.NDArray[np.bool_]]:
        """Compute the groups' results from their runs (P, K), one group after the other; equal shapes at once."""
        groups, square = len(sizes), (len(sizes), arms, arms)
        out = Crossed(
            np.zeros((groups, arms)), np.zeros(square), np.zeros(square), np.zeros(square), sizes, np.zeros(groups, int)
        )
        itemised = np.zeros(groups, bool)
        if not len(index):
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
        drawn = np.logical_and.reduceat(np.isfinite(self.draws[index]).all((1, 2)), begins) & bool(self.draws.shape[1])
        out.items[:], itemised[:] = n[begins, 0], held | drawn
        for s, items, of_kind in _alike(sizes, np.where(held, out.items, np.where(drawn, DRAWN, UNPAIRED))):
            each = max(1, ITEMS_AT_ONCE // max(1, arms * s * max(1, items)))
            for part in (of_kind[at : at + each] for at in range(0, len(of_kind), each)):
                runs = index[begins[part, None] + np.arange(s)].swapaxes(1, 2)  # (G, K, S)
                computed = self._of_items(runs, items) if items >= 0 else self._of_means(runs, out.items[part], items)
                _write(out, part, computed)
        return out, itemised

    def _of_items(self, runs: Ints, items: int) -> Crossed:
        return crossed_from_items(self.items[self.begins[runs][..., None] + np.arange(items)])

    def _of_means(self, runs: Ints, items: Ints, kind: int) -> Crossed:
        if kind == DRAWN:
            return crossed_from_draws(self.values[runs], self.draws[runs], items)
        return crossed_from_means(self.values[runs], self.item_variances[runs].mean(2), items)


def _alike(sizes: Ints, items: Ints) -> Iterator[tuple[int, int, Ints]]:
    """Groups with the same numbers of seeds and items, which are computed at once."""
    keys = (sizes << 32) + items + 2
    for key in [keys[0]] if keys.min() == keys.max() else np.unique(keys):
        yield int(key >> 32), int(key & 0xFFFFFFFF) - 2, np.flatnonzero(keys == key)


# The factors that a run of an arm depends on: runs that agree on them are the same run in every setting.
_HERE = ("technique", "receiver", "receiver_task", "budget", "seed")
KEYS: dict[str, tuple[str, ...]] = {
    "ported": (*CELL, "budget", "seed"),
    "sampled": (*SETTING, "budget", "seed"),
    "shuffled": (*CELL, "budget", "seed"),
    "scratch": _HERE,
    "ceiling": ("technique", "receiver", "receiver_task", "seed"),
    "home": ("technique", "receiver", "receiver_task", "seed"),
    "bare": ("receiver", "receiver_task"),
}
FURTHER = "sampled by "
SAME, CROSS = "same-task", "cross-task"
# Whether a module is tested on the task that it was trained for; where its origin's task is not known, it is.
RELATION = (
    pl.when(pl.col("origin_task").is_null() | (pl.col("origin_task") == pl.col("receiver_task")))
    .then(pl.lit(SAME))
    .otherwise(pl.lit(CROSS))
)


def relations(table: pl.DataFrame) -> list[str]:
    """Which of the two relations of tasks the cells of a table have."""
    found = set(table.select(RELATION).to_series().to_list())
    return [relation for relation in (SAME, CROSS) if relation in found]


def key_of(arm: str) -> tuple[str, ...]:
    """The factors that a run of an arm depends on."""
    return KEYS["sampled" if arm.startswith(FURTHER) else arm]


def join(left: pl.DataFrame, arm: pl.DataFrame, name: str) -> pl.DataFrame:
    """The runs of ``left``, each with its paired run of another arm; those without one are left out."""
    return left.join(arm, on=key_of(name), how="inner", nulls_equal=True, maintain_order="left")


def plain(table: pl.DataFrame) -> pl.DataFrame:
    """The table with its names as text instead of categories."""
    return table.with_columns(pl.col(pl.Categorical).cast(pl.String))


def _suspicious(indexed: pl.DataFrame) -> bool:
    return len(indexed.select(IDENTITY).unique()) < len(indexed)


def _write(out: Crossed, at: Ints, part: Crossed) -> None:
    for name in ("mean", "by_seed", "by_item", "rest"):
        getattr(out, name)[at] = getattr(part, name)


def _items_of(metric: str, correct: pl.DataFrame | None, items: pl.DataFrame | None, sign: int) -> pl.DataFrame | None:
    """The per-item results of one metric as ``run`` and ``values``."""
    if metric == "accuracy":
        return None if correct is None else correct.select("run", values=pl.col("correct"))
    if items is None:
        return None
    return items.filter(metric=metric).select("run", values=pl.col("values").list.eval(sign * pl.element()))


def _drawn(runs: pl.DataFrame, draws: Mapping[str, Floats], sign: int) -> Floats:
    """The draws of every run, (R, B)."""
    drawn = np.full((len(runs), max(map(len, draws.values()), default=0)), np.nan)
    for row, run in enumerate(runs["run"]) if draws else ():
        drawn[row] = sign * draws[run] if run in draws else np.nan
    return drawn


def _laid_out(
    runs: pl.DataFrame, metric: str, items: pl.DataFrame | None
) -> tuple[npt.NDArray[np.uint8] | Floats, Ints]:
    """The per-item results of all runs in one array, and the position where those of each run begin."""
    begins = np.full(len(runs), -1, dtype=np.int64)
    if items is None or not len(items):
        return np.zeros(0, np.uint8), begins
    known = items.join(runs.select("run", "row", "n_items", "value", "state"), on="run", how="inner")
    known = known.filter(pl.col("state") == "done")
    sizes = known["values"].list.len().to_numpy().astype(np.int64)
    wrong = known.filter(
        (pl.col("values").list.len() != pl.col("n_items"))
        | ((pl.col("values").list.mean() - pl.col("value")).abs() > 1e-6)
    )
    if len(wrong):
        run, count, value = wrong.select("run", "n_items", "value").row(0)
        raise BadRequest(
            f"{'correct' if metric == 'accuracy' else 'items'}: run {run}: expected {count} items of {metric} "
            f"{value:.6f} as in runs, got {len(wrong['values'][0])} of {wrong['values'].list.mean()[0]:.6f}; export "
            "both tables from one ledger"
        )
    begins[known["row"].to_numpy()] = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(sizes) else begins[:0]
    kind = pl.UInt8 if metric == "accuracy" else pl.Float64
    return known["values"].explode().cast(kind).to_numpy(), begins
