"""The command that comes next after a result: words that a shell takes as they are, with what is known already.

Nothing is guessed: where a command would need a host or a task that nobody named, there is none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftport.core.request import Place, Request, options, words_of
from peftport.hosts.offline.catalogue import SOURCE_FILE, cache_dir, offline_catalogue
from peftport.modules.module import Module
from peftport.tasks.sources import TASKS
from peftport.techniques import technique_named

Words = tuple[str, ...]


def follow(command: str, kind: type[Request], request: Request, *, out: Path | None = None, **changes: Any) -> Words:
    """Return the words of another command with the fields that it shares with a request, but for ``changes``."""
    known = set(options(kind)) - {"out", "progress"}
    values = {name: getattr(request, name) for name in options(type(request)) if name in known} | changes
    return (command, *words_of(kind(**values)), *(("--out", str(out)) if out is not None else ()))


def known_task(name: str | None) -> str | None:
    """Return the task that a module records, if it can be had by that name."""
    return name if name in TASKS else None


def beside(module: Place, receiver: Place) -> Path:
    """Return a folder for a module on another host, beside the module's own, which is not there yet."""
    folder, host = Path(module), Path(str(receiver).partition("@")[0]).name
    base = folder if folder.exists() else Path(folder.name)  # a module on the hub has no folder here
    return unused(base.with_name(f"{base.name}-on-{host}"))


def unused(place: Path) -> Path:
    """Return the place, or the first with a number after it that is not there yet."""
    number = 2
    found = place
    while found.exists():
        found = place.with_name(f"{place.stem}-{number}{place.suffix}")
        number += 1
    return found


def relative_of(host: Place) -> str | None:
    """Return another installed offline host of an offline host's family; None where there is none."""
    hosts = offline_catalogue().hosts
    if str(host) not in hosts:
        return None
    family = hosts[str(host)].family
    kin = (name for name, other in hosts.items() if other.family == family and name != str(host))
    return next((name for name in kin if (cache_dir() / "hosts" / name / SOURCE_FILE).is_file()), None)


def serve(host: Place, folder: Path, module: Module[Any]) -> Words:
    """Return how a module is folded into its host, where it can be."""
    if technique_named(module.spec.kind).cannot_fold:
        return ()
    return ("merge", str(host), str(folder), "--out", str(unused(folder.with_name(f"{folder.name}-merged"))))


def after_study(command: str, result: Any, file: Place, more: Words) -> Words:
    """Return what comes after a command of `peftport study`; ``more`` are the options that say which part of it."""
    left = result.summary.left if command == "run" else result.counts["left"] if command == "status" else 0
    if command in ("plan", "gates") or left:
        return ("study", "run", str(file), *more)
    if command == "export" and result.files:
        return ("study", "verify", str(file), "--results", str(result.request.out))
    if command in ("run", "status") or (command in ("report", "watch") and not result.files):
        return ("study", "report", str(file), *more, "--out", str(unused(Path(f"{Path(file).stem}.html"))))
    return ()
