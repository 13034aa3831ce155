"""Writing a LoRA as PEFT does: with the ranks, alphas and numbers of the PEFT file it came from, where it has any."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_save
from torch import Tensor

from peftport.hosts.host import Host
from peftport.hosts.slots import Slot, linear_shape
from peftport.modules.module import Module
from peftport.modules.peft_lora import CONFIG, TENSORS, head_prefix, in_file_scale, times
from peftport.modules.record import NumberType, PeftRecord, SlotInFile
from peftport.techniques.lora import LoraSpec

TASK_TYPES = {"encoder": "FEATURE_EXTRACTION", "encoder_decoder": "SEQ_2_SEQ_LM", "decoder": "CAUSAL_LM"}
ROUNDING = 2.0**-22  # a factor multiplied into float32 and out again is off by no more


@dataclass(frozen=True, eq=False)
class Written:
    """One LoRA as the file gets it: A (r, D_in), B (D_out, r), and the alpha beside them."""

    a: Tensor
    b: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """r, at this matrix."""
        return int(self.a.shape[0])


def write_peft(module: Module, host: Host, folder: Path) -> None:
    """Write a LoRA module of this host as PEFT does, into an existing folder. What it holds was checked before."""
    assert isinstance(module.spec, LoraSpec)
    record = module.file if isinstance(module.file, PeftRecord) else PeftRecord(slots={})
    paths: dict[str, list[Slot]] = {}
    for name in module.matrices:
        paths.setdefault(host.slots[name].path, []).append(host.slots[name])
    loras = {path: _written(module, slots, record, host) for path, slots in paths.items()}
    kept = {path: lora for path, lora in loras.items() if lora is not None}
    flat: dict[str, Tensor] = {}
    for path, lora in kept.items():
        full = f"base_model.model.{head_prefix(host, record.headed)}{path}"
        flat[f"{full}.lora_A.weight"], flat[f"{full}.lora_B.weight"] = lora.a, lora.b
    flat = as_numbers(dict(sorted(flat.items())), record.numbers)
    config = _config(kept, record, host)
    (folder / TENSORS).write_bytes(safetensors_save(flat, metadata={"format": "pt"}))
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def as_numbers(flat: dict[str, Tensor], numbers: NumberType) -> dict[str, Tensor]:
    """The tensors in the type that the file had, if all of them can be written in it without loss; else in float32."""
    narrow = {name: tensor.to(getattr(torch, numbers)).contiguous() for name, tensor in flat.items()}
    same = all(
        bool(((narrow[name].float() - tensor.float()).abs() <= ROUNDING * tensor.float().abs()).all())
        for name, tensor in flat.items()
    )
    return narrow if same else {name: tensor.float().contiguous() for name, tensor in flat.items()}


def _written(module: Module, slots: list[Slot], record: PeftRecord, host: Host) -> Written | None:
    """The LoRA on one matrix of the host; None where the file had none and there still is none."""
    spec, parts = module.spec, len(slots)
    assert isinstance(spec, LoraSpec)
    a, b = _fuse(module, slots, spec.rank * parts, host)
    own = record.slots.get(slots[0].name)
    used = SlotInFile(rank=spec.rank * parts, alpha=spec.alpha * parts)
    if own is not None and own.rank <= used.rank and not a[own.rank :].any() and not b[:, own.rank :].any():
        used = own
    if used.rank == 0:
        return None
    factor = (spec.alpha / spec.rank) / in_file_scale(used, record.use_rslora)
    return Written(a[: used.rank].clone(), times(b[:, : used.rank], factor).clone(), used.alpha)


def _fuse(module: Module, slots: list[Slot], rank: int, host: Host) -> tuple[Tensor, Tensor]:
    """A (R, D_in) and B (D_out, R) of the whole matrix from those of its parts."""
    out_width, in_width = linear_shape(host.slot_module(slots[0]))
    a, b, row = torch.zeros(rank, in_width), torch.zeros(out_width, rank), 0
    for slot in slots:
        own = module.matrices[slot.name]
        end = row + own["A"].shape[0]
        a[row:end] = own["A"]
        b[slot.start : slot.start + slot.out_width, row:end] = own["B"]
        row = end
    return a, b


def _config(loras: dict[str, Written], record: PeftRecord, host: Host) -> dict[str, Any]:
    rank = Counter(lora.rank for lora in loras.values()).most_common(1)[0][0]
    alpha = Counter(lora.alpha for lora in loras.values()).most_common(1)[0][0]
    fused = any(not isinstance(host.slot_module(s), torch.nn.Linear) for s in host.slots.values() if s.kind == "linear")
    return {
        "peft_type": "LORA",
        "task_type": TASK_TYPES[host.kind],
        "base_model_name_or_path": host.name if host.folder is None else str(host.folder),
        "r": rank,
        "lora_alpha": _number(alpha),
        "lora_dropout": record.dropout,
        "use_rslora": record.use_rslora,
        "rank_pattern": {path: lora.rank for path, lora in loras.items() if lora.rank != rank},
        "alpha_pattern": {path: _number(lora.alpha) for path, lora in loras.items() if lora.alpha != alpha},
        "target_modules": _targets(host, list(loras)),
        "fan_in_fan_out": fused,
        "bias": "none",
        "inference_mode": True,
    }


def _number(alpha: float) -> float | int:
    return int(alpha) if alpha.is_integer() else alpha


def _targets(host: Host, paths: list[str]) -> list[str]:
    """Names by which PEFT finds these matrices and no others: the last parts of their paths, or else whole paths."""
    leaves = {path.rpartition(".")[2] for path in paths}
    found = [name for name, _ in host.model.named_modules() if name.rpartition(".")[2] in leaves]
    return sorted(leaves) if len(found) == len(paths) else sorted(paths)
