"""Frames into a page: columns, text as codes into a word list, numbers rounded, compressed. The page's script unpacks.

column = [number | null, ...]  or  {"words": [...], "codes": [index or -1, ...]}
packed = base64(zlib(json({frame: {"size": N, "columns": {name: column}}})))
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

import polars as pl

DIGITS = 4
TINY = 1e-3  # below it, four digits after the point would leave too little of a p-value


def packed(frames: Mapping[str, pl.DataFrame]) -> str:
    """Frames as text that needs no escaping anywhere in a page."""
    tables = {name: {"size": frame.height, "columns": _columns(frame)} for name, frame in frames.items()}
    text = json.dumps(tables, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


def unpacked(text: str) -> dict[str, Any]:
    """The inverse of ``packed``, columns still coded."""
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text)))
    return found


def script_json(value: Any) -> str:
    """JSON for a script block: no ``<`` in it, so no text can close the block or open another."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for character in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _columns(frame: pl.DataFrame) -> dict[str, Any]:
    return {name: _column(frame[name]) for name in frame.columns}


def _column(column: pl.Series) -> Any:
    if column.dtype == pl.String:
        words = column.drop_nulls().unique(maintain_order=True)
        codes = pl.DataFrame({"word": column}).join(
            pl.DataFrame({"word": words, "code": range(len(words))}), on="word", how="left", maintain_order="left"
        )
        return {"words": words.to_list(), "codes": codes["code"].fill_null(-1).to_list()}
    if column.dtype == pl.Float64:
        small = (column != 0) & (column.abs() < TINY)
        kept = pl.DataFrame({"x": column, "small": small}).select(
            pl.when("small").then(pl.col("x").round_sig_figs(3)).otherwise(pl.col("x").round(DIGITS))
        )
        return kept.to_series().to_list()
    return column.to_list()
