"""LoRAs on parameters (`target_parameters`), such as the matrices of all experts of a layer, in PEFT's files.

    A (E r, D_in)      the r rows of an expert follow one another
    B (D_out, r E)     the E columns of a rank follow one another

PEFT wraps a module once for each of its parameters that has a LoRA. The wrapper of the first lies innermost, so its
matrices are named ``<path>.base_layer.lora_A`` where another parameter of the module has a LoRA too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from peftport.core.libraries import torch
from peftport.hosts.slots import Slot
from peftport.modules.formats.peft.names import INNER

if TYPE_CHECKING:
    from torch import Tensor


def wrapped_name(slot: Slot, others: Sequence[Slot]) -> str:
    """Return PEFT's name of the wrapper of a slot, where these parameters have LoRAs; they are in the host's order."""
    if slot.kind != "parameter":
        return slot.path
    same = [other.parameter for other in others if other.kind == "parameter" and other.path == slot.path]
    return slot.path + INNER * (len(same) - 1 - same.index(slot.parameter))


def by_wrapper(slots: Mapping[str, Slot], chosen: Sequence[Slot]) -> dict[str, Slot]:
    """Return the slots of whole matrices by PEFT's name, where the parameters of ``chosen`` have LoRAs."""
    linear = [slot for slot in slots.values() if slot.kind == "linear"]
    return {wrapped_name(slot, chosen): slot for slot in [*linear, *chosen]}


def padded(slot: Slot, a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Pad A and B to a larger rank with zeros, expert by expert."""
    wide_a, wide_b = torch.zeros(slot.experts, rank, slot.in_width), torch.zeros(slot.out_width, rank * slot.experts)
    wide_a[:, : len(a) // slot.experts] = a.reshape(slot.experts, -1, slot.in_width)
    wide_b[:, : b.shape[1]] = b
    return wide_a.flatten(0, 1), wide_b


def cut(slot: Slot, a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Cut A and B to a smaller rank, expert by expert."""
    return a.reshape(slot.experts, -1, slot.in_width)[:, :rank].flatten(0, 1).clone(), b[:, : rank * slot.experts]
