from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest

Rows = list[dict[str, Any]]


def made_up_rows(n: int, seed: int = 0, words: int = 12) -> Rows:
    """n texts of random words, far from each other, with labels that alternate."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(f"w{number}" for number in rng.integers(0, 4000, words)) for _ in range(n)]
    return [{"text": text, "label": ("negative", "positive")[i % 2]} for i, text in enumerate(texts)]


@pytest.fixture
def rows() -> Rows:
    return made_up_rows(200)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    """Write rows under a name whose suffix says how, and return the path."""

    def write(rows: Rows, name: str = "reviews.csv") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        elif path.suffix == ".parquet":
            polars.DataFrame(rows).write_parquet(path)
        else:
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        return str(path)

    return write
