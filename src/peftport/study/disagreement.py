"""Whether two folders have the same result of a job: the numbers of its rows, and the arrays of its artifacts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from safetensors import safe_open

from peftport.core.libraries import torch
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import JobRow
from peftport.study.packing import timeless

RESULTS = ("tests", "weights", "update", "learning_rate", "kind")  # of a row's metrics


@dataclass(frozen=True)
class Disagreement:
    """What differs first between two results of a job, and how it is in each."""

    name: str
    one: Any
    other: Any


def disagreement_of(one: JobRow, ours: Artifacts, other: JobRow, theirs: Artifacts) -> Disagreement | None:
    """Compare what both of two rows of a job say, and what both of their artifacts hold; None where that is the same.

    Rows that were taken from tables hold less, and so do rows of early versions.
    """
    left, right = (dict(_numbers(timeless(row.metrics))) for row in (one, other))
    for name, value in left.items():
        if value is not None and right.get(name) is not None and right[name] != value:
            return Disagreement(name, value, right[name])
    if one.artifact is None or other.artifact is None or one.artifact == other.artifact:
        return None
    with (
        safe_open(ours.path(one.artifact), framework="pt") as first,
        safe_open(theirs.path(other.artifact), framework="pt") as second,
    ):
        for name in sorted(set(first.keys()) & set(second.keys())):
            of_job = one.kind == "update" or name.startswith(f"{one.id}/")
            if of_job and not torch.equal(first.get_tensor(name), second.get_tensor(name)):
                short = name.removeprefix(f"{one.id}/")
                return Disagreement(short, f"artifact {one.artifact[:12]}", f"artifact {other.artifact[:12]}")
    return None


def _numbers(metrics: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in RESULTS:
        if key in metrics:
            yield from _flat(metrics[key], key)


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield name, value
        return
    for key, each in value.items():
        yield from _flat(each, f"{name} {key}")
