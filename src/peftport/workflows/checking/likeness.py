"""How alike both hosts' layers are on texts: CKA of the residual stream behind each, as method `lorasuite` takes it."""

from __future__ import annotations

from dataclasses import dataclass

from peftport.hosts.host import Host
from peftport.porting.alignment.layer_cka import similarity
from peftport.porting.base import PortInputs
from peftport.porting.pairs import by_end


@dataclass(frozen=True)
class LayerCheck:
    """A layer of the receiver beside the origin's layer that it would take, and beside the one most like it."""

    layer: str
    takes: int
    cka: float
    most_like: int
    most_like_cka: float


def layer_checks(origin: Host, receiver: Host, given: PortInputs) -> tuple[LayerCheck, ...]:
    """CKA of every layer of stacks that both hosts have; empty where they have none in common.

    Raises:
        BadRequest: a host is only opened, or the texts have hardly a word that both read.

    """
    found = []
    for stack, table in similarity(origin, receiver, given).items():
        origin_layers, receiver_layers = table.shape
        for j in range(receiver_layers):
            takes, best = by_end(stack, j, origin_layers, receiver_layers), int(table[:, j].argmax())
            found.append(LayerCheck(f"{stack}.{j}", takes, float(table[takes, j]), best, float(table[best, j])))
    return tuple(found)
