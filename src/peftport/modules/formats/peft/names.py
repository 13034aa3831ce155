"""Parse the names of tensors in a PEFT file: find the host's matrix of each, or say why there is no slot for it.

    base_model.model.<name>.lora_A[.<adapter>].weight      <name>: the path of the matrix in the trained model

Wrappers that a training loop left in the names are ignored: ``torch.compile``, FSDP, activation checkpointing and
DistributedDataParallel each wrap a module in one of their own, which always has the same name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from peftport.core.errors import BadRequest, ModuleRefused, SlotMismatch
from peftport.hosts.host import Host
from peftport.modules.formats.tensors import printable

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
PARALLEL = "module."  # only at the start, because inside a model it can be any module's name
ROOT = "base_model.model."
INNER = ".base_layer"  # a wrapper inside another one (experts.py)
# An adapter's name such as `.default`, which PEFT omits from its files and some training scripts keep.
KEY = re.compile(r"(?P<name>.+)\.lora_(?P<matrix>[AB])(?:\.[^.]+)?\.weight")
# Modules that transformers puts on top of the layers of a model for a task.
HEADS = frozenset({
    "classification_head", "classifier", "cls", "lm_head", "pooler", "pre_classifier", "predictions", "qa_outputs",
    "score", "summary", "vocab_projector", "vocab_transform",
})  # fmt: skip


@dataclass(frozen=True)
class Named:
    """The parts of a tensor's name: the matrix it belongs to, and whether it is A or B."""

    name: str
    matrix: str


def parse_key(key: str, where: object) -> Named:
    """Split the name of a tensor into its parts.

    Raises:
        ModuleRefused: the tensor is not an A or B of a LoRA on a linear map.

    """
    bare = ".".join(part for part in key.split(".") if part not in WRAPPERS)
    bare = bare.removeprefix(PARALLEL).removeprefix(ROOT).removeprefix(PARALLEL)
    parsed = KEY.fullmatch(bare)
    if parsed is None:
        raise ModuleRefused(
            f"{where}: expected lora_A and lora_B matrices only, got {printable(key)}, {_what(bare)}, which would be "
            "lost; to port the LoRA without it, delete that tensor (docs/files.md#a-lora-without-what-lies-beside-it)"
        )
    return Named(parsed["name"], parsed["matrix"])


def _what(bare: str) -> str:
    if ".lora_magnitude_vector" in bare:
        return "a magnitude of DoRA"
    if ".lora_embedding_" in bare:
        return "a LoRA on an embedding"
    if ".lora_" in bare:
        return "a part of a LoRA that plain LoRAs have not"
    return "a whole weight of the model it was trained on"


def no_slot(folder: str, key: str, name: str, host: Host) -> BadRequest:
    """Return the error to raise for a LoRA that is on no slot of the host, with the reason."""
    prefix = getattr(host.model, "base_model_prefix", "") + "."
    short = name.removeprefix(prefix)
    what = f"{folder}: {printable(key)}: {host.name} has no slot at {printable(short)}"
    around = next((name.removesuffix(s.path) for s in host.slots.values() if name.endswith(f".{s.path}")), None)
    if around is not None:
        return ModuleRefused(
            f"{what}: it was made on a larger model that holds such a host at {printable(around.rstrip('.'))}; if "
            f"{host.name} is that part of it, take {printable(around)} out of the tensors' names "
            "(docs/files.md#a-lora-made-on-a-larger-model)"
        )
    if short.split(".")[0] in HEADS or _is_linear(host, name) or _is_linear(host, short):
        return ModuleRefused(
            f"{what}: expected LoRAs on attention and feed-forward matrices of the layers, got one on a head, a "
            f"pooler or an embedding; to port the rest, delete its tensors and name {printable(short)} in "
            "exclude_modules (docs/files.md#a-lora-without-what-lies-beside-it)"
        )
    return SlotMismatch(f"{what}; give the host it was trained on (--from)")


def empty_tensor(where: object, key: str) -> ModuleRefused:
    """Return the error to raise for a tensor without numbers."""
    return ModuleRefused(
        f"{where}: {printable(key)}: expected numbers, got an empty tensor: DeepSpeed ZeRO-3 keeps them in its own "
        "checkpoint unless they are gathered before saving; make the weights of that checkpoint whole "
        "(its zero_to_fp32.py) and save the adapter again"
    )


def _is_linear(host: Host, name: str) -> bool:
    """Return whether the host has a matrix of this name, although it is not a slot."""
    for model in (host.model, host.base):
        try:
            submodule = model.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(submodule, nn.Linear | nn.Embedding):
            return True
    return False
