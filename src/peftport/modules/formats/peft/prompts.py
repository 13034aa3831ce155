"""Read PEFT's soft prompts of decoders as prefixes: keys and values before those of the text in every layer.

    prefix tuning              the file has them, (P, layers * 2 * H * head width), for each layer keys, then values
    prompt tuning, P-tuning    the file has P vectors that stand before the embedded text (Lester et al. 2021, arXiv
                               2104.08691; Liu et al. 2021, arXiv 2103.10385)

A decoder reads from left to right, so what it makes of P vectors at the start does not depend on the text behind them:
the keys and values that the host computes for them are a prefix of the same function. Encoders read both ways, so for
them this is not so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftport.core.errors import ModuleRefused, first_line
from peftport.core.libraries import torch, transformers, without_gradients
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot
from peftport.modules.module import Module
from peftport.techniques.base import Parameters
from peftport.techniques.prefix import PrefixSpec

if TYPE_CHECKING:
    from torch import Tensor

KEYS_VALUES = "PREFIX_TUNING"
VECTORS = ("PROMPT_TUNING", "P_TUNING")
TENSOR = "prompt_embeddings"


def is_prompt(said: dict[str, Any]) -> bool:
    """Return whether a configuration is of a soft prompt that is read here."""
    return said.get("peft_type") in (KEYS_VALUES, *VECTORS)


def read_prompt(folder: Path, said: dict[str, Any], flat: dict[str, Tensor], host: Host) -> Module:
    """Read a soft prompt as a prefix on the host that it was trained on.

    Raises:
        ModuleRefused: the host is no decoder, the file has other tensors, or their shape is not for this host.

    """
    kind = str(said["peft_type"])
    if host.kind != "decoder" or said.get("task_type") not in (None, "CAUSAL_LM"):
        raise ModuleRefused(
            f"{folder}: {kind}: expected a soft prompt of a decoder for CAUSAL_LM, which is read as a prefix, got one "
            f"of {said.get('task_type')} for {host.name} ({host.kind}), whose effect no prefix here has; keep it on "
            "its host"
        )
    slots = [slot for slot in host.slots.values() if slot.kind == "attention"]
    found = flat.get(TENSOR)
    if found is None or len(flat) > 1 or found.ndim != 2:
        raise ModuleRefused(
            f"{folder}: expected the tensor {TENSOR} alone, a matrix, got {', '.join(flat)[:200] or 'none'}; save it "
            "again"
        )
    width = 2 * sum(slot.out_width for slot in slots) if kind == KEYS_VALUES else host.width
    if found.shape[1] != width:
        raise ModuleRefused(
            f"{folder}: {TENSOR}: expected {width} numbers for each position on {host.name}, got {found.shape[1]}; "
            "give the host it was trained on (--from)"
        )
    made = _split(found.float(), slots) if kind == KEYS_VALUES else _computed(folder, found.float(), host, slots)
    return Module(PrefixSpec(length=len(found)), host.fingerprint, made)


def _split(found: Tensor, slots: list[Slot]) -> Parameters:
    parts = torch.split(found, [slot.out_width for slot in slots for _ in range(2)], dim=1)
    return {
        slot.name: {"keys": parts[2 * layer].clone(), "values": parts[2 * layer + 1].clone()}
        for layer, slot in enumerate(slots)
    }


@without_gradients
def _computed(folder: Path, vectors: Tensor, host: Host, slots: list[Slot]) -> Parameters:
    """Run the vectors through the host and keep the keys and values of every layer."""
    try:
        loaded = host.folder is None or next(host.base.parameters()).device.type != "meta"
        model: Any = host.base if loaded else transformers.AutoModel.from_pretrained(
            host.folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )  # fmt: skip
        cache = model(inputs_embeds=vectors.unsqueeze(0).to(host.dtype), use_cache=True).past_key_values
        layers = [(layer.keys[0], layer.values[0]) for layer in cache.layers]  # (H, P, head width) each
    except Exception as error:  # a model can raise anything on vectors that it was not made for
        raise ModuleRefused(
            f"{folder}: expected vectors that {host.name} can read, got: {first_line(error)}; give the host it was "
            "trained on (--from)"
        ) from error
    return {
        slot.name: {
            name: tensor.transpose(0, 1).reshape(len(vectors), -1).float().cpu().clone()
            for name, tensor in zip(("keys", "values"), layers[index], strict=True)
        }
        for index, slot in enumerate(slots)
    }
