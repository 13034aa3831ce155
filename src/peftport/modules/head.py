"""The head that a module carries: that of a linear readout, or the layers of a task that transformers puts on a host.

linear readout    weight (C, D), bias (C)                           read the mean hidden state
task's layers     classifier.weight, bert.pooler.dense.weight, ...  named as in the model with the head (PEFT's
modules_to_save; hosts.task_head)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from peftport.core.errors import SlotMismatch
from peftport.hosts.host import Host
from peftport.hosts.task_head import HeadKind, TaskHead, rows_of, task_head
from peftport.modules.record import FileRecord, PeftRecord

if TYPE_CHECKING:
    from torch import Tensor

HEAD_PART = "head"  # by which users leave a head out
LINEAR = frozenset({"weight", "bias"})
OF_TASK_TYPE: dict[str, HeadKind] = {"SEQ_CLS": "sequence", "TOKEN_CLS": "token", "QUESTION_ANS": "question"}
OF_CLASS: dict[str, HeadKind] = {"ForTokenClassification": "token", "ForQuestionAnswering": "question"}


def is_linear(head: Collection[str]) -> bool:
    """Return whether these are the names of the tensors of a linear readout's head."""
    return LINEAR.issuperset(head)


def kind_of_head(file: FileRecord | None) -> HeadKind:
    """Return what the layers of a task give outputs for, by the PEFT file that they were read from; else texts."""
    return kind_in(file.config) if isinstance(file, PeftRecord) else "sequence"


def kind_of_task_type(value: object) -> HeadKind | None:
    """Return what the head of one of PEFT's task types gives outputs for; None for a task without such a head."""
    return OF_TASK_TYPE.get(value) if isinstance(value, str) else None


def kind_in(config: Mapping[str, Any]) -> HeadKind:
    """Return what PEFT's configuration says that a head gives outputs for: its task type, or the class of its model."""
    kind = kind_of_task_type(config.get("task_type"))
    if kind is not None:
        return kind
    mapping = config.get("auto_mapping")
    name = str(mapping.get("base_model_class")) if isinstance(mapping, dict) else ""
    return next((kind for end, kind in OF_CLASS.items() if name.endswith(end)), "sequence")


def layers_on(host: Host, head: Mapping[str, Tensor], file: FileRecord | None, what: str) -> TaskHead:
    """Return the layers on a host of the same task and number of outputs as a module's head.

    Raises:
        SlotMismatch: the host's layers have other names.

    """
    kind = kind_of_head(file)
    outputs = rows_of(head, host, kind)
    found = task_head(host, kind, outputs or 2)
    if outputs is None or found.shapes.keys() != head.keys():
        raise SlotMismatch(
            f"{what}: expected the layers of a head as {host.name} has them ({', '.join(found.layers)}), got "
            f"{', '.join(dict.fromkeys(name.rpartition('.')[0] for name in head))}; leave the head out "
            "(--leave-out head), or use a receiver of the same model type"
        )
    return found
