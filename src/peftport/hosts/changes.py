"""Add changes to the weights of a loaded host, for modules that change more than a technique can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from peftport.core.errors import HostRefused
from peftport.core.libraries import nn, torch
from peftport.hosts.host import Host

if TYPE_CHECKING:
    from torch import Tensor


def part_vocabularies(model: nn.Module) -> None:
    """Give the head of a language model its own weights if it shares those of the embeddings."""
    known: Any = model  # a model of transformers
    head, embeddings = known.get_output_embeddings(), known.get_input_embeddings()
    if head is not None and head.weight is embeddings.weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        known.config.tie_word_embeddings = False


def add_to_weights(host: Host, changes: Mapping[str, Tensor], *, parts_vocabularies: bool = False) -> None:
    """Add a change to each of these weights of the model that the host is a part of, for good.

    ``parts_vocabularies``: whether embeddings and a head that share their weights change apart from one another.

    Weights of a head that this host was loaded without are left: nothing is read from them.

    Raises:
        HostRefused: a weight is packed, or has another shape.

    """
    prefix = f"{getattr(host.model, 'base_model_prefix', '')}."
    if parts_vocabularies and changes:
        part_vocabularies(host.model)
    for name, change in changes.items():
        weight = _weight(host.model, name) if host.model is not host.base else None
        weight = weight if weight is not None else _weight(host.base, name.removeprefix(prefix))
        if weight is None:
            continue
        if not weight.is_floating_point() or weight.shape != change.shape:
            raise HostRefused(
                f"{host.name}: {name}: expected numbers of shape {tuple(change.shape)}, got {tuple(weight.shape)} in "
                f"{str(weight.dtype).removeprefix('torch.')}; load the host in full precision"
            )
        with torch.no_grad():
            weight.add_(change.to(weight))


def _weight(model: nn.Module, name: str) -> Tensor | None:
    try:
        return model.get_parameter(name)
    except AttributeError:
        return None
