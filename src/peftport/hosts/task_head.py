"""The layers between a host's hidden states and the outputs of a task, as transformers' classes for tasks have them.

    sequence    ...ForSequenceClassification: outputs for a whole text
    token       ...ForTokenClassification: outputs for each token
    question    ...ForQuestionAnswering: a start and an end for each token

PEFT trains these layers together with a LoRA and saves them as ``modules_to_save``. A `TaskHead` is all of them, in the
order in which they are computed, with a pooler that belongs to the body, since the layer behind it reads what it gives.
Tensors have the names that they have in the model with the head, such as ``bert.pooler.dense.weight``,
``classifier.weight``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from safetensors import safe_open

from peftport.core.errors import HostRefused, first_line
from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.hosts.weights import WIDE, stored_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

HeadKind = Literal["sequence", "token", "question"]
CLASSES: dict[HeadKind, str] = {
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "question": "AutoModelForQuestionAnswering",
}
POOLER = "pooler"


@dataclass(frozen=True, eq=False)
class TaskHead:
    """The layers of a task on a host, without weights.

    Attributes:
        prefix: the name of the body in the model with the head.
        shapes: the shape of every tensor by its name, in the order in which they are computed.

    """

    kind: HeadKind
    prefix: str
    shapes: dict[str, tuple[int, ...]]
    _model: nn.Module = field(repr=False)

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers, in order."""
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in self.shapes))

    def in_body(self, name: str) -> bool:
        """Return whether a layer or tensor belongs to the body, as BERT's pooler does."""
        return name.startswith(f"{self.prefix}.")

    def around(self, host: Host) -> nn.Module:
        """Make the model with this head on a host that is loaded; the weights of the head are zeros.

        A body without a pooler that the head reads gets one of zeros.
        """
        model = copy.deepcopy(self._model)
        pooler = getattr(model.base_model, POOLER, None)
        own: Any = model.base_model
        if type(host.base) is type(own):
            setattr(model, self.prefix, host.base)
        else:  # T5's model with a head for words has no body of its own, only the parts of one
            for name, child in host.base.named_children():
                if hasattr(own, name):
                    setattr(own, name, child)
        if pooler is not None and getattr(host.base, POOLER, None) is None:
            host.base.pooler = _of_zeros(pooler, host)
        for name, layer in list(model.named_children()):
            if name != self.prefix:
                setattr(model, name, _of_zeros(layer, host))
        return model.requires_grad_(False).eval()


_made: WeakKeyDictionary[Host, dict[tuple[HeadKind, int], TaskHead]] = WeakKeyDictionary()


def task_head(host: Host, kind: HeadKind, outputs: int) -> TaskHead:
    """Return the layers of a task with this number of outputs on a host, which may be loaded or only opened.

    Raises:
        HostRefused: transformers has no such class for hosts of this model type.

    """
    cache = _made.setdefault(host, {})
    if (kind, outputs) not in cache:
        cache[kind, outputs] = _task_head(host, kind, outputs)
    return cache[kind, outputs]


def last_layer(host: Host, kind: HeadKind) -> str:
    """Return the name of the layer whose rows are the outputs."""
    return task_head(host, kind, 2).layers[-1]


def host_tensor(host: Host, name: str, prefix: str) -> Tensor | None:
    """Return a tensor of the model with a head that the host itself has, in float32; None if it has none."""
    inside = name.removeprefix(f"{prefix}.")
    for model, path in ((host.base, inside), (host.model, name)):
        try:
            own = model.get_parameter(path).detach()
        except AttributeError:
            continue
        exact = own.is_floating_point() and (own.itemsize >= WIDE or host.folder is None)
        if own.device.type != "meta" and exact:
            return own.to("cpu", torch.float32)
    stored = stored_tensors(host.folder, host.model) if host.folder is not None else {}
    for known, place in stored.items():
        if known in (name, inside) and len(place.keys) == 1:
            with safe_open(place.file, framework="pt") as tensors:
                found: Tensor = tensors.get_tensor(place.keys[0])
            return found.float()
    return None


def _task_head(host: Host, kind: HeadKind, outputs: int) -> TaskHead:
    import transformers  # imported here: a study's driver does without

    config = copy.deepcopy(host.config)
    config.num_labels = outputs
    try:
        with torch.device("meta"):
            model = getattr(transformers, CLASSES[kind]).from_config(config, attn_implementation="eager")
    except (ValueError, TypeError, AttributeError) as error:
        raise HostRefused(
            f"{host.name}: expected a model type for which transformers has {CLASSES[kind]}, got "
            f"{config.model_type!r} ({first_line(error)}); leave the head out (--leave-out head), or use another host"
        ) from error
    prefix = str(model.base_model_prefix)
    named = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    pooler = {name: shape for name, shape in named.items() if name.startswith(f"{prefix}.{POOLER}.")}
    beyond = {name: shape for name, shape in named.items() if not name.startswith(f"{prefix}.")}
    return TaskHead(kind, prefix, {**pooler, **beyond}, model)


def _of_zeros(layer: nn.Module, host: Host) -> nn.Module:
    made = layer.to_empty(device=host.device).to(host.wide_dtype)
    for parameter in made.parameters():
        parameter.data.zero_()
    return made


def rows_of(head: Mapping[str, Tensor], host: Host, kind: HeadKind) -> int | None:
    """Return the number of outputs of a head's tensors on a host; None if its last layer has another name there."""
    weight = head.get(f"{last_layer(host, kind)}.weight")
    return None if weight is None else len(weight)
