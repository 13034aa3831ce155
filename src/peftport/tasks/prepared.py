"""A cache of built-in tasks whose splitting takes seconds: <cache>/tasks/NAME-KEY.parquet with NAME-KEY.json beside it.

The key is a hash of the raw file and of PREPARED_VERSION. The JSON carries the task's digest and is written last: what
does not add up to that digest is made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from peftport.core.hashing import digest
from peftport.tasks.sources import BuiltIn
from peftport.tasks.split import SPLITS, make_task
from peftport.tasks.task import Dropped, Split, Task

if TYPE_CHECKING:
    import polars

PREPARED_VERSION = 1  # raise it when reading, normalising, dropping or ordering changes


def built_in_task(built_in: BuiltIn) -> Task:
    """The task of a built-in, from the cache where it keeps one and it is whole.

    Raises TaskRefused if the texts are not installed or cannot be read.
    """
    if not built_in.prepared:
        return make_task(built_in.spec, built_in.items())
    raw = Path(built_in.place())
    with raw.open("rb") as file:
        source = hashlib.file_digest(file, "sha256").hexdigest()
    stem = _folder() / f"{built_in.spec.name}-{digest([PREPARED_VERSION, source])[:16]}"
    task = _read(stem, built_in)
    if task is None:
        task = make_task(built_in.spec, built_in.items())
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
            _write(stem, task)
    return task


def _folder() -> Path:
    from peftport.hosts.offline.catalogue import cache_dir

    return cache_dir() / "tasks"


def _read(stem: Path, built_in: BuiltIn) -> Task | None:
    """The cached task, or None if it is absent, damaged or of another wording."""
    import polars

    try:
        record = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        frame = polars.read_parquet(stem.with_suffix(".parquet"))
        parts = {name: _split(frame.filter(polars.col("split") == name)) for name in SPLITS}
        report = Dropped(**record["dropped"])
    except (OSError, ValueError, KeyError, TypeError, polars.exceptions.PolarsError):
        return None
    task = Task(built_in.spec, parts["train"], parts["valid"], parts["test"], report)
    return task if task.digest == record.get("digest") else None


def _split(frame: polars.DataFrame) -> Split:
    return Split(tuple(frame["id"]), tuple(frame["text"]), frame["label"].to_numpy())


def _write(stem: Path, task: Task) -> None:
    import polars

    stem.parent.mkdir(parents=True, exist_ok=True)
    parts = [(name, getattr(task, name)) for name in SPLITS]
    frame = polars.DataFrame(
        {
            "split": [name for name, part in parts for _ in range(len(part))],
            "id": [item_id for _, part in parts for item_id in part.ids],
            "text": [text for _, part in parts for text in part.texts],
            "label": [label for _, part in parts for label in part.targets.tolist()],
        }
    )
    record = {"digest": task.digest, "dropped": dataclasses.asdict(task.report)}
    temporary = stem.with_suffix(f".{os.getpid()}.tmp")
    try:
        frame.write_parquet(temporary)
        temporary.replace(stem.with_suffix(".parquet"))
        temporary.write_text(json.dumps(record), encoding="utf-8")
        temporary.replace(stem.with_suffix(".json"))
    finally:
        temporary.unlink(missing_ok=True)
