"""The table ``items``: what every run said of every test item, so that users can pair runs over items themselves.

Columns (docs/study.md says them in full), a row for each run and test item, in the order of ``runs`` and of the split:

    run item        the key; items are counted from 0
    label           the right class, counted from 0; null where an old artifact does not tell it
    scores          the score of each class, (C,), higher is likelier
    accuracy ...    each metric that an item has by itself; the mean over a run's items is that column of ``runs``

A study may have a million runs: the table is made and written part by part, and read lazily.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from polars.exceptions import PolarsError

from peftport.analysis.columns import FORMULA
from peftport.core.errors import PeftportError
from peftport.metrics import METRICS
from peftport.metrics.base import Metric
from peftport.store.artifacts import new_file
from peftport.store.held import hidden_folder
from peftport.store.ledger import JobRow
from peftport.study.items import StoredItems, StoredTest

NAME = "items"
ROWS_AT_ONCE = 200_000
ROUNDING = 1e-6
ANEW = "bring back what was written, or export the study anew"


def item_metrics() -> list[str]:
    """The metrics that an item has by itself."""
    return [name for name, metric in METRICS.items() if type(metric).per_item is not Metric.per_item]


def item_columns() -> dict[str, Any]:
    """The columns of the table and their types."""
    first = {"run": pl.String(), "item": pl.Int32(), "label": pl.Int32(), "scores": pl.List(pl.Float32)}
    return {**first, **dict.fromkeys(item_metrics(), pl.Float64())}


def item_frames(
    runs: pl.DataFrame, rows: Mapping[str, JobRow], stored: StoredItems, rows_at_once: int = ROWS_AT_ONCE
) -> Iterator[pl.DataFrame]:
    """Yield the table in parts of about so many rows, of the runs that are done.

    Raises:
        PeftportError: an artifact is missing or corrupt.

    """
    held: list[tuple[str, StoredTest]] = []
    count = 0
    for run, job, budget in runs.filter(state="done").select("run", "job", "budget").iter_rows():
        test = stored.test(rows[job], budget)
        held.append((run, test))
        count += len(test.correct)
        if count >= rows_at_once:
            yield _frame(held)
            held, count = [], 0
    if held:
        yield _frame(held)


def write_items(frames: Iterator[pl.DataFrame], path: Path) -> Path:
    """Write the table to a .parquet, .csv or .jsonl file, part by part; in CSV the scores have spaces between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as file:
        if path.suffix == ".parquet":
            _write_parquet(frames, file)
            return path
        with file.open("wb") as out:
            for number, frame in enumerate(frames):
                if path.suffix == ".jsonl":
                    frame.write_ndjson(out)
                else:
                    texts = frame.with_columns(pl.col("scores").cast(pl.List(pl.String)).list.join(" "))
                    texts = texts.with_columns(pl.col("run").str.replace(FORMULA, "'${0}"))
                    texts.write_csv(out, include_header=number == 0)
    return path


def read_items(path: Path) -> pl.LazyFrame:
    """Open a table that `write_items` wrote as Parquet. Metrics may be missing, as in tables of another version.

    Raises:
        PeftportError: it is not such a table.

    """
    try:
        found = pl.scan_parquet(path)
        schema = found.collect_schema()
    except (PolarsError, OSError) as error:
        first = str(error).splitlines()[0]
        raise PeftportError(f"{path}: expected the items that study export wrote, got: {first}; {ANEW}") from error
    known = item_columns()
    needed = ["run", "item", "label", "scores", "accuracy"]
    if any(schema.get(name) != known[name] for name in needed):
        raise PeftportError(f"{path}: expected the columns {', '.join(needed)}, got {', '.join(schema)}; {ANEW}")
    return found


def items_that_differ(ours: pl.DataFrame, theirs: pl.DataFrame, tolerance: int) -> bool:
    """Whether two tables of one run differ by more than rounding, or by more than ``tolerance`` right items.

    Where items may differ, as on another processor, scores are not compared.
    """
    if ours["item"].to_list() != theirs["item"].to_list():
        return True
    if not (ours["label"] == theirs["label"]).fill_null(True).all():
        return True
    if int((ours["accuracy"] != theirs["accuracy"]).sum()) > tolerance:
        return True
    return tolerance == 0 and not _close(ours["scores"], theirs["scores"])


def _close(ours: pl.Series, theirs: pl.Series) -> bool:
    one, other = (each.explode().to_numpy() for each in (ours, theirs))
    return len(one) == len(other) and bool(np.allclose(one, other, rtol=ROUNDING, atol=ROUNDING))


def _frame(tests: Sequence[tuple[str, StoredTest]]) -> pl.DataFrame:
    counts = [len(test.correct) for _, test in tests]
    values: dict[str, Any] = {
        "run": pl.Series([run for run, _ in tests]).gather(np.repeat(np.arange(len(tests)), counts)),
        "item": np.concatenate([np.arange(count) for count in counts]),
        "label": np.concatenate([_labels(test) for _, test in tests]),
        "scores": pl.concat([_lists(test.values) for _, test in tests]),
    }
    for name in item_metrics():
        values[name] = np.concatenate([_values(METRICS[name], test) for _, test in tests])
    frame = pl.DataFrame(values).with_columns(pl.col("label", *item_metrics()).fill_nan(None))
    return frame.cast(item_columns())  # type: ignore[arg-type]


def _lists(values: npt.NDArray[Any]) -> pl.Series:
    """Scores (N, C) as a list for each item."""
    return pl.Series(values.astype(np.float32)).arr.to_list()


def _labels(test: StoredTest) -> npt.NDArray[np.float64]:
    """The right classes, (N,); NaN where they are not known."""
    if test.scores is None:
        return np.full(len(test.correct), np.nan)
    return test.scores.labels.astype(np.float64)


def _values(metric: Metric, test: StoredTest) -> npt.NDArray[np.float64]:
    """A metric of each item, (N,); NaN where it is not known."""
    if metric.name == "accuracy":
        return test.correct.astype(np.float64)
    found = None if test.scores is None else metric.per_item(test.scores)
    return np.full(len(test.correct), np.nan) if found is None else np.asarray(found, np.float64)


def _write_parquet(frames: Iterator[pl.DataFrame], file: Path) -> None:
    """Write the parts beside the file, then all of them as one, without holding them in memory."""
    with hidden_folder(file) as parts:
        number = -1
        for number, frame in enumerate(frames):
            frame.write_parquet(parts / f"{number:08}.parquet")
        if number < 0:
            pl.DataFrame(schema=item_columns()).write_parquet(file)
            return
        pl.scan_parquet(parts / "*.parquet").sink_parquet(file, compression="zstd", compression_level=9)
