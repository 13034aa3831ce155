"""How similar the layers of two hosts are on texts: CKA of the residual stream after each, as in `lorasuite`."""

from __future__ import annotations

from dataclasses import dataclass

from peftport.hosts.host import Host
from peftport.porting.alignment.layer_cka import similarity
from peftport.porting.base import PortInputs
from peftport.porting.pairs import by_end


@dataclass(frozen=True)
class LayerCheck:
    """A layer of the receiver, compared with the origin's layer it would receive from and with the most similar one."""

    layer: str
    takes: int
    cka: float
    most_like: int
    most_like_cka: float


def layer_checks(origin: Host, receiver: Host, inputs: PortInputs) -> tuple[LayerCheck, ...]:
    """Compute CKA for the layers of every stack that both hosts have; empty where they have none in common.

    Raises:
        BadRequest: a host is not loaded, or the texts have too few words that both tokenizers share.

    """
    checks = []
    for stack, table in similarity(origin, receiver, inputs).items():
        origin_layers, receiver_layers = table.shape
        for j in range(receiver_layers):
            takes, best = by_end(stack, j, origin_layers, receiver_layers), int(table[:, j].argmax())
            checks.append(LayerCheck(f"{stack}.{j}", takes, float(table[takes, j]), best, float(table[best, j])))
    return tuple(checks)
