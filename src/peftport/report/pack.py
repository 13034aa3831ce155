"""Pack frames into a page, by column and compressed: texts as indices into a list of words, numbers rounded.

The script of the page unpacks them:

column = [number | null, ...]  or  {"words": [...], "codes": [index or -1, ...]}
packed = base64(zlib(json({frame: {"size": N, "columns": {name: column}}})))
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

from peftport.core.libraries import pl

DIGITS = 4
LEVEL = 6  # zlib: the next levels double the time for a hundredth of the size
TINY = 1e-3  # below it, four digits after the point would leave too little of a p-value


def packed(frames: Mapping[str, pl.DataFrame]) -> str:
    """Frames as text that needs no escaping anywhere in a page."""
    tables = (
        f'{json.dumps(name)}:{{"size":{frame.height},"columns":{_columns(frame)}}}' for name, frame in frames.items()
    )
    text = "{" + ",".join(tables) + "}"
    return base64.b64encode(zlib.compress(text.encode(), LEVEL)).decode("ascii")


def unpacked(text: str) -> dict[str, Any]:
    """The inverse of ``packed``, columns still coded."""
    frames: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text)))
    return frames


def script_json(value: Any) -> str:
    """JSON for a script block: no ``<`` in it, so no text can close the block or open another."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for character in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _columns(frame: pl.DataFrame) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{_column(frame[name])}" for name in frame.columns) + "}"


def _column(column: pl.Series) -> str:
    if column.dtype == pl.String:
        words = column.drop_nulls().unique(maintain_order=True)
        codes = pl.DataFrame({"word": column}).join(
            pl.DataFrame({"word": words, "code": range(len(words))}), on="word", how="left", maintain_order="left"
        )
        written = json.dumps(words.to_list(), ensure_ascii=False, separators=(",", ":"))
        return f'{{"words":{written},"codes":{_numbers(codes["code"].fill_null(-1))}}}'
    return _numbers(_rounded(column) if column.dtype == pl.Float64 else column)


def _rounded(column: pl.Series) -> pl.Series:
    small = (pl.col("x") != 0) & (pl.col("x").abs() < TINY)
    kept = pl.when(small).then(pl.col("x").round_sig_figs(3)).otherwise(pl.col("x").round(DIGITS))
    return pl.DataFrame({"x": column}).select(kept).to_series()


def _numbers(column: pl.Series) -> str:
    """Finite numbers, truths and nulls as a JSON list, without a Python object for each."""
    return f"[{column.cast(pl.String).fill_null('null').str.join(',').item() or ''}]"
