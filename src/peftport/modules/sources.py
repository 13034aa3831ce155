"""Find the folder of a module by what the user calls it: a folder, one around it, or a hub id.

modules/lora                       a folder with a module in it
runs/sft                           a folder with one such folder in it, as a trainer leaves ``checkpoint-500``
org/name[@revision][/subfolder]    a module on the hub, downloaded unless it is in the cache
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from peftport.core.errors import ModuleRefused
from peftport.core.request import Place
from peftport.hosts.sources import told_by_hub
from peftport.modules.formats import native
from peftport.modules.formats.peft.shards import CONFIG
from peftport.modules.formats.tensors import printable

HUB_MODULE = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?P<inside>(?:/[\w.-]+)*)")
FILES = ["*.json", "*.safetensors", "*.bin"]  # pickled weights are named in the refusal, never loaded
MOST_NAMED = 6


def module_folder(place: Place) -> Path:
    """Return the folder of a module; one from the hub is downloaded first.

    What is wrong with a folder that has no module in it is for whoever reads it to say.

    Raises:
        ModuleRefused: the folder has several modules in it, or the hub cannot be reached or has no such module.

    """
    folder = Path(place)
    if os.path.isdir(folder):  # os.path returns False where pathlib raises, for a name that is too long
        return _inside(folder)
    named = HUB_MODULE.fullmatch(str(place))
    if named is None or not may_be_on_the_hub(place):
        return folder
    found = _download(str(place), named["id"], named["revision"], named["inside"].strip("/"))
    return _inside(found)


def may_be_on_the_hub(place: Place) -> bool:
    """Return whether this is the name of a module on the hub, and not of a place on this machine."""
    folder = Path(place)
    local = os.path.exists(folder) or os.path.isdir(folder.parent) or not {".", ".."}.isdisjoint(folder.parts)
    return HUB_MODULE.fullmatch(str(place)) is not None and not local


def _inside(folder: Path) -> Path:
    """Return the folder itself if it has a module, or the only folder in it that has one."""
    if _has_module(folder):
        return folder
    below = sorted((path for path in folder.iterdir() if path.is_dir() and _has_module(path)), key=_number)
    if len(below) > 1:
        names = ", ".join(printable(path.name) for path in below[:MOST_NAMED])
        more = ", ..." if len(below) > MOST_NAMED else ""
        raise ModuleRefused(
            f"{folder}: expected one module, got {len(below)} in it ({names}{more}); give one of them, such as "
            f"{below[-1]}"
        )
    return below[0] if below else folder


def _has_module(folder: Path) -> bool:
    return (folder / native.CARD).is_file() or (folder / CONFIG).is_file()


def _number(folder: Path) -> tuple[int, str]:
    """Sort checkpoints by their steps."""
    digits = re.search(r"(\d+)$", folder.name)
    return (int(digits[1]) if digits else -1, folder.name)


def _download(ref: str, name: str, revision: str | None, inside: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [f"{inside}/{pattern}" for pattern in FILES] if inside else FILES
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns)) / inside
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModuleRefused(
            f"{ref}: expected a module folder, or a module on the hub that can be reached, found no folder and got: "
            f"{told_by_hub(error)}; check the path, or the name and the network"
        ) from error
