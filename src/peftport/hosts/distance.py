"""Measure how far apart the weights of two hosts are, reading their files tensor by tensor."""

from __future__ import annotations

import math
from pathlib import Path

from safetensors import safe_open

from peftport.core.progress import current
from peftport.hosts.fingerprint import weight_files


def weight_distance(origin: Path, receiver: Path) -> float | None:
    """Return ||W_t - W_s|| / ||W_s|| over all tensors of two host folders, or None where names or shapes differ.

    Raises:
        HostRefused: a folder has no safetensors weights.

    """
    theirs = _places(receiver)
    ours = _places(origin)
    if ours.keys() != theirs.keys():
        return None
    moved, norm = 0.0, 0.0
    advance = current().stage(f"measuring how far apart {origin.name} and {receiver.name} are", len(ours))
    for name, file in sorted(ours.items()):
        with safe_open(file, framework="pt") as origin_file, safe_open(theirs[name], framework="pt") as receiver_file:
            if origin_file.get_slice(name).get_shape() != receiver_file.get_slice(name).get_shape():
                return None
            old, new = origin_file.get_tensor(name), receiver_file.get_tensor(name)
            if old.is_floating_point():
                moved += float((new.double() - old.double()).square().sum())
                norm += float(old.double().square().sum())
        advance(1)
    return math.sqrt(moved / norm) if norm > 0 else None


def _places(folder: Path) -> dict[str, Path]:
    """Return the file of every tensor except position indices, which only some versions of transformers save."""
    files: dict[str, Path] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            files.update(dict.fromkeys(tensors.keys(), file))
    return {name: file for name, file in files.items() if not name.endswith("position_ids")}
