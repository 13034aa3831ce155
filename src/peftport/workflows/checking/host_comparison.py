"""Compare the origin and the receiver of a port: fingerprints, vocabularies, and the distance of their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter

from peftport.core.errors import HostRefused, UnknownName
from peftport.hosts.distance import weight_distance
from peftport.hosts.fingerprint import Fingerprint
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.hosts.opening import OpenedHost, open_host
from peftport.hosts.remembered import remembered
from peftport.modules.module import Module
from peftport.modules.origin import check_origin
from peftport.porting.alignment.words import shared_tokens

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class FoundOrigin:
    """The host of a module if it is found on this machine, or else a note that says why it is not."""

    host: Host | None
    note: str = ""


@dataclass(frozen=True)
class Tokens:
    """The numbers of tokens, and how many have the same spelling in both hosts. ``equal``: they also have equal ids."""

    shared: int
    origin: int
    receiver: int
    equal: bool

    @property
    def share(self) -> float:
        """The share of the receiver's tokens that the origin knows too."""
        return self.shared / max(1, self.receiver)


APART: TypeAdapter[tuple[float | None, Tokens]] = TypeAdapter(tuple[float | None, Tokens])


@dataclass(frozen=True)
class HostComparison:
    """How the origin and the receiver of a port differ.

    Attributes:
        origin: the fingerprint that the module records.
        receiver: the fingerprint of the receiver.
        at_hand: whether the origin was found here with the recorded fingerprint; ``note`` says why not.
        distance: ||W_t - W_s|| / ||W_s|| over all tensors; None where shapes differ or the origin is not at hand.
        tokens: the shared tokens; None where the origin is not at hand.

    """

    origin: Fingerprint
    receiver: Fingerprint
    at_hand: bool
    note: str
    distance: float | None
    tokens: Tokens | None

    @property
    def same_host(self) -> bool:
        """Whether both are the same host, possibly under two names."""
        return self.origin.same_host(self.receiver)

    def strangers(self, nothing_fits: bool) -> str:
        """How hosts of different families differ, in words, where nothing of a module fits; else empty."""
        one, other = self.origin.family, self.receiver.family
        return f"the hosts are of different families ({one}, {other})" if nothing_fits and one != other else ""

    @property
    def same(self) -> dict[str, bool]:
        """For each part of the fingerprint, whether it is equal in both hosts."""
        parts = ("family", "model_type", "layers", "width", "architecture", "weights")
        apart = self.origin.differences(self.receiver)
        return {part: getattr(self.origin, part) == getattr(self.receiver, part) for part in parts} | {
            "settings": not any(part.startswith("settings") for part in apart),
            "tokenizer": "tokenizer" not in apart,
        }


def find_origin(module: Module[Any], ref: str | None, *, loaded: bool) -> FoundOrigin:
    """Open (or load) the origin that is named, or else the one that the module records if it is on this machine.

    Raises:
        BadRequest: the name is not a host, or not the host that the module was trained on.

    """
    get = load_host if loaded else open_host
    if ref is not None:
        host = get(ref)
        check_origin(module, host, ref)
        return FoundOrigin(host)
    name = module.host.name
    try:
        host = get(name)
    except (UnknownName, HostRefused):
        return FoundOrigin(
            None, f"the module records the host {name}, which is not found here; name it with --from HOST"
        )
    if not module.host.same_host(host.fingerprint):
        apart = module.host.told_from(host.fingerprint)
        return FoundOrigin(
            None, f"the host {name} here is another than the module records ({apart}); name its own with --from HOST"
        )
    return FoundOrigin(host)


def compare_hosts(module: Module[Any], origin: FoundOrigin, receiver: Host) -> HostComparison:
    """Compare the hosts; their weights are read from the two folders, tensor by tensor, unless that was done before."""
    distance, tokens = None, None
    if origin.host is not None:
        distance, tokens = between("apart", origin.host, receiver, (), APART, lambda: _apart(origin.host, receiver))
    return HostComparison(module.host, receiver.fingerprint, origin.host is not None, origin.note, distance, tokens)


def between(
    kind: str, origin: Host, receiver: Host, more: Sequence[Any], adapter: TypeAdapter[T], make: Callable[[], T]
) -> T:
    """What was found out about two hosts that are only opened, on this machine, or is found out now.

    ``more`` is what it follows from besides the files of both.
    """
    if not (isinstance(origin, OpenedHost) and isinstance(receiver, OpenedHost)):
        return make()
    return remembered(kind, [origin.identity, receiver.identity, *more], adapter, make)


def _apart(origin: Host | None, receiver: Host) -> tuple[float | None, Tokens]:
    assert origin is not None, "there is something to compare with"
    folders = origin.folder, receiver.folder
    distance = None if folders[0] is None or folders[1] is None else weight_distance(folders[0], folders[1])
    ours, theirs = origin.tokenizer.get_vocab(), receiver.tokenizer.get_vocab()
    return distance, Tokens(len(shared_tokens(origin, receiver)), len(ours), len(theirs), ours == theirs)
