"""A host's fingerprint: what must be equal for two hosts to be the same host, kept in every module.

It is read from the host's files: no model is built, tensors are mapped and hashed one by one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open

from peftport.errors import HostRefused
from peftport.identity import digest

TOKENIZER_FILES = (
    "tokenizer.json",
    "spiece.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)


class Fingerprint(BaseModel):
    """What a host is. ``architecture``: sha256 of its shaping settings; ``weights``: of all tensors, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    family: str
    model_type: str
    layers: int
    width: int
    architecture: str
    weights: str
    tokenizer: str

    def same_host(self, other: Fingerprint) -> bool:
        """Equal in everything but the name it goes by."""
        return self.model_copy(update={"name": other.name}) == other


def fingerprint(folder: Path, name: str, family: str) -> Fingerprint:
    """Fingerprint the host in ``folder``.

    Raises:
        HostRefused: a weight file is truncated or corrupt.

    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = weight_files(folder)
    shapes, weights = _hash_tensors(folder, names)
    return Fingerprint(
        name=name,
        family=family,
        model_type=str(config["model_type"]),
        layers=int(_first(config, "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers")),
        width=int(_first(config, "hidden_size", "d_model", "n_embd", "dim")),
        architecture=digest([config["model_type"], shapes]),
        weights=weights,
        tokenizer=_hash_files(folder),
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a host, sharded or not.

    Raises:
        HostRefused: there is none; pickled weights (``.bin``, ``.pt``) are never read.

    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if any(Path(shard).name != shard for shard in shards):
            raise HostRefused(f"{index}: expected file names inside the folder, got a path; refused for safety")
        return [folder / shard for shard in shards]
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    got = f"only pickled weights ({', '.join(pickled)}), which are never loaded" if pickled else "no weights"
    raise HostRefused(f"{folder}: expected model.safetensors, got {got}; save the model as safetensors first")


def _hash_tensors(folder: Path, files: list[Path]) -> tuple[list[Any], str]:
    rows: list[tuple[str, list[int], str]] = []
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                    tensor = tensors.get_tensor(name)
                    raw = tensor.contiguous().flatten().view(dtype=_byte()).numpy()
                    rows.append((name, list(tensor.shape), hashlib.sha256(raw).hexdigest()))
        except (SafetensorError, OSError) as error:
            raise HostRefused(
                f"{file}: expected a whole safetensors file, got one that is truncated or corrupt ({error}); "
                "fetch the host again"
            ) from error
    rows.sort()
    return [row[:2] for row in rows], digest([[name, sha] for name, _, sha in rows])


def _byte() -> Any:
    import torch

    return torch.uint8


def _hash_files(folder: Path) -> str:
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return digest([[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in found])


def _first(config: dict[str, Any], *names: str) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), 0)
