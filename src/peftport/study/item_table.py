"""The table ``items``: what every run said of every test item, so that users can pair runs over items themselves.

Columns (docs/study.md says them in full), a row for each run and test item, in the order of ``runs`` and of the split:

    run item        the key; items are counted from 0
    ...             what is right and what was predicted, in the columns of the kinds of the study's tasks (`COLUMNS`)
    accuracy ...    each metric that an item has by itself; the mean over a run's items is that column of ``runs``

Of classes ``label`` is the right one, counted from 0, null where an old artifact does not tell it, and ``scores`` the
score of each, (C,), higher is likelier.

A study may have a million runs: the table is made and written part by part, and read lazily.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from peftport.analysis.columns import FORMULA
from peftport.core.errors import PeftportError
from peftport.core.libraries import pl
from peftport.metrics import METRICS, metrics_of
from peftport.metrics.base import ANSWER, Metric
from peftport.metrics.texts import TextMetric
from peftport.store.artifacts import new_file
from peftport.store.held import hidden_folder
from peftport.store.ledger import JobRow
from peftport.study.items import CLASSES, StoredItems, StoredTest, kind_of_row
from peftport.tasks.kinds import KINDS
from peftport.tasks.kinds.classification import Scores
from peftport.tasks.spec import Predictions

NAME = "items"
ROWS_AT_ONCE = 200_000
ROUNDING = 1e-6
ANEW = "bring back what was written, or export the study anew"
KEY: dict[str, Any] = {"run": pl.String(), "item": pl.Int32()}
# By kind of task: what is right for an item, and what was predicted.
COLUMNS: dict[str, dict[str, Any]] = {
    CLASSES: {"label": pl.Int32(), "scores": pl.List(pl.Float32)},
    "multi_label": {"labels": pl.List(pl.Int32), "scores": pl.List(pl.Float32)},
    "regression": {"target": pl.Float64(), "predicted": pl.Float64()},
    "completion": {
        "references": pl.List(pl.String), "answer": pl.String(), "log_likelihood": pl.Float64(), "tokens": pl.Int32(),
    },
}  # fmt: skip
RIGHT = ("label", "labels", "target", "references", "tokens")  # what runs of one task have in common
ROUNDED = ("scores", "predicted", "log_likelihood")
WHOLE = ("accuracy", "answer")  # an item's, which differ wholly or not at all


def item_metrics(*kinds: str) -> list[str]:
    """The metrics that an item has by itself, of these kinds of task (none named: of classes)."""
    known = metrics_of(*(kinds or (CLASSES,)))
    return [name for name, metric in known.items() if type(metric).per_item is not Metric.per_item]


def item_columns(*kinds: str) -> dict[str, Any]:
    """The columns of the table and their types, for these kinds of task (none named: for classes)."""
    of_kinds = [COLUMNS.get(kind, {}) for kind in kinds or (CLASSES,)]
    predicted = {name: column for each in of_kinds for name, column in each.items()}
    return {**KEY, **predicted, **dict.fromkeys(item_metrics(*kinds), pl.Float64())}


def item_frames(
    runs: pl.DataFrame, rows: Mapping[str, JobRow], stored: StoredItems, rows_at_once: int = ROWS_AT_ONCE
) -> Iterator[pl.DataFrame]:
    """Yield the table in parts of about so many rows, of the runs that are done.

    Raises:
        PeftportError: an artifact is missing or corrupt.

    """
    held: list[tuple[str, StoredTest]] = []
    count = 0
    done = runs.filter(state="done").select("run", "job", "budget")
    columns = item_columns(*sorted({kind_of_row(rows[job]) for job in done["job"].unique()}))
    for run, job, budget in done.iter_rows():
        test = stored.test(rows[job], budget)
        held.append((run, test))
        count += len(test)
        if count >= rows_at_once:
            yield _frame(held, columns)
            held, count = [], 0
    if held:
        yield _frame(held, columns)


def write_items(frames: Iterator[pl.DataFrame], path: Path) -> Path:
    """Write the table to a .parquet, .csv or .jsonl file, part by part.

    In CSV scores and labels have spaces between, and references are a JSON list.
    """
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
                    texts = frame.with_columns(_as_text(name, kind) for name, kind in frame.schema.items())
                    words = [name for name, kind in frame.schema.items() if kind == pl.String]
                    texts = texts.with_columns(pl.col(words).str.replace(FORMULA, "'${0}"))
                    texts.write_csv(out, include_header=number == 0)
    return path


def read_items(path: Path) -> pl.LazyFrame:
    """Open a table that `write_items` wrote as Parquet. Metrics may be missing, as in tables of another version.

    Raises:
        PeftportError: it is not such a table.

    """
    try:
        table = pl.scan_parquet(path)
        schema = table.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        first = str(error).splitlines()[0]
        raise PeftportError(f"{path}: expected the items that study export wrote, got: {first}; {ANEW}") from error
    known = item_columns(*COLUMNS)
    wrong = any(column != known[name] for name, column in schema.items() if name in known)
    if wrong or not any(_needed(kind) <= schema.keys() for kind in COLUMNS):
        needed = ", or ".join(", ".join(each for each in known if each in _needed(kind)) for kind in COLUMNS)
        raise PeftportError(f"{path}: expected the columns {needed}, got {', '.join(schema)}; {ANEW}")
    return table


def _needed(kind: str) -> set[str]:
    return {*KEY, *COLUMNS[kind]} | ({"accuracy"} if kind == CLASSES else set())


def _as_text(name: str, kind: pl.DataType) -> pl.Expr:
    """A column as CSV has it."""
    if kind == pl.List(pl.String):
        as_json = pl.col(name).map_elements(lambda cell: json.dumps(list(cell), ensure_ascii=False), pl.String)
        return as_json.alias(name)
    return pl.col(name).cast(pl.List(pl.String)).list.join(" ") if isinstance(kind, pl.List) else pl.col(name)


def items_that_differ(ours: pl.DataFrame, theirs: pl.DataFrame, tolerance: int) -> bool:
    """Whether two tables of one run differ by more than rounding, or wholly in more than ``tolerance`` items.

    Answers are the same to the letter. Where items may differ, as on another processor, numbers are not compared.
    """
    known = [name for name in ours.columns if name in theirs.columns]
    if ours["item"].to_list() != theirs["item"].to_list():
        return True
    for name in (each for each in known if each in RIGHT):
        pairs = zip(ours[name].to_list(), theirs[name].to_list(), strict=True)
        if any(None not in pair and pair[0] != pair[1] for pair in pairs):
            return True
    if any(int(ours[name].ne_missing(theirs[name]).sum()) > tolerance for name in known if name in WHOLE):
        return True
    stored = [name for name in known if name in ROUNDED and theirs[name].null_count() < theirs.height]
    return tolerance == 0 and not all(_close(ours[name], theirs[name]) for name in stored)


def _close(ours: pl.Series, theirs: pl.Series) -> bool:
    left, right = (each.explode().to_numpy() if each.dtype == pl.List else each.to_numpy() for each in (ours, theirs))
    if len(left) != len(right):
        return False
    return bool(np.allclose(left, right, rtol=ROUNDING, atol=ROUNDING, equal_nan=True))


def _frame(tests: Sequence[tuple[str, StoredTest]], columns: Mapping[str, Any]) -> pl.DataFrame:
    """The rows of tests, in their order; what a kind of task does not have is null."""
    groups = [(kind, list(of_kind)) for kind, of_kind in groupby(tests, key=lambda each: each[1].kind)]
    frame = pl.concat([_of_kind(kind, of_kind) for kind, of_kind in groups], how="diagonal")
    return frame.with_columns(
        pl.lit(None, column).alias(name) for name, column in columns.items() if name not in frame.columns
    ).select(list(columns))


def _of_kind(kind: str, tests: Sequence[tuple[str, StoredTest]]) -> pl.DataFrame:
    counts = [len(test) for _, test in tests]
    predicted = [_predicted(test) for _, test in tests]
    values: dict[str, Any] = {
        "run": pl.Series([run for run, _ in tests]).gather(np.repeat(np.arange(len(tests)), counts)),
        "item": np.concatenate([np.arange(count) for count in counts]),
        **{name: pl.concat([columns[name] for columns in predicted]) for name in COLUMNS.get(kind, {})},
    }
    metrics = item_metrics(kind)
    for name in metrics:
        values[name] = np.concatenate([_values(METRICS[name], test) for _, test in tests])
    return pl.DataFrame(values).with_columns(pl.col(metrics).fill_nan(None)).cast(item_columns(kind))  # type: ignore[arg-type]


def _predicted(test: StoredTest) -> dict[str, pl.Series]:
    """What is right and what was predicted for each item, in the columns of the kind; null where it is not known."""
    values, right = test.values, None if test.predictions is None else test.predictions.targets
    if test.kind == CLASSES:
        labels = pl.Series([None] * len(test) if right is None else right, dtype=pl.Int32)
        return {"label": labels, "scores": _lists(values)}
    assert right is not None, "only old artifacts of classes lack what is right"
    if test.kind == "multi_label":
        return {"labels": pl.Series([np.flatnonzero(texts).tolist() for texts in right], dtype=pl.List(pl.Int32))} | {
            "scores": _lists(values)
        }
    if test.kind == "regression":
        return {"target": pl.Series(right), "predicted": pl.Series(values, dtype=pl.Float64)}
    if test.kind == "completion":
        return {
            "references": pl.Series([list(texts) for texts in right], dtype=pl.List(pl.String)),
            "answer": pl.Series(values["text"].tolist(), dtype=pl.String),
            "log_likelihood": pl.Series(np.ascontiguousarray(values["log_likelihood"])),
            "tokens": pl.Series(np.ascontiguousarray(values["tokens"])),
        }
    return {}


def predictions_of(kind: str, items: pl.DataFrame) -> Predictions | None:
    """The predictions of the items of one run, in their order; None where what is right is not known."""
    if kind == CLASSES:
        known = items["label"].null_count() == 0
        return Scores(_matrix(items["scores"]), items["label"].to_numpy().astype(np.int64)) if known else None
    if kind == "multi_label":
        scores = _matrix(items["scores"])
        right = np.zeros(scores.shape, dtype=np.int64)
        for row, labels in enumerate(items["labels"].to_list()):
            right[row, labels] = 1
        return KINDS[kind].predictions(scores, right)
    if kind == "regression":
        return KINDS[kind].predictions(items["predicted"].to_numpy(), items["target"].to_numpy())
    values, references = np.empty(items.height, ANSWER), np.empty(items.height, dtype=object)
    values["log_likelihood"], values["tokens"] = items["log_likelihood"].to_numpy(), items["tokens"].to_numpy()
    values["text"], references[:] = items["answer"].to_list(), [tuple(own) for own in items["references"].to_list()]
    return KINDS[kind].predictions(values, references)


def _matrix(lists: pl.Series) -> npt.NDArray[np.float32]:
    """Lists of equally many scores as (N, C)."""
    return np.array(lists.to_list(), dtype=np.float32)


def _lists(values: npt.NDArray[Any]) -> pl.Series:
    """Scores (N, C) as a list for each item; null where there are none."""
    if not values.shape[1]:
        return pl.Series([None] * len(values), dtype=pl.List(pl.Float32))
    return pl.Series(values.astype(np.float32)).arr.to_list()


def _values(metric: Metric, test: StoredTest) -> npt.NDArray[np.float64]:
    """A metric of each item, (N,); NaN where it is not known, or of answers where none was generated."""
    if test.correct is not None and metric.name == "accuracy":
        return test.correct.astype(np.float64)
    values = np.full(len(test), np.nan)
    per_item = None if test.predictions is None else metric.per_item(test.predictions)
    if per_item is not None:
        has = [text is not None for text in test.values["text"]] if isinstance(metric, TextMetric) else slice(None)
        values[has] = per_item
    return values


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
