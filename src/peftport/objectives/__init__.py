"""The objectives by name; users know them as readouts. An objective is one file and one line here.

What they read comes from ``tasks``, what they run on from ``hosts``; they train nothing themselves.
"""

from __future__ import annotations

from peftport.core.errors import BadRequest, UnknownName
from peftport.hosts.host import Host
from peftport.hosts.slots import HostKind
from peftport.objectives.answer_tokens import AnswerTokens
from peftport.objectives.base import Objective
from peftport.objectives.label_tokens import LabelTokens
from peftport.objectives.linear import Linear
from peftport.objectives.prototype import Prototype
from peftport.tasks.spec import TaskSpec

OBJECTIVES: dict[str, type[Objective]] = {each.name: each for each in (LabelTokens, Prototype, Linear, AnswerTokens)}


def objective_named(name: str, kind: HostKind) -> type[Objective]:
    """The objective of that name.

    Raises:
        UnknownName: there is none.
        BadRequest: it cannot read hosts of this kind.

    """
    if name not in OBJECTIVES:
        raise UnknownName.of("readout", name, OBJECTIVES)
    if kind not in OBJECTIVES[name].kinds:
        raise BadRequest(f"readout {name}: expected a host of kind {' or '.join(OBJECTIVES[name].kinds)}, got {kind}")
    return OBJECTIVES[name]


def objective_for(name: str | None, kind: HostKind, task: TaskSpec) -> type[Objective]:
    """The objective of that name, or the task's default on a kind of host.

    Raises:
        UnknownName: no objective of that name.
        BadRequest: it cannot read hosts of this kind, or does not serve such a task.

    """
    admitted = task.objectives(kind)
    if not admitted:
        raise BadRequest(
            f"{task.name}: a task of kind {task.kind} needs a host that generates (a decoder or an encoder-decoder), "
            f"got a host of kind {kind}; name another host"
        )
    found = objective_named(name or admitted[0], kind)
    if found.name not in admitted:
        asked = f"{task.kind} of {'pairs of texts' if len(task.fields) > 1 else 'texts'} ({', '.join(task.fields)})"
        raise BadRequest(
            f"readout {found.name}: {task.name} is {asked}, expected {' or '.join(admitted)} on a host of kind {kind}; "
            "name one of them with --readout"
        )
    return found


def bind_objective(name: str | None, host: Host, task: TaskSpec, max_tokens: int = 128) -> Objective:
    """Bind an objective (None: the task's default on this kind of host) to a host and a task."""
    return objective_for(name, host.kind, task)(host, task, max_tokens)
