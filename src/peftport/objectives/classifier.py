"""classifier: a trainable head as transformers' ...ForSequenceClassification puts it on the host, with its pooler.

    encoder            what the class of the model does with the first token: pooler, classifier
    encoder-decoder    the last end token, as the decoder reads the text again; classification_head
    decoder            the last token that is no padding; score

It is the head that PEFT saves with a LoRA of the task type SEQ_CLS. It is part of the module: trained, ported and saved
with it. A fresh one has the host's own pooler and a last layer of zeros, so that it prefers no class.

Letters: as in `peftport.objectives.base`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from peftport.core.errors import BadRequest
from peftport.core.libraries import nn, torch
from peftport.hosts.host import Host
from peftport.hosts.task_head import TaskHead, host_tensor, task_head
from peftport.objectives.base import Head, HeadMatrices, Row
from peftport.objectives.head import head_logits
from peftport.objectives.linear import worded_alone
from peftport.objectives.outputs import ClassOutputs, LabelOutputs, NumberOutput, Outputs
from peftport.tasks.spec import Example, TaskSpec

if TYPE_CHECKING:
    from torch import Tensor

NAME = "classifier"
STD = 0.02  # of fresh layers but the last, as transformers draws them


class TrainedLayers(Outputs):
    """The layers that transformers puts on a host for a text, or for a pair of texts read together."""

    name = NAME
    title = "a trainable head as transformers puts it on the host, which PEFT saves with a module"
    kinds = ("encoder", "encoder_decoder", "decoder")
    view = "body"

    def __init__(self, host: Host, task: TaskSpec, max_tokens: int) -> None:
        """Put the layers on the host.

        Raises:
            BadRequest: transformers has no such class for this host, or one with layers that cannot be stacked.

        """
        super().__init__(host, task, max_tokens)
        self.layers: TaskHead = task_head(host, "sequence", len(task.labels) or 1)
        self.model = self.layers.around(host)
        for layer in self.layers.layers:
            if not isinstance(self.model.get_submodule(layer), nn.Linear | nn.LayerNorm):
                raise BadRequest(
                    f"readout {NAME}: {host.name}: {layer}: expected a linear map or a layer norm, got a "
                    f"{type(self.model.get_submodule(layer)).__name__}; use --readout linear"
                )

    @property
    def prompt_name(self) -> str | None:
        """The one that is answered, where it names both texts of a pair."""
        return self.answered_prompt if len(self.task.fields) > 1 and self.host.kind != "encoder" else None

    def wording(self, example: Example) -> Example:
        """The text or pair alone, behind the prefix that the host was trained with; a pair on a decoder in a prompt."""
        return worded_alone(self, example)

    def about(self) -> str:
        """Outputs have no names in PEFT's files."""
        if len(self.task.labels) < 2:
            return ""
        shown = ", ".join(f"{label} is output {index}" for index, label in enumerate(self.task.labels[:4]))
        return f"{self.host.name}: the outputs of the module's head are taken for the labels in order: {shown}"

    def alone(self) -> str:
        """It has no head."""
        return "the host alone has no head, so all its outputs are zero"

    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the layers, by its name in the model with the head."""
        return dict(self.layers.shapes)

    def fresh_head(self, rng: np.random.Generator) -> HeadMatrices:
        """The host's own pooler, other layers as transformers draws them, and a last layer of zeros."""
        return {name: self._fresh(name, shape, rng) for name, shape in self.layers.shapes.items()}

    def _fresh(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
        own = host_tensor(self.host, name, self.layers.prefix) if self.layers.in_body(name) else None
        if own is not None and bool(own.any()):
            return own
        layer, _, matrix = name.rpartition(".")
        if isinstance(self.model.get_submodule(layer), nn.LayerNorm) and matrix == "weight":
            return torch.ones(shape)
        if len(shape) == 1 or layer == self.layers.layers[-1]:
            return torch.zeros(shape)
        return torch.from_numpy(rng.normal(0.0, STD, shape).astype(np.float32))

    def outputs(self, rows: Sequence[Row], head: Head, shift: int) -> Tensor:
        """Each entry's head on its own rows, (N, C); zeros where there is no head."""
        if head is None:
            return torch.zeros(len(rows), len(self.task.labels) or 1, device=self.host.device)
        with _with_weights(self.model, head):
            return head_logits(self.host, self.model, rows, shift)


class TrainedClasses(TrainedLayers, ClassOutputs):
    """The layers of a classifier."""


class TrainedNumber(TrainedLayers, NumberOutput):
    """The layers of a regression, which predicts numbers in the unit of the targets."""


class TrainedLabels(TrainedLayers, LabelOutputs):
    """The layers of a classifier that gives each label a probability of its own."""


@contextmanager
def _with_weights(model: nn.Module, head: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the layers of a head compute with the weights of K entries (K, ...), each with its own on its own rows."""
    with ExitStack() as stack:
        for name in dict.fromkeys(key.rpartition(".")[0] for key in head):
            layer: Any = model.get_submodule(name)
            own = {key.rpartition(".")[2]: tensor for key, tensor in head.items() if key.rpartition(".")[0] == name}
            before = vars(layer).get("forward")  # a pooler of a host in fewer bits multiplies in its own way
            layer.forward = partial(_by_entry, layer, own["weight"], own.get("bias"))
            stack.callback(delattr if before is None else setattr, layer, "forward", *([before] if before else []))
        yield


def _by_entry(layer: nn.Module, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """A linear map or layer norm with each entry's own weights: x (K N, ..., D_in) -> (K N, ..., D_out)."""
    entries = len(weight)
    rows = x.to(weight.dtype).reshape(entries, -1, x.shape[-1])  # (K, N, D_in)
    if isinstance(layer, nn.LayerNorm):
        made = nn.functional.layer_norm(rows, (rows.shape[-1],), eps=layer.eps) * weight.unsqueeze(1)
    else:
        made = torch.bmm(rows, weight.mT)
    if bias is not None:
        made = made + bias.unsqueeze(1)
    return made.reshape(*x.shape[:-1], made.shape[-1])
