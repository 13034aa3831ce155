"""Carry the head of a module to another host: the layers between the hidden states and the outputs of a task.

The first layer reads the residual stream behind the last layer of the host, so it is carried through the map of that
space, A' = A T'^T, as a linear readout is. The layers behind it have their own units, which no map changes: a receiver
with more units gets units of zeros, one with fewer keeps those with the largest weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from peftport.core.errors import SlotMismatch
from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.modules.head import is_linear, layers_on
from peftport.modules.module import HEAD, Module
from peftport.porting.alignment.maps import Map
from peftport.techniques.base import Shapes

if TYPE_CHECKING:
    from torch import Tensor

Tensors: TypeAlias = "dict[str, Tensor]"


def head_shapes(module: Module[Any], head: Mapping[str, Any], receiver: Host) -> Shapes:
    """Return the shapes of a head's tensors on the receiver.

    Raises:
        SlotMismatch: the receiver's layers have other names.

    """
    if is_linear(head):
        return {"weight": (head["weight"].shape[0], receiver.width), "bias": tuple(head["bias"].shape)}
    return layers_on(receiver, head, module.file, HEAD).shapes


def mapped_head(module: Module, head: Mapping[str, Tensor], receiver: Host, hidden: Map) -> Tensors:
    """Carry a head through the map between the last hidden states.

    Raises:
        SlotMismatch: the receiver's layers have other names, or this head does not read what the map is of.

    """
    if is_linear(head):
        return {**head, "weight": hidden.read(head["weight"].double())}
    if receiver.kind == "encoder_decoder":
        raise SlotMismatch(
            f"{HEAD}: expected a head that reads the encoder's or decoder's one stack of layers, got that of "
            f"{module.host.name}, which reads its decoder; leave the head out (--leave-out head), or use `copy`"
        )
    shapes = head_shapes(module, head, receiver)
    made = {name: tensor.double() for name, tensor in head.items()}
    maps = [name for name, shape in shapes.items() if len(shape) == 2]
    made[maps[0]] = hidden.read(made[maps[0]])
    for before, after in zip(maps, maps[1:], strict=False):
        made |= _with_units(made, before, after, shapes[before][0])
    for name, shape in shapes.items():
        if tuple(made[name].shape) != tuple(shape):
            raise SlotMismatch(
                f"{HEAD}: {name}: expected {tuple(shape)} for {receiver.name}, the head of {module.host.name} gives "
                f"{tuple(made[name].shape)}; leave the head out (--leave-out head)"
            )
    return made


def head_note(head: Mapping[str, Tensor], what: str) -> dict[str, str]:
    """Return what a port records of the layers of a task; nothing for a linear readout, as before."""
    return {} if is_linear(head) else {HEAD: f"{what}: {', '.join(head)}"}


def _with_units(made: Tensors, before: str, after: str, units: int) -> Tensors:
    """Return two layers and the bias between them with another number of units."""
    rows, columns, name = made[before], made[after], before.removesuffix("weight") + "bias"
    bias = made.get(name, rows.new_zeros(len(rows)))
    if len(rows) > units:
        weight = columns.norm(dim=0) * (rows.norm(dim=1) + bias.abs())
        keep = weight.topk(units).indices.sort().values
        changed = {before: rows[keep], after: columns[:, keep], name: bias[keep]}
    else:
        extra = units - len(rows)
        changed = {
            before: torch.cat([rows, rows.new_zeros(extra, rows.shape[1])]),
            after: torch.cat([columns, columns.new_zeros(len(columns), extra)], dim=1),
            name: torch.cat([bias, bias.new_zeros(extra)]),
        }
    return {key: tensor for key, tensor in changed.items() if key in made}
