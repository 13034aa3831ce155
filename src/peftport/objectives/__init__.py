"""The objectives by name; users know them as readouts. An objective is one file and one line here.

What users call by one name may be several objectives, each for other kinds of task. What they read comes from
``tasks``, what they run on from ``hosts``; they train nothing themselves.
"""

from __future__ import annotations

from peftport.core.errors import BadRequest, UnknownName
from peftport.hosts.head import TrainedHead
from peftport.hosts.host import Host
from peftport.hosts.layouts import HostKind
from peftport.objectives.answer_tokens import AnswerTokens
from peftport.objectives.base import Objective
from peftport.objectives.classifier import TrainedClasses, TrainedLabels, TrainedNumber
from peftport.objectives.cosine import Cosine
from peftport.objectives.head import NAME as HEAD_NAME
from peftport.objectives.head import HeadClasses, HeadLabels, HeadNumber, usual
from peftport.objectives.label_tokens import LabelTokens
from peftport.objectives.linear import Linear
from peftport.objectives.linear_labels import LinearLabels
from peftport.objectives.linear_regression import LinearRegression
from peftport.objectives.prototype import Prototype
from peftport.tasks.spec import TaskSpec

OBJECTIVES: dict[str, tuple[type[Objective], ...]] = {
    each[0].name: each
    for each in (
        (LabelTokens,),
        (Prototype,),
        (Linear, LinearRegression, LinearLabels),
        (Cosine,),
        (AnswerTokens,),
        (HeadClasses, HeadNumber, HeadLabels),
        (TrainedClasses, TrainedNumber, TrainedLabels),
    )
}


def check_readout(name: str) -> None:
    """Refuse a name that no objective has.

    Raises:
        UnknownName: there is none.

    """
    if name not in OBJECTIVES:
        raise UnknownName.of("readout", name, OBJECTIVES)


def objective_named(name: str, kind: HostKind, task_kind: str = "classification") -> type[Objective]:
    """The objective of that name for a kind of task, or where there is none for it, the first of that name.

    Raises:
        UnknownName: there is none.
        BadRequest: it cannot read hosts of this kind.

    """
    check_readout(name)
    known = OBJECTIVES[name]
    objective = next((each for each in known if task_kind in each.serves), known[0])
    if kind not in objective.kinds:
        raise BadRequest(f"readout {name}: expected a host of kind {' or '.join(objective.kinds)}, got {kind}")
    return objective


def objective_for(name: str | None, kind: HostKind, task: TaskSpec, head: TrainedHead | None = None) -> type[Objective]:
    """The objective of that name, or the task's default on a kind of host.

    ``head``: the host's own trained head, which is the default where its labels have the names of the task's.

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
    if name is None and head is not None and HEAD_NAME in admitted and usual(head, task):
        name = HEAD_NAME
    objective = objective_named(name or admitted[0], kind, task.kind)
    if objective.name not in admitted or task.kind not in objective.serves:
        asked = f"{task.kind} of {'pairs of texts' if len(task.fields) > 1 else 'texts'} ({', '.join(task.fields)})"
        raise BadRequest(
            f"readout {objective.name}: {task.name} is {asked}, expected {' or '.join(admitted)} on a host of kind "
            f"{kind}; name one of them with --readout"
        )
    return objective


def bind_objective(name: str | None, host: Host, task: TaskSpec, max_tokens: int = 128) -> Objective:
    """Bind an objective (None: the task's default on this kind of host) to a host and a task."""
    return objective_for(name, host.kind, task)(host, task, max_tokens)
