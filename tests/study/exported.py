"""What a study exported, in a form that equal studies share to the byte."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

CLOCKS = ("train_seconds", "test_seconds")


def tables_of(folder: Path) -> dict[str, bytes | str]:
    """The files as bytes: ``runs`` without clocks, ``study.json`` without clocks, command and machine."""
    runs = pl.read_parquet(folder / "runs.parquet").drop(CLOCKS)
    told = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    sums = {name: sha for name, sha in told.pop("tables").items() if name != "runs.parquet"}
    rest = {key: value for key, value in told.items() if key not in ("command", "machine", "worker_seconds")}
    files = [path for path in (folder / "correct.parquet", folder / "items.parquet") if path.exists()]
    found: dict[str, bytes | str] = {path.name: path.read_bytes() for path in files}
    return {**found, "runs": runs.write_json(), "study.json": json.dumps([rest, sums], indent=1)}
