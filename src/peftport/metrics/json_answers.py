"""Answers that are to be JSON: how they are read, and the metrics json_valid and json_fields.

Both are defined only where every answered item has a reference that is a JSON object or array.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, ClassVar

from peftport.metrics.base import Floats, Predicted
from peftport.metrics.texts import TextMetric, answered, normalised

_FENCED = re.compile(r"```(?:json)?[ \t]*\r?\n(.*?)\r?\n?[ \t]*```", re.DOTALL | re.IGNORECASE)
_NONE = object()  # what a text that is not JSON is read as: null is a value


class _JsonMetric(TextMetric):
    """A metric of answers whose references are JSON objects or arrays."""

    needs: ClassVar[str] = "generated answers (--generate N) to references that are JSON objects or arrays"

    def per_item(self, predictions: Predicted) -> Floats | None:
        """The score of each item that has an answer; None where an item has no reference that is an object or array."""
        references = (texts for _, texts in answered(predictions))
        fits = all(any(_is_nested(read_json(text)) for text in texts) for texts in references)
        return super().per_item(predictions) if fits else None


class JsonValid(_JsonMetric):
    """1 for an answer that is one JSON value (RFC 8259) and nothing else, else 0.

    White space around it does not count, and a Markdown fence (three backticks, with or without ``json``) around the
    whole of it is read past; words before or after make it invalid, and so do NaN and Infinity, which are not JSON.
    """

    name, title = "json_valid", "valid JSON"

    def score(self, answer: str, references: tuple[str, ...]) -> float:
        """Whether the answer is JSON; the references do not matter."""
        return float(read_json(answer) is not _NONE)


class JsonFields(_JsonMetric):
    """The share of the reference's fields that the answer has with the same value.

    A field is a value that holds no others, found by the keys and places that lead to it. Numbers are equal by value,
    texts after `texts.normalised`, true and false are no numbers. What the answer has beside them does not count, and
    an answer that is not valid JSON has none. Of several references the best counts.
    """

    name, title = "json_fields", "JSON fields that match"

    def score(self, answer: str, references: tuple[str, ...]) -> float:
        """The best share over the references that are objects or arrays."""
        values = (read_json(reference) for reference in references)
        answered = dict(_fields(read_json(answer)))
        shares = [_share(dict(_fields(value)), answered) for value in values if _is_nested(value)]
        return max(shares, default=0.0)


def read_json(text: str) -> Any:
    """The value of a text that is JSON, perhaps in a Markdown fence; a value equal to nothing where it is not."""
    plain = text.strip()
    fenced = _FENCED.fullmatch(plain)
    try:
        return json.loads(
            fenced[1] if fenced else plain, parse_constant=_refuse, parse_float=Decimal, parse_int=Decimal
        )
    except (ValueError, ArithmeticError, RecursionError):
        return _NONE


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list)


def _fields(value: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value that holds no others, with the keys and places that lead to it; an empty object or array is one."""
    open_values: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while open_values:
        path, node = open_values.pop()
        if isinstance(node, dict) and node:
            open_values += [((*path, key), inner) for key, inner in node.items()]
        elif isinstance(node, list) and node:
            open_values += [((*path, place), inner) for place, inner in enumerate(node)]
        else:
            yield path, normalised(node) if isinstance(node, str) else node


def _share(wanted: dict[tuple[str | int, ...], Any], answered: dict[tuple[str | int, ...], Any]) -> float:
    return sum(_same(value, answered.get(path, _NONE)) for path, value in wanted.items()) / len(wanted)


def _same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and bool(left == right)
