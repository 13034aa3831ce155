"""Make artifacts that describe themselves: beside the arrays of a stack they hold the rows of its jobs, without times.

The description is one line of the file's own header (safetensors' metadata, under ``peftport``): what the jobs ran on
and what was measured. Times are left out, so that the same work gives the same bytes. A lost or damaged ledger is
restored from these descriptions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from peftport.core.hashing import canonical_json, digest
from peftport.core.libraries import safetensors_torch
from peftport.study.messages import Answer

if TYPE_CHECKING:
    from torch import Tensor

KEY, VERSION = "peftport", 1
TIMES = ("train_seconds_per_step", "test_seconds")


@dataclass(frozen=True)
class Described:
    """The description in an artifact: kind, metrics without times, and digest of the inputs of each of its jobs."""

    kind: str
    metrics: Mapping[str, dict[str, Any]]
    inputs_of: Mapping[str, str]
    inputs: Mapping[str, dict[str, Any]]


def pack(
    tensors: Mapping[str, Tensor], kind: str, answers: Iterable[Answer], more: Mapping[str, str] | None = None
) -> bytes:
    """Make the artifact of those jobs of a stack that succeeded; ``more`` is further metadata."""
    done = {answer.job: answer for answer in answers if answer.metrics is not None}
    sets = {digest(answer.inputs): answer.inputs for answer in done.values() if answer.inputs}
    told = {
        "version": VERSION,
        "kind": kind,
        "metrics": {job: timeless(answer.metrics) for job, answer in done.items()},
        "inputs_of": {job: digest(answer.inputs) for job, answer in done.items() if answer.inputs},
        "inputs": sets,
    }
    return _in_order(safetensors_torch.save(dict(tensors), {**(more or {}), KEY: canonical_json(told)}))


def described(path: Path) -> Described | None:
    """Read the description in an artifact; None for older versions, which have none, and for other files."""
    try:
        with safe_open(path, framework="np") as tensors:
            text = (tensors.metadata() or {}).get(KEY)
        told = json.loads(text) if text else {}
        if told.get("version") != VERSION:
            return None
        return Described(told["kind"], told["metrics"], told["inputs_of"], told["inputs"])
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError):
        return None


def timeless(metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return metrics without times, in the form that they have after a round trip through JSON."""
    return {key: value for key, value in (metrics or {}).items() if key not in TIMES}


def _in_order(data: bytes) -> bytes:
    """Return the same file with its metadata sorted by name, because safetensors writes it in any order."""
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:size])
    if len(header["__metadata__"]) < 2:
        return data
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[size:]
