"""The fingerprint of a host, which every module records: two hosts are the same if their fingerprints are equal.

A fingerprint is computed from the files that transformers would load. No model is built; tensors are memory-mapped and
hashed one by one.

    version 1    weights, shapes, and the bytes of the vocabulary files; in modules made before version 2
    version 2    also the settings that change numbers, and everything that turns texts into ids

New fingerprints have version 2 and contain the parts of version 1 too, so that they can be compared with old ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue
from safetensors import SafetensorError

from peftport.core.errors import HostRefused, first_line
from peftport.core.hashing import digest
from peftport.core.numbers import stored_in
from peftport.core.progress import current
from peftport.hosts.settings import raw_settings, settings_in, unlike
from peftport.hosts.tokens import tokenizer_digest, vocabulary_digest

MEGABYTE = 10**6
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Buffers that older versions saved with the weights: some contain -inf on purpose, and none of them is used.
BUFFERS = (".bias_mask", ".masked_bias", ".attn.bias", ".position_ids", ".inv_freq")
ALIKE = ("family", "model_type", "layers", "width", "architecture", "weights")
WORDS = {"model_type": "model type", "architecture": "shapes of tensors"}


class Fingerprint(BaseModel):
    """Everything that identifies a host.

    Attributes:
        architecture: sha256 of the names and shapes of all tensors.
        weights: sha256 of the bytes of all tensors, by name.
        tokenizer: sha256 of the bytes of the vocabulary files.
        settings: the settings in ``config.json`` that change numbers and are not the family's defaults.
        config: sha256 of the same settings as the file writes them.
        ids: sha256 of everything that turns texts into ids, and of the chat template.

    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: Literal[1, 2] = 1
    name: str
    family: str
    model_type: str
    layers: int
    width: int
    architecture: str
    weights: str
    tokenizer: str
    settings: dict[str, JsonValue] = {}
    config: str = ""
    ids: str = ""

    def same_host(self, other: Fingerprint) -> bool:
        """Return whether everything but the name is equal, as far as the older of the two fingerprints records it."""
        return not self.differences(other)

    def differences(self, other: Fingerprint, *, tokenizer: bool = True) -> list[str]:
        """Name the parts in which two hosts differ, such as ``weights``, ``settings (rms_norm_eps 1e-05 and ...)``.

        With ``tokenizer`` False, differences in what turns texts into ids are ignored.
        """
        parts = [WORDS.get(part, part) for part in ALIKE if getattr(self, part) != getattr(other, part)]
        by_files = 1 in (self.version, other.version)
        if not by_files and self.config != other.config:
            keys = unlike(self.settings, other.settings)
            parts += [f"settings ({', '.join(keys)})"] if keys else []
        if tokenizer and (self.tokenizer != other.tokenizer if by_files else self.ids != other.ids):
            parts.append("tokenizer")
        return parts

    def told_from(self, other: Fingerprint) -> str:
        """Describe the difference of two hosts for an error message, such as ``different weights and tokenizer``."""
        *first, last = self.differences(other) or ["name"]
        return f"different {', '.join(first)} and {last}" if first else f"different {last}"


def fingerprint(folder: Path, name: str, family: str) -> Fingerprint:
    """Compute the fingerprint of the host in ``folder``.

    Raises:
        HostRefused: a weight file is truncated, corrupt or not finite, or its settings or tokenizer cannot be read.

    """
    try:
        return _fingerprint(folder, name, family)
    except (ValueError, TypeError, KeyError) as error:
        raise unlike_transformers(name, error) from error


def unlike_transformers(name: str, error: Exception) -> HostRefused:
    """Return the refusal of a folder whose files have another form than transformers gives them."""
    return HostRefused(
        f"{name}: expected config.json and an index of weights as transformers writes them, "
        f"got: {first_line(error)}; fetch the host again"
    )


def _fingerprint(folder: Path, name: str, family: str) -> Fingerprint:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shapes, weights = _hash_tensors(weight_files(folder))
    return Fingerprint(
        version=2,
        name=name,
        family=family,
        model_type=str(config["model_type"]),
        layers=int(_first(config, "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers")),
        width=int(_first(config, "hidden_size", "d_model", "n_embd", "dim", "n_embed")),
        architecture=digest([config["model_type"], shapes]),
        weights=weights,
        tokenizer=vocabulary_digest(folder),
        settings=settings_in(folder),
        config=raw_settings(config),
        ids=_ids(folder, name),
    )


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers loads for a host, sharded or not.

    Raises:
        HostRefused: there are none, or several sets. Pickled weights (``.bin``, ``.pt``) are never read.

    """
    single, index = folder / SINGLE, folder / INDEX
    shards = _shards(index) if index.is_file() else []
    if single.is_file() and shards not in ([], [single]):
        raise HostRefused(
            f"{folder}: expected one set of weights, got two: {SINGLE}, which transformers would read, and {INDEX} "
            f"with {len(shards)} other files; take away the one that is not this host's"
        )
    if shards:
        return shards
    if single.is_file():
        return [single]
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    actual = f"only pickled weights ({', '.join(pickled)}), which are never loaded" if pickled else "no weights"
    raise HostRefused(f"{folder}: expected {SINGLE}, got {actual}; save the model as safetensors first")


def _shards(index: Path) -> list[Path]:
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    if any(Path(name).name != name for name in names):
        raise HostRefused(f"{index}: expected file names inside the folder, got a path; refused for safety")
    return [index.parent / name for name in names]


def _hash_tensors(files: list[Path]) -> tuple[list[Any], str]:
    """Return the names and shapes of all tensors, and a digest of their bytes."""
    rows: list[tuple[str, list[int], str]] = []
    size = sum(file.stat().st_size for file in files if file.is_file())
    advance = current().stage(f"hashing the weights of {files[0].parent.name} (MB)", size // MEGABYTE)
    done = 0

    def read(size_bytes: int) -> None:
        nonlocal done
        before, done = done, done + size_bytes
        advance(done // MEGABYTE - before // MEGABYTE)

    for file in files:
        try:
            rows += _hashed(file, read)
        except (SafetensorError, OSError) as error:
            raise HostRefused(
                f"{file}: expected a whole safetensors file, got one that is truncated or corrupt ({error}); "
                "fetch the host again"
            ) from error
    read(max(0, size - done))  # the headers
    rows.sort()
    twice = [entry[0] for entry, after in zip(rows, rows[1:], strict=False) if entry[0] == after[0]]
    if twice:
        raise HostRefused(
            f"{files[0].parent}: expected each tensor in one file, got {twice[0]} in two; save the host anew"
        )
    return [row[:2] for row in rows], digest([[name, sha] for name, _, sha in rows])


def _hashed(file: Path, read: Callable[[int], None]) -> Iterator[tuple[str, list[int], str]]:
    for tensor in stored_in(file):
        if not tensor.name.endswith(BUFFERS) and (fault := tensor.not_finite()):
            raise HostRefused(f"{file}: {tensor.name}: expected finite numbers, got {fault}; fetch the host again")
        yield tensor.name, list(tensor.shape), hashlib.sha256(tensor.raw).hexdigest()
        read(len(tensor.raw))


def _ids(folder: Path, name: str) -> str:
    try:
        return tokenizer_digest(folder)
    except (ValueError, OSError) as error:
        raise HostRefused(f"{name}: expected a tokenizer in its folder, got: {error}; add tokenizer.json") from error


def _first(config: dict[str, Any], *names: str) -> Any:
    found = next((config[name] for name in names if config.get(name) is not None), None)
    texts = config.get("text_config")  # of models of texts and images
    return found if found is not None else _first(texts, *names) if isinstance(texts, dict) else 0
