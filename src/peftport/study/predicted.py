"""Predictions and targets of any kind of task as named tensors, and back, to the bit.

    numbers (N, ...)      NAME                       as they are
    records (N,)          NAME/PLACE.FIELD           a tensor for each field, in the order of the fields
    texts (N,)            NAME.json                  the bytes of a JSON list, in UTF-8

A text may be a text, None, or a tuple of texts, such as several references. Predictions of a test are stored under
``JOB/predicted/BUDGET``; targets, which all tests of a stack share, once under ``targets``.

Shapes: N items.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
TARGETS, JSON = "targets", ".json"


def predicted_name(job: str, budget: int | str) -> str:
    """The name under which a job's predictions at a budget are stored."""
    return f"{job}/predicted/{budget}"


def is_of_predictions(name: str) -> bool:
    """Whether a tensor of an artifact belongs to predictions or targets."""
    return "/predicted/" in name or name.removesuffix(JSON) == TARGETS or name.startswith(f"{TARGETS}/")


def as_tensors(name: str, array: Array) -> dict[str, Array]:
    """An array (N, ...) as arrays of numbers by name."""
    if array.dtype.names is not None:
        fields = [as_tensors(f"{name}/{place}.{field}", array[field]) for place, field in enumerate(array.dtype.names)]
        return {key: value for each in fields for key, value in each.items()}
    if array.dtype == object:
        text = json.dumps(array.tolist(), ensure_ascii=False, separators=(",", ":"))
        return {f"{name}{JSON}": np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)}
    return {name: np.ascontiguousarray(array)}


def from_tensors(name: str, tensors: Mapping[str, Array]) -> Array | None:
    """The array that `as_tensors` stored under a name; None where there is none."""
    if name in tensors:
        return tensors[name]
    if f"{name}{JSON}" in tensors:
        return _texts(tensors[f"{name}{JSON}"])
    begin = f"{name}/"
    columns = {key.removeprefix(begin).partition("/")[0].removesuffix(JSON) for key in tensors if key.startswith(begin)}
    arrays = {}
    for key in sorted(columns, key=lambda each: int(each.partition(".")[0])):
        arrays[key.partition(".")[2]] = from_tensors(f"{begin}{key}", tensors)
    return _records({field: array for field, array in arrays.items() if array is not None})


def _texts(data: Array) -> Array:
    values = json.loads(data.tobytes().decode("utf-8", "surrogatepass"))
    array = np.empty(len(values), dtype=object)
    array[:] = [tuple(value) if isinstance(value, list) else value for value in values]
    return array


def _records(fields: Mapping[str, Array]) -> Array | None:
    if not fields:
        return None
    lengths = {len(array) for array in fields.values()}
    records = np.empty(lengths.pop(), dtype=[(field, array.dtype) for field, array in fields.items()])
    for field, array in fields.items():
        records[field] = array
    return records
