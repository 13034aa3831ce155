"""Parse the names of tensors in a PEFT file: find the host's matrix of each, or say why there is no slot for it.

    base_model.model.<name>.lora_A[.<adapter>].weight      <name>: the path of the matrix in the trained model

Wrappers that a training loop left in the names are ignored: ``torch.compile``, FSDP, activation checkpointing and
DistributedDataParallel each wrap a module in one of their own, which always has the same name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from peftport.core.errors import BadRequest, ModuleRefused, SlotMismatch
from peftport.core.libraries import nn
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot, linear_shape
from peftport.modules.formats.tensors import printable

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
LANGUAGE_MODELS = frozenset({"language_model", "text_model"})  # as models of texts and images name their text part
PARALLEL = "module."  # only at the start, because inside a model it can be any module's name
ROOT = "base_model.model."
INNER = ".base_layer"  # a wrapper inside another one (experts.py)
# An adapter's name such as `.default`, which PEFT omits from its files and some training scripts keep.
KEY = re.compile(r"(?P<name>.+)\.lora_(?P<matrix>[AB])(?:\.[^.]+)?\.weight")
# A whole weight in the wrapper that PEFT puts around trained copies of modules; an adapter's name is left out by PEFT.
SAVED = re.compile(r"\.(modules_to_save|original_module)(\.default)?(?=\.)")
PART = re.compile(r"\.(?:(?:lora|ia3|vera|hada|lokr|oft)_.*|token_adapter\..*|weight|bias)$")  # of a module
WHOLE = re.compile(r"(?!.*\.lora_).+\.(?:weight|bias)")
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


@dataclass(frozen=True)
class Whole:
    """A whole weight of the trained model, by its name there; ``before``: as it was before the training."""

    name: str
    before: bool


def bare(key: str) -> str:
    """Return the name of a tensor in the trained model, without what wrappers and PEFT put before it."""
    name = ".".join(part for part in key.split(".") if part not in WRAPPERS)
    return name.removeprefix(PARALLEL).removeprefix(ROOT).removeprefix(PARALLEL)


def full_name(name: str) -> str:
    """Return the name in a file of a tensor with this name in the trained model; some of VeRA belong to none there."""
    return name if name.startswith("base_model.") else f"{ROOT}{name}"


def whole_weight(key: str) -> Whole | None:
    """Return what whole weight a tensor is; None for a part of a LoRA or the like."""
    name = bare(key)
    if WHOLE.fullmatch(name) is None:
        return None
    return Whole(SAVED.sub("", name), ".original_module." in name)


def module_of(key: str) -> str:
    """Return the name of the module in the trained model that a tensor belongs to."""
    name = SAVED.sub("", bare(key))
    return PART.sub("", name)


def parse_key(key: str, where: object) -> Named:
    """Split the name of a tensor into its parts.

    Raises:
        ModuleRefused: the tensor is not an A or B of a LoRA on a linear map.

    """
    name = bare(key)
    parsed = KEY.fullmatch(name)
    if parsed is None:
        raise ModuleRefused(
            f"{where}: expected lora_A and lora_B matrices only, got {printable(key)}, {_what(name)}, which would be "
            f"lost; to port the LoRA without it, leave it out (--leave-out {printable(module_of(key))})"
        )
    return Named(parsed["name"], parsed["matrix"])


def _what(name: str) -> str:
    if ".lora_magnitude_vector" in name:
        return "a magnitude of DoRA"
    if ".lora_embedding_" in name:
        return "a LoRA on an embedding"
    if ".lora_" in name:
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
            "(docs/peft.md#names-in-the-file)"
        )
    if is_outside(host, name):
        return ModuleRefused(
            f"{what}: expected LoRAs on attention and feed-forward matrices of the layers, got one on a head, a "
            f"pooler or an embedding; to port the rest, leave it out (--leave-out {printable(short)})"
        )
    return SlotMismatch(f"{what}; give the host it was trained on (--from)")


def head_prefix(host: Host, headed: bool | None = None) -> str:
    """Return the path of the base model in a model with a head; empty without one. None means as in the host."""
    name = getattr(host.model, "base_model_prefix", "")
    return f"{name}." if name and (host.base is not host.model if headed is None else headed) else ""


def whole_slots(host: Host) -> dict[str, Slot]:
    """Return the linear slots that are whole matrices, and those of parameters, by name."""
    return {
        name: slot
        for name, slot in host.slots.items()
        if slot.kind == "parameter"
        or (slot.kind == "linear" and linear_shape(host.slot_module(slot))[0] == slot.out_width)
    }


def paths_below(name: str, host: Host) -> list[str]:
    """Return what paths below the host's body the name of a module in the trained model may mean, likeliest first.

    The trained model may have a head, or be a larger one that holds the host as its language model, beside a part that
    sees or hears: what stands before the layers of such a model consists of the names of its wrappers only.
    """
    prefix = getattr(host.model, "base_model_prefix", "")
    paths, parts = [name, name.removeprefix(f"{prefix}.")], name.split(".")
    known = LANGUAGE_MODELS | {prefix}
    while len(parts) > 1 and parts[0] in known:
        parts = parts[1:]
        if not LANGUAGE_MODELS.isdisjoint(name.split(".")[: -len(parts)]):
            paths.append(".".join(parts))
    return list(dict.fromkeys(paths))


def empty_tensor(where: object, key: str) -> ModuleRefused:
    """Return the error to raise for a tensor without numbers."""
    return ModuleRefused(
        f"{where}: {printable(key)}: expected numbers, got an empty tensor: DeepSpeed ZeRO-3 keeps them in its own "
        "checkpoint unless they are gathered before saving; make the weights of that checkpoint whole "
        "(its zero_to_fp32.py) and save the adapter again"
    )


def is_outside(host: Host, name: str) -> bool:
    """Return whether a name is of a head, a pooler, an embedding or another map outside the layers of a host."""
    paths = paths_below(name, host)
    return any(path.split(".")[0] in HEADS or _is_linear(host, path) for path in paths)


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
