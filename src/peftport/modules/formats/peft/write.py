"""Write a LoRA as PEFT does, with the ranks, alphas and dtype of the PEFT file that it came from, if any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from peftport.core.libraries import torch
from peftport.core.numbers import serialized
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot, linear_shape
from peftport.modules.formats.peft.experts import cut, wrapped_name
from peftport.modules.formats.peft.heads import settings_with_head, written_head
from peftport.modules.formats.peft.lora import in_file_scale, reading_factor, times
from peftport.modules.formats.peft.names import ROOT, full_name, head_prefix
from peftport.modules.formats.peft.settings import Written, base_of, written_prefix, written_settings
from peftport.modules.formats.peft.shards import CONFIG, TENSORS
from peftport.modules.kept import Kept
from peftport.modules.module import HEAD, Module
from peftport.modules.record import NumberType, PeftRecord, SlotInFile
from peftport.techniques.lora import LoraSpec

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 2.0**-22  # largest relative error of multiplying float32 by a factor and dividing again


def write_peft(module: Module, host: Host, folder: Path) -> None:
    """Write a LoRA module of this host as PEFT does into an existing folder; the caller has checked the module."""
    assert isinstance(module.spec, LoraSpec)
    if module.kept is not None:
        return _write_kept(module, module.kept, host, folder)
    record = module.file if isinstance(module.file, PeftRecord) else PeftRecord(slots={})
    paths: dict[str, list[Slot]] = {}
    for name in module.matrices:
        if name != HEAD:
            paths.setdefault(host.slots[name].full_path, []).append(host.slots[name])
    loras = {path: _written(module, slots, record, host) for path, slots in paths.items()}
    kept = {path: lora for path, lora in loras.items() if lora is not None}
    head = written_head(module, host)
    flat: dict[str, Tensor] = {f"{ROOT}{name}": tensor for name, tensor in head.items()}
    prefix = head_prefix(host, True) if head else written_prefix(record, host)
    written = [slot for slot in host.slots.values() if slot.full_path in kept and slot.name in module.matrices]
    for path, lora in kept.items():
        full = f"{ROOT}{prefix}{wrapped_name(paths[path][0], written)}"
        flat[f"{full}.lora_A.weight"], flat[f"{full}.lora_B.weight"] = lora.a, lora.b
    flat = as_numbers(dict(sorted(flat.items())), record.numbers)
    config = written_settings(kept, record, host)
    if head:
        config |= settings_with_head(config, list(head), module.file)
    (folder / TENSORS).write_bytes(serialized(flat, metadata={"format": "pt"}))
    as_read = bool(record.config)  # the first matching pattern counts, so their order is kept
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=not as_read) + "\n", encoding="utf-8")


def _write_kept(module: Module, kept: Kept, host: Host, folder: Path) -> None:
    """Write a file that is more than a plain LoRA as it was read, with the host that it is on now."""
    config = dict(kept.config)
    came_from = [port.origin for port in module.ports if not port.origin.same_host(host.fingerprint)]
    if came_from:
        config |= base_of(host)
    if any(mark.model_type != host.fingerprint.model_type for mark in came_from) and "auto_mapping" in config:
        config["auto_mapping"] = None
    flat = {full_name(name): tensor.contiguous() for name, tensor in sorted(kept.tensors.items())}
    (folder / TENSORS).write_bytes(serialized(flat, metadata={"format": "pt"}))
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def as_numbers(flat: dict[str, Tensor], numbers: NumberType) -> dict[str, Tensor]:
    """Cast the tensors to the dtype that the file had if no number changes; otherwise to float32."""
    narrow = {name: tensor.to(getattr(torch, numbers)).contiguous() for name, tensor in flat.items()}
    same = all(
        bool(((narrow[name].float() - tensor.float()).abs() <= ROUNDING * tensor.float().abs()).all())
        for name, tensor in flat.items()
    )
    return narrow if same else {name: tensor.float().contiguous() for name, tensor in flat.items()}


def _written(module: Module, slots: list[Slot], record: PeftRecord, host: Host) -> Written | None:
    """Return the LoRA on one matrix of the host; None where the file had none and there still is none."""
    spec, parts = module.spec, len(slots)
    assert isinstance(spec, LoraSpec)
    a, b = _fuse(module, slots, spec.rank * parts, host)
    own = record.slots.get(slots[0].name)
    used, slot = SlotInFile(rank=spec.rank * parts, alpha=spec.alpha * parts), slots[0]
    beyond = (
        None
        if own is None
        else (a.reshape(slot.experts, -1, slot.in_width)[:, own.rank :], b[:, own.rank * slot.experts :])
    )
    if own is not None and beyond is not None and own.rank <= used.rank and not any(part.any() for part in beyond):
        used = own
    if used.rank == 0:
        return None
    a, b = cut(slot, a, b, used.rank)
    unscaled = module.unscaled.get(slot.name)
    if unscaled is not None and torch.equal(times(unscaled, reading_factor(used, spec, record.use_rslora)), b):
        return Written(a, unscaled, used.alpha, used.rank)
    factor = (spec.alpha / spec.rank) / in_file_scale(used, record.use_rslora)
    return Written(a, times(b, factor).clone(), used.alpha, used.rank)


def _fuse(module: Module, slots: list[Slot], rank: int, host: Host) -> tuple[Tensor, Tensor]:
    """Combine the LoRAs of the parts of a fused matrix into A (R, D_in) and B (D_out, R) of the whole."""
    if slots[0].kind == "parameter":
        own = module.matrices[slots[0].name]
        return own["A"], own["B"]
    out_width, in_width = linear_shape(host.slot_module(slots[0]))
    a, b, row = torch.zeros(rank, in_width), torch.zeros(out_width, rank), 0
    for slot in slots:
        own = module.matrices[slot.name]
        end = row + own["A"].shape[0]
        a[row:end] = own["A"]
        b[slot.rows, row:end] = own["B"]
        row = end
    return a, b
