"""Refuse folders that are more than a plain host, which is weights that transformers' own code runs.

Otherwise transformers would follow the folder: it would put an adapter that lies there into the host, read weights of
another name, or fetch kernels and run them. The host would then differ from what its fingerprint describes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peftport.core.errors import HostRefused

WEIGHTS = "model.safetensors"
# Files that a training on several machines leaves; transformers reads them before anything else.
PIECES = re.compile(r"shard-[0-9]{5}-model-[0-9]{5}-of-[0-9]{5}\.safetensors")
KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


def check_plain(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a folder that contains or requires more than a plain host.

    Raises:
        HostRefused: the folder has its own code, kernels, an adapter, packed weights, or weights of another name.

    """
    path = folder / "config.json"
    if "auto_map" in config:
        raise HostRefused(
            f"{path}: this host asks for its own code to be run (auto_map), which peftport never does; "
            "use a host whose architecture transformers has"
        )
    _check_code(path, config)
    _check_weights(folder, config)


def _check_code(path: Path, config: Mapping[str, Any]) -> None:
    kernels = [f"{key} {value}" for key, value in _named(config, KERNELS) if "/" in value]
    if kernels:
        raise HostRefused(
            f"{path}: this host asks for a kernel to be fetched and run ({kernels[0]}), which peftport never does; "
            f"take that key out of config.json"
        )
    if config.get("fusion_config"):
        raise HostRefused(
            f"{path}: this host asks for its layers to be fused (fusion_config), expected them as they are; "
            "take that key out of config.json"
        )


def _check_weights(folder: Path, config: Mapping[str, Any]) -> None:
    path = folder / "config.json"
    packed = config.get("quantization_config") or config.get("compression_config")
    if packed:
        method = packed.get("quant_method") if isinstance(packed, dict) else None
        raise HostRefused(
            f"{path}: expected weights in full precision, got packed ones (quantization_config: "
            f"{method or 'of unknown method'}); give the base in full precision, which --load bits=4 or bits=8 packs"
        )
    named = config.get("transformers_weights")
    if named not in (None, WEIGHTS):
        raise HostRefused(
            f"{path}: expected weights in {WEIGHTS}, got the name of others (transformers_weights: {named}); "
            f"give those the name {WEIGHTS} and take that key out of config.json"
        )
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        raise HostRefused(
            f"{folder}: expected a host alone, got an adapter in the same folder, which transformers would load into "
            "the host; take adapter_config.json away, or give a folder that holds the host alone"
        )
    pieces = sorted(file.name for file in folder.iterdir() if PIECES.fullmatch(file.name))
    if pieces:
        raise HostRefused(
            f"{folder}: expected {WEIGHTS}, got pieces of a distributed checkpoint ({pieces[0]}), which transformers "
            "would read first; take them away, or save the host anew"
        )


def _named(config: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield each text that a config, or a config nested in it, has under these keys, together with its key."""
    for key, value in config.items():
        if key in keys:
            texts = value.values() if isinstance(value, dict) else [value]
            yield from ((key, text) for text in texts if isinstance(text, str))
        elif isinstance(value, dict):
            yield from _named(value, keys)
