"""Find a host by what the user calls it: a folder, the name of an offline host, or a hub id ``org/name[@revision]``."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftport.core.errors import HostRefused, UnknownName, first_line
from peftport.core.guesses import ON_A_HUB
from peftport.hosts.offline.catalogue import offline_catalogue, offline_host_folder
from peftport.hosts.plain import check_plain

HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")
GGUF = ".gguf"
MODULE_FILES = ("module.json", "adapter_config.json")  # of peftport, and of PEFT and adapters
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]


@dataclass(frozen=True)
class Source:
    """A host on this machine: the name that users give it, and its folder."""

    name: str
    folder: Path


def find_host(ref: str) -> Source:
    """Return the folder of a host; if ``ref`` is a hub id that is not cached, the host is downloaded first.

    Raises:
        UnknownName: ``ref`` is neither a folder, nor an offline host, nor a hub id.
        HostRefused: the folder is not a transformers folder, or needs its own code to be run.

    """
    here = _host_here(ref)
    source = here or Source(ref, _download(ref))
    read_config(source.folder)
    return source


def check_host_name(ref: str) -> None:
    """Refuse what names no host, as `find_host` does, without downloading one.

    Raises:
        UnknownName: ``ref`` is neither a folder, nor an offline host, nor a hub id.
        HostRefused: the folder is not a transformers folder, or needs its own code to be run.

    """
    here = _host_here(ref)
    if here is not None:
        read_config(here.folder)


def _host_here(ref: str) -> Source | None:
    """The host of a folder or an offline host; None for a hub id."""
    if ref and os.path.isdir(ref):  # os.path returns False where pathlib raises, for a name that is too long
        return Source(Path(ref).resolve().name, Path(ref))
    if ref.lower().endswith(GGUF) and os.path.isfile(ref):
        raise _packed(ref)
    offline = offline_host_folder(ref)
    if offline is not None:
        return Source(ref, offline)
    if HUB_ID.match(ref) and not ref.startswith(("./", "../")):
        return None
    if ref in ON_A_HUB:
        raise UnknownName(f"unknown host {ref!r}: hubs have it as {ON_A_HUB[ref]!r}; give that name, or a local folder")
    raise UnknownName.of("host", ref, offline_catalogue().hosts, "or a local folder, or a hub id org/name[@revision]")


def hub_name(ref: str) -> str | None:
    """Return ``org/name`` of a host that is named by its hub id; None for a folder or an offline host."""
    return ref.partition("@")[0] if HUB_ID.match(ref) and not os.path.isdir(ref) else None


def read_config(folder: Path) -> dict[str, Any]:
    """Read the config.json of a host.

    Raises:
        HostRefused: it is missing, not JSON or has no model type, or the folder is more than a plain host.

    """
    path = folder / "config.json"
    if not path.is_file() and any(file.suffix.lower() == GGUF for file in folder.iterdir()):
        raise _packed(str(folder))
    if not path.is_file() and any((folder / name).is_file() for name in MODULE_FILES):
        raise HostRefused(
            f"{folder}: expected a base model's folder (with config.json), got a module's; name the base model that it "
            "is of here, and the module itself as the command's MODULE or --module"
        )
    if not path.is_file():
        raise HostRefused(
            f"{folder}: expected a transformers folder with config.json, found none; give the model's folder"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise HostRefused(f"{path}: expected JSON, got {error}; fetch the host again") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise HostRefused(f"{path}: expected a model_type, found none; a PEFT module is not a host")
    check_plain(folder, config)
    return config


def _packed(ref: str) -> HostRefused:
    return HostRefused(
        f"{ref}: expected a base in full precision (a transformers folder), got weights packed as GGUF; give the base "
        "that they were made of, which --load bits=4 or bits=8 packs"
    )


def _download(ref: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = ref.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise HostRefused(
            f"{ref}: expected a hub model that can be reached, got: {told_by_hub(error)}; check the name and the "
            "network, or use a local folder or an offline host (peftport hosts list)"
        ) from error


def told_by_hub(error: Exception) -> str:
    """Return in a few words why the hub gave nothing."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not isinstance(error, LocalEntryNotFoundError):
        return first_line(error)
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE=1 keeps the hub out, and it was not fetched before"
    return "the hub does not answer, and it was not fetched before"
