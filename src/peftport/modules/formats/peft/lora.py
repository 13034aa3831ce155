"""Read PEFT LoRA checkpoints as modules; `write` writes them so that ``PeftModel.from_pretrained`` loads them.

    adapter_config.json            r, lora_alpha, target_modules, rank_pattern, ... (see config.py)
    adapter_model.safetensors      base_model.model.<path>.lora_A.weight (R, D_in), ...lora_B.weight (D_out, R)

A file may have a different rank and alpha at every slot, and layers without a LoRA; `record.py` says how a module holds
that. Where slots are parts of one fused matrix (GPT-2's q, k, v), PEFT has one LoRA on the whole matrix: the A of the
parts are stacked and their B are put on a block diagonal, with rank and alpha scaled alike, which is exactly the same
update.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftport.core.errors import ModuleRefused, SlotMismatch
from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.hosts.slots import OUTSIDE, Slot, stack_paths
from peftport.modules.formats.peft.config import PeftConfig, parse_peft_config
from peftport.modules.formats.peft.experts import by_wrapper, padded
from peftport.modules.formats.peft.heads import head_in
from peftport.modules.formats.peft.names import INNER, no_slot, parse_key, paths_below, whole_slots, whole_weight
from peftport.modules.formats.peft.shards import CONFIG, TENSORS
from peftport.modules.formats.peft.targets import Targets
from peftport.modules.formats.tensors import MOST_BYTES, printable
from peftport.modules.module import HEAD, Module
from peftport.modules.record import NumberType, PeftRecord, SlotInFile
from peftport.techniques.base import Parameters
from peftport.techniques.lora import LoraSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Found:
    """One LoRA in the file: PEFT's name of its matrix, the slot, and A and B as the file has them."""

    name: str
    slot: Slot
    matrices: dict[str, Tensor] = field(default_factory=dict)


def read_plain(folder: Path, said: dict[str, Any], flat: dict[str, Tensor], host: Host) -> Module:
    """Read a LoRA on linear maps of the layers, perhaps with a head, from its configuration and tensors.

    Raises:
        ModuleRefused: the PEFT type or a setting is not supported, or a file is broken.
        SlotMismatch: a matrix belongs to no slot of the host, or has the wrong shape for it.

    """
    config = parse_peft_config(said, folder / CONFIG)
    head = head_in(flat, said, host, folder / TENSORS)
    targets = Targets(config, folder / CONFIG)
    loras = _find(flat, folder, host, targets)
    _check_complete(folder, loras, targets, host)
    slots = {
        name: SlotInFile(rank=targets.rank(lora.name), alpha=targets.alpha(lora.name)) for name, lora in loras.items()
    }
    for name, lora in loras.items():
        _check_shapes(folder, lora, slots[name].rank, host)
    spec = _spec(config, slots, host)
    slots = {
        name: slots.get(name, _nothing(spec)) for name, slot in whole_slots(host).items() if slot.site in spec.sites
    }
    first = next(iter(loras.values()))
    record = PeftRecord(
        slots=slots,
        use_rslora=config.use_rslora,
        dropout=config.lora_dropout,
        headed=first.name != first.slot.full_path,
        numbers=number_type(flat),
        config=said,
        host=host.fingerprint,
    )
    matrices = _filled_up(folder, loras, spec, record, host)
    b = {name: lora.matrices["B"].float() for name, lora in loras.items()}
    unscaled = {name: raw for name, raw in b.items() if not torch.equal(raw, matrices[name]["B"][:, : raw.shape[1]])}
    if head is not None:
        matrices[HEAD] = head
    return Module(spec, host.fingerprint, matrices, file=record, unscaled=unscaled)


def in_file_scale(slot: SlotInFile, use_rslora: bool) -> float:
    """Return the factor that PEFT multiplies B A by at a slot."""
    return slot.alpha / (slot.rank**0.5 if use_rslora else slot.rank)


def reading_factor(in_file: SlotInFile, spec: LoraSpec, use_rslora: bool) -> float:
    """Return the factor for B that converts the scale of the file at a slot to the scale of the spec."""
    return in_file_scale(in_file, use_rslora) * spec.rank / spec.alpha


def number_type(flat: dict[str, Tensor]) -> NumberType:
    """Return the dtype that all tensors have, or float32 where they differ."""
    kinds = {tensor.dtype for tensor in flat.values()}
    names: dict[torch.dtype, NumberType] = {torch.float16: "float16", torch.bfloat16: "bfloat16"}
    return names.get(kinds.pop(), "float32") if len(kinds) == 1 else "float32"


def _find(flat: dict[str, Tensor], folder: Path, host: Host, targets: Targets) -> dict[str, Found]:
    """Return the LoRAs of the file by slot, in the order of the host's slots."""
    whole, prefix = whole_slots(host), getattr(host.model, "base_model_prefix", "") + "."
    parameters = [
        slot
        for slot in whole.values()
        if slot.kind == "parameter"
        and (targets.has_parameter(slot.full_path) or targets.has_parameter(prefix + slot.full_path))
    ]
    by_path = by_wrapper(whole, parameters)
    loras: dict[str, Found] = {}
    for key, tensor in flat.items():
        if whole_weight(key) is not None:
            continue  # of the head
        parsed = parse_key(key, folder / TENSORS)
        slot = next((by_path[path] for path in paths_below(parsed.name, host) if path in by_path), None)
        if slot is None:
            raise no_slot(folder.name, key, parsed.name, host)
        name = parsed.name if slot.kind == "linear" else f"{parsed.name.replace(INNER, '')}.{slot.parameter}"
        lora = loras.setdefault(slot.name, Found(name, slot))
        if parsed.matrix in lora.matrices or lora.name != name:
            raise ModuleRefused(
                f"{folder / TENSORS}: expected one lora_{parsed.matrix} for {slot.name}, got two (the second: "
                f"{printable(key)}); save one adapter a folder"
            )
        lora.matrices[parsed.matrix] = tensor
    return {name: loras[name] for name in host.slots if name in loras}


def _check_complete(folder: Path, loras: dict[str, Found], targets: Targets, host: Host) -> None:
    """Refuse matrices that PEFT would ignore, and files that lack matrices that PEFT would look for."""
    if not loras:
        raise ModuleRefused(
            f"{folder / TENSORS}: expected lora_A and lora_B matrices, found none; save the adapter again"
        )
    first = next(iter(loras.values()))
    prefix = first.name.removesuffix(first.slot.full_path)
    sites = {lora.slot.site for lora in loras.values()}
    _check_prefix(folder, loras, prefix)
    _check_stacks(folder, loras, targets, prefix, host)
    for name, slot in whole_slots(host).items():
        lora = loras.get(name, Found(prefix + slot.full_path, slot))
        if slot.kind == "parameter":
            wanted = targets.has_parameter(lora.name)
        else:
            wanted = targets.has(lora.name) if targets.known else slot.site in sites
        if lora.matrices and not wanted:
            raise ModuleRefused(
                f"{folder / CONFIG}: target_modules leaves out {lora.name}, for which {TENSORS} has a LoRA; PEFT would "
                "drop it without a word, so it is refused; save the adapter again"
            )
        absent = not lora.matrices and slot.name.startswith(f"{OUTSIDE}.")  # some classes lack a pooler, for instance
        if wanted and not absent and lora.matrices.keys() != {"A", "B"}:
            raise ModuleRefused(
                f"{folder / TENSORS}: {name}: expected lora_A and lora_B in every layer that {CONFIG} names, found "
                f"{sorted(lora.matrices) or 'nothing'}; save the adapter again, or give the host it was trained on"
            )


def _check_prefix(folder: Path, loras: dict[str, Found], prefix: str) -> None:
    """Refuse a file that mixes names with and without the model's head in front: PEFT finds only one kind."""
    for lora in loras.values():
        if lora.name != prefix + lora.slot.full_path:
            raise ModuleRefused(
                f"{folder / TENSORS}: expected names that all start alike, got {printable(prefix)!r} before some and "
                f"{printable(lora.name)}; PEFT would drop a part of them; save the adapter again"
            )


def _check_stacks(folder: Path, loras: dict[str, Found], targets: Targets, prefix: str, host: Host) -> None:
    """Refuse a LoRA of an encoder alone whose configuration would look for one in the decoder too."""
    stacks = stack_paths(host.base, host.layout)
    used = {name.rsplit(".", 2)[0] for name in loras} & stacks.keys()
    for stack, layers in stacks.items():
        slots = [slot for name, slot in whole_slots(host).items() if name.rsplit(".", 2)[0] == stack]
        if used and stack not in used and any(targets.known and targets.has(prefix + slot.path) for slot in slots):
            [other, *_] = sorted(used)
            raise ModuleRefused(
                f"{folder / TENSORS}: expected a LoRA in every stack of layers that {CONFIG} names, found none in "
                f"{layers}: it was made on the part of {host.name} that holds {stacks[other]} alone; let "
                "target_modules name that part only, as "
                f"{_only(prefix + stacks[other], targets.config.target_modules)!r}"
            )


def _only(layers: str, names: str | tuple[str, ...] | None) -> str:
    """Return a pattern for the same matrices in one stack of layers only."""
    inside = f"(?=({names})$)" if isinstance(names, str) else ""
    ends = "" if isinstance(names, str) else rf"\.({'|'.join(names or ())})"
    return f"{inside}{re.escape(layers)}.*{ends}"


def _check_shapes(folder: Path, lora: Found, rank: int, host: Host) -> None:
    rows = rank * lora.slot.experts
    expected = {"A": (rows, lora.slot.in_width), "B": (lora.slot.out_width, rows)}
    for matrix, tensor in lora.matrices.items():
        if tuple(tensor.shape) != expected[matrix]:
            raise SlotMismatch(
                f"{folder.name}: {lora.slot.name}: lora_{matrix} is {tuple(tensor.shape)}, {host.name} takes "
                f"{expected[matrix]} there at this rank; give the host it was trained on (--from)"
            )


def _spec(config: PeftConfig, slots: dict[str, SlotInFile], host: Host) -> LoraSpec:
    """Make the spec of the largest rank of any slot, and the scale that most slots have."""
    [(common, _)] = Counter(slots.values()).most_common(1)
    rank = max(slot.rank for slot in slots.values())
    root = rank**0.5 if config.use_rslora else 1.0  # alpha / sqrt(r) = (alpha sqrt(r)) / r
    alpha = common.alpha * root if common.rank == rank else in_file_scale(common, config.use_rslora) * rank
    used = {host.slots[name].site for name in slots}
    sites = tuple(dict.fromkeys(slot.site for slot in host.slots.values() if slot.site in used))
    return LoraSpec(rank=rank, alpha=alpha, sites=sites)


def _nothing(spec: LoraSpec) -> SlotInFile:
    return SlotInFile(rank=0, alpha=spec.alpha)


def _filled_up(folder: Path, loras: dict[str, Found], spec: LoraSpec, record: PeftRecord, host: Host) -> Parameters:
    """Return A (R, D_in) and B (D_out, R) of every slot at the rank and scale of the spec, padded with zeros."""
    used = [host.slots[name] for name in record.slots]
    size = sum(4 * spec.rank * slot.experts * (slot.in_width + slot.out_width) for slot in used)
    if size > MOST_BYTES:
        raise ModuleRefused(
            f"{folder}: expected ranks that fit in memory, got {spec.rank} ({size} bytes at every slot); train it "
            "with smaller ranks"
        )
    matrices: Parameters = {}
    for name, in_file in record.slots.items():
        slot = host.slots[name]
        a, b = torch.zeros(0, slot.in_width), torch.zeros(slot.out_width, 0)
        if in_file.rank:
            factor = reading_factor(in_file, spec, record.use_rslora)
            a, b = loras[name].matrices["A"], times(loras[name].matrices["B"].float(), factor)
        a, b = padded(slot, a, b, spec.rank)
        if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise ModuleRefused(
                f"{folder / CONFIG}: expected numbers in reach of float32, got larger at {name} with alpha "
                f"{in_file.alpha}; train it again"
            )
        matrices[name] = {"A": a, "B": b}
    return matrices


def times(b: Tensor, factor: float) -> Tensor:
    """Multiply B by a factor; where the factor is 1 up to rounding, return B unchanged."""
    return b if abs(factor - 1) < 1e-12 else b * factor
