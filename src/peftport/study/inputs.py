"""Record and compare the inputs of jobs: hosts, tasks and library versions. A study never mixes different ones.

The inputs of a job are a flat table that its row refers to: ``host NAME`` -> fingerprint, ``task NAME`` -> digest of
texts and labels, ``versions`` -> by library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from peftport.core.environment import installed_versions, version_of
from peftport.hosts.fingerprint import Fingerprint, fingerprint
from peftport.hosts.layouts import layout_for
from peftport.hosts.loading import Loading
from peftport.hosts.sources import read_config
from peftport.study.sections import Data
from peftport.tasks import Task, load_task

Inputs = Mapping[str, Any]
VERSIONS = "versions"
HARMLESS = ("python", "safetensors")  # recorded, but a change is accepted: they do not affect numbers
SHOWN = 12  # number of characters of a digest that messages show
REMEDY = "bring the old one back, or give a new --dir"


def versions_for(loading: Loading) -> dict[str, str]:
    """Return the versions of the libraries that affect numbers, including the one that unpacks quantised weights."""
    packed = {} if loading.bits is None else {"bitsandbytes": version_of("bitsandbytes")}
    return installed_versions() | packed


def marked(fingerprint: Fingerprint) -> dict[str, Any]:
    """Convert a fingerprint to the form that inputs hold."""
    return fingerprint.model_dump(mode="json")


def host_in(folder: Path, name: str) -> dict[str, Any]:
    """Compute the whole fingerprint of the host in a folder, as it is now.

    Raises:
        HostRefused: the host is broken, or of no known family.

    """
    layout = layout_for(read_config(folder), name)
    return marked(fingerprint(folder, name, layout.family))


@lru_cache(maxsize=16)
def open_task(name: str, data: Data | None) -> Task:
    """Load a task of a study: a built-in one, or the user's own data."""
    if data is None:
        return load_task(name)
    return load_task(data.source, **data.model_dump(exclude={"source"}))


def difference(key: str, was: Any, now: Any) -> str | None:
    """Say in one phrase how an input differs from what it was; None if it is the same."""
    told = ", ".join(f"{part} was {_short(a)}, is {_short(b)}".strip() for part, a, b in _parts(was, now))
    return f"{key} has changed since this study was begun: {told}" if told else None


def other_input(key: str, one: Any, other: Any) -> str | None:
    """Say in one phrase how an input of one folder differs from that of another; None if it is the same."""
    told = ", ".join(f"{part} {_short(a)} and {_short(b)}" for part, a, b in _parts(one, other))
    return f"{key}: {told}" if told else None


def version_differences(known: Iterable[Mapping[str, str]], now: Mapping[str, str]) -> list[str]:
    """List the versions that no job on record ran with, except those of libraries that no job recorded."""
    differences = []
    for library, version in now.items():
        had = list(dict.fromkeys(each[library] for each in known if library in each))
        if had and version not in had and library not in HARMLESS:
            differences.append(f"{library} was {' and '.join(had)}, is {version}")
    return differences


def worker_difference(driver: Mapping[str, str], worker: Mapping[str, str]) -> str | None:
    """Say how a worker's libraries differ from the driver's; None where no library that affects numbers differs."""
    differences = version_differences([driver], worker)
    return f"a worker has other libraries than the driver: {', '.join(differences)}" if differences else None


def _parts(was: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """List the parts that differ: for a host by their names, for a task its content."""
    if isinstance(now, dict) and isinstance(was, str):  # ledgers of version 0 record only the weights of a host
        was = {"weights": was}
        now = {"weights": now.get("weights")}
    if not isinstance(was, dict) or not isinstance(now, dict):
        return [] if was == now else [("its content", was, now)]
    if _same_host(was, now):
        return []
    names = [name for name in {**was, **now} if name != "name"]
    return [(name, was.get(name), now.get(name)) for name in names if was.get(name) != now.get(name)]


def _same_host(was: dict[str, Any], now: dict[str, Any]) -> bool:
    try:
        return Fingerprint.model_validate(was).same_host(Fingerprint.model_validate(now))
    except ValidationError:  # a fingerprint of an unknown version: compared part by part
        return False


def _short(value: Any) -> str:
    text = str(value)
    return text[:SHOWN] if len(text) > SHOWN else text
