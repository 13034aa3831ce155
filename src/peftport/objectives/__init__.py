"""The readouts by name. A readout is one file and one line here."""

from __future__ import annotations

from peftport.core.errors import BadRequest, UnknownName
from peftport.hosts.host import Host
from peftport.hosts.slots import HostKind
from peftport.objectives.base import Readout
from peftport.objectives.label_tokens import LabelTokens
from peftport.objectives.linear import Linear
from peftport.objectives.prototype import Prototype
from peftport.tasks.task import TaskSpec

READOUTS: dict[str, type[Readout]] = {r.name: r for r in (LabelTokens, Prototype, Linear)}
DEFAULTS: dict[HostKind, str] = {"encoder": "prototype", "encoder_decoder": "label_tokens", "decoder": "label_tokens"}


def readout_class(name: str | None, kind: HostKind) -> type[Readout]:
    """The readout of that name, or the default of a kind of host.

    Raises:
        UnknownName: no readout of that name.
        BadRequest: it cannot read hosts of this kind.

    """
    name = name or DEFAULTS[kind]
    if name not in READOUTS:
        raise UnknownName.of("readout", name, READOUTS)
    if kind not in READOUTS[name].kinds:
        raise BadRequest(f"readout {name}: expected a host of kind {' or '.join(READOUTS[name].kinds)}, got {kind}")
    return READOUTS[name]


def bind_readout(name: str | None, host: Host, task: TaskSpec, max_tokens: int = 128) -> Readout:
    """Bind a readout (None: the default of the host's kind) to a host and a task."""
    return readout_class(name, host.kind)(host, task, max_tokens)
