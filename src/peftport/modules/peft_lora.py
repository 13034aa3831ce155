"""PEFT LoRA checkpoints: read wherever a module is, written so that ``PeftModel.from_pretrained`` loads them.

    adapter_config.json            r, lora_alpha, target_modules, ...
    adapter_model.safetensors      base_model.model.<path>.lora_A.weight (R, D_in), ...lora_B.weight (D_out, R)

Where slots are parts of one fused matrix (GPT-2's q, k, v), PEFT sees one LoRA on the whole matrix: the parts' A are
put above one another and their B on a diagonal, rank and alpha growing alike, which is the same update exactly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_save
from torch import Tensor

from peftport.errors import ModuleRefused, SlotMismatch
from peftport.hosts.load import Host
from peftport.hosts.slots import Slot
from peftport.modules.module import HEAD, Module
from peftport.modules.native import read_tensors
from peftport.techniques.base import Parameters
from peftport.techniques.lora import LoraSpec

CONFIG, TENSORS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
TASK_TYPES = {"encoder": "FEATURE_EXTRACTION", "encoder_decoder": "SEQ_2_SEQ_LM", "decoder": "CAUSAL_LM"}
# Settings that change the update and are not read yet: anything but these values is refused by name.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None), "use_qalora": (False, None), "rank_pattern": ({}, None), "alpha_pattern": ({}, None),
    "bias": ("none", None), "lora_bias": (False, None), "modules_to_save": (None, []),
    "layer_replication": (None,), "trainable_token_indices": (None,), "target_parameters": (None, []),
    "megatron_config": (None,), "alora_invocation_tokens": (None,), "use_bdlora": (None,), "arrow_config": (None,),
    "kasa_config": (None,), "monteclora_config": (None,),
    # Other initialisations (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) start by changing the host's own weights.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva", "mica"),
}  # fmt: skip


def read_peft(folder: Path, host: Host) -> Module:
    """A PEFT LoRA folder as a module on the host it was trained on.

    Raises:
        ModuleRefused: another PEFT type, a setting that is not supported, pickled weights, or a file that is broken.
        SlotMismatch: a matrix belongs to no slot of the host, or has the wrong shape there.

    """
    config = _read_config(folder)
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    if config.get("use_rslora"):
        alpha *= rank**0.5  # alpha / sqrt(r) = (alpha sqrt(r)) / r
    if not (folder / TENSORS).is_file() and (folder / PICKLED).is_file():
        raise ModuleRefused(
            f"{folder / PICKLED}: expected {TENSORS}, got pickled weights, which are never loaded; save as safetensors"
        )
    matrices: Parameters = {}
    whole = {slot.path: slot for slot in host.slots.values() if slot.kind == "linear" and not _is_part(slot, host)}
    for key, tensor in read_tensors(folder / TENSORS).items():
        path, matrix = _parse(key, folder, host)
        if path not in whole:
            raise SlotMismatch(
                f"{folder.name}: {key}: {host.name} has no slot at {path}; give the host it was trained on (--from)"
            )
        slot = whole[path]
        expected = {"A": (rank, slot.in_width), "B": (slot.out_width, rank)}[matrix]
        if tuple(tensor.shape) != expected:
            raise SlotMismatch(
                f"{folder.name}: {slot.name}: lora_{matrix} is {tuple(tensor.shape)}, {host.name} takes {expected} "
                "there at this rank; give the host it was trained on (--from)"
            )
        matrices.setdefault(slot.name, {})[matrix] = tensor.float()
    ordered = {name: matrices[name] for name in host.slots if name in matrices}
    sites = tuple(dict.fromkeys(host.slots[name].site for name in ordered))
    _check_complete(folder, ordered, sites, host)
    spec = LoraSpec(rank=rank, alpha=alpha, sites=sites)
    return Module(spec, host.fingerprint, ordered)


def write_peft(module: Module, host: Host, folder: Path) -> None:
    """Write a LoRA module of this host as PEFT does, into an existing folder.

    Raises:
        ModuleRefused: the module is no LoRA, or has a linear readout, which PEFT would lose.

    """
    if not isinstance(module.spec, LoraSpec):
        raise ModuleRefused(
            f"--format peft: PEFT has no {module.spec.kind} of this kind; expected lora; use the native format"
        )
    if HEAD in module.matrices:
        raise ModuleRefused(
            "--format peft: expected a module without a linear readout, whose head PEFT would lose; use native"
        )
    spec, flat = module.spec, dict[str, Tensor]()
    paths: dict[str, list[Slot]] = {}
    for name in module.matrices:
        paths.setdefault(host.slots[name].path, []).append(host.slots[name])
    factor = max(len(slots) for slots in paths.values())
    for path, slots in paths.items():
        a, b = _fuse(module, slots, host, spec.rank * factor)
        full = f"base_model.model.{_head_prefix(host)}{path}"
        flat[f"{full}.lora_A.weight"], flat[f"{full}.lora_B.weight"] = a, b
    config = _config(spec, host, _targets(host, list(paths)), factor)
    (folder / TENSORS).write_bytes(safetensors_save(dict(sorted(flat.items())), metadata={"format": "pt"}))
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _targets(host: Host, paths: list[str]) -> list[str]:
    """Names by which PEFT finds these matrices and no others: the last parts of their paths, or else whole paths."""
    leaves = {path.rpartition(".")[2] for path in paths}
    found = [name for name, _ in host.model.named_modules() if name.rpartition(".")[2] in leaves]
    return sorted(leaves) if len(found) == len(paths) else sorted(paths)


def _config(spec: LoraSpec, host: Host, targets: list[str], factor: int) -> dict[str, Any]:
    fused = any(not isinstance(host.slot_module(s), torch.nn.Linear) for s in host.slots.values() if s.kind == "linear")
    return {
        "peft_type": "LORA",
        "task_type": TASK_TYPES[host.kind],
        "base_model_name_or_path": host.name if host.folder is None else str(host.folder),
        "r": spec.rank * factor,
        "lora_alpha": spec.alpha * factor,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "fan_in_fan_out": fused,
        "bias": "none",
        "inference_mode": True,
    }


def _fuse(module: Module, slots: list[Slot], host: Host, rank: int) -> tuple[Tensor, Tensor]:
    """A (R, D_in) and B (D_out, R) of the whole matrix from those of its parts, padded with zeros to one rank."""
    whole = host.slot_module(slots[0])
    from peftport.hosts.slots import linear_shape

    out_width, in_width = linear_shape(whole)
    a, b, row = torch.zeros(rank, in_width), torch.zeros(out_width, rank), 0
    for slot in slots:
        own = module.matrices[slot.name]
        end = row + own["A"].shape[0]
        a[row:end] = own["A"]
        b[slot.start : slot.start + slot.out_width, row:end] = own["B"]
        row = end
    return a, b


def _is_part(slot: Slot, host: Host) -> bool:
    from peftport.hosts.slots import linear_shape

    return linear_shape(host.slot_module(slot))[0] != slot.out_width


def _head_prefix(host: Host) -> str:
    """Path of the base model inside the model that people load for this kind of host."""
    name = getattr(host.model, "base_model_prefix", "")
    return f"{name}." if host.base is not host.model else ""


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = config["peft_type"]
        if kind == "LORA":
            rank, alpha = int(config["r"]), float(config["lora_alpha"])
            if rank < 1 or not 0 < alpha < float("inf"):
                raise ValueError(f"r {rank}, lora_alpha {alpha}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModuleRefused(f"{path}: expected a PEFT configuration, got: {error!r}; save the adapter again") from error
    if kind != "LORA":
        raise ModuleRefused(f"{path}: expected peft_type LORA, got {kind}; other PEFT types are not read")
    for key, harmless in UNSUPPORTED.items():
        if config.get(key) not in harmless:
            raise ModuleRefused(
                f"{path}: {key} = {config[key]!r} is not supported, and dropping it would change the module; "
                "merge it away first"
            )
    return config


def _parse(key: str, folder: Path, host: Host) -> tuple[str, str]:
    name = key.removeprefix("base_model.model.")
    for ending, matrix in ((".lora_A.weight", "A"), (".lora_B.weight", "B")):
        if name.endswith(ending):
            path = name.removesuffix(ending)
            prefix = getattr(host.model, "base_model_prefix", "") + "."
            known = {slot.path for slot in host.slots.values()}
            return (path.removeprefix(prefix) if path not in known else path), matrix
    raise ModuleRefused(
        f"{folder / TENSORS}: expected lora_A and lora_B matrices only, got {key}; it would be lost, so it is refused"
    )


def _check_complete(folder: Path, matrices: Parameters, sites: tuple[str, ...], host: Host) -> None:
    if not matrices:
        raise ModuleRefused(
            f"{folder / TENSORS}: expected lora_A and lora_B matrices, found none; save the adapter again"
        )
    for slot in host.slots.values():
        if slot.site in sites and set(matrices.get(slot.name, {})) != {"A", "B"}:
            raise ModuleRefused(
                f"{folder / TENSORS}: {slot.name}: expected lora_A and lora_B in every layer, found "
                f"{sorted(matrices.get(slot.name, {})) or 'nothing'}; LoRAs on some layers only are not read yet"
            )
