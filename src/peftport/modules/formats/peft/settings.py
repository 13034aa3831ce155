"""Make the ``adapter_config.json`` to write: the one that was read, except for what a port changed.

base_model_name_or_path, revision    the receiver, unless the file was read on that very host
target_modules and the like          kept where they select the same matrices on the receiver
r, rank_pattern; alpha likewise      kept where they give every matrix its actual value
task_type                            kept; for a language model, changed to the receiver's kind
auto_mapping                         a class of the origin's model type; dropped for another type
everything else                      kept, whether known to peftport or not
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftport.core.errors import ModuleRefused
from peftport.core.libraries import torch
from peftport.hosts.head import ARCHITECTURE
from peftport.hosts.host import Host
from peftport.hosts.layouts import HostKind, layouts
from peftport.hosts.slots import Slot, linear_classes
from peftport.modules.formats.peft.config import parse_peft_config
from peftport.modules.formats.peft.names import head_prefix, whole_slots
from peftport.modules.formats.peft.shards import CONFIG
from peftport.modules.formats.peft.targets import ALL_LINEAR, Targets
from peftport.modules.record import PeftRecord

if TYPE_CHECKING:
    from torch import Tensor

# On a host with its trained head there is none: of SEQ_CLS, PEFT expects the head's own weights in the file.
TASK_TYPES = {"encoder": "FEATURE_EXTRACTION", "encoder_decoder": "SEQ_2_SEQ_LM", "decoder": "CAUSAL_LM"}
# Whether the names begin at a model with a head in the class for this task type; None: as in the host.
HEADED: dict[HostKind, bool | None] = {"encoder": None, "encoder_decoder": None, "decoder": True}
LANGUAGE_MODELS = ("CAUSAL_LM", "SEQ_2_SEQ_LM")
LANGUAGE_MODEL_CLASSES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")


@dataclass(frozen=True, eq=False)
class Written:
    """One LoRA as it is written: A (r, D_in), B (D_out, r), of experts A (E r, D_in), B (D_out, r E), alpha and r."""

    a: Tensor
    b: Tensor
    alpha: float
    rank: int


def written_settings(loras: Mapping[str, Written], record: PeftRecord, host: Host) -> dict[str, Any]:
    """Return the configuration of LoRAs that are given by path below the base model.

    Raises:
        ModuleRefused: the configuration in the record is invalid.

    """
    fresh = _fresh(loras, record, host)
    if not record.config:
        return fresh
    said = dict(record.config)
    rules, prefix = Targets(parse_peft_config(said, Path(CONFIG)), Path(CONFIG)), written_prefix(record, host)
    try:
        ranks = all(rules.rank(prefix + path) == lora.rank for path, lora in loras.items())
        alphas = all(rules.alpha(prefix + path) == lora.alpha for path, lora in loras.items())
        places = _targeted(rules, prefix, record, host, loras) == loras.keys()
    except ModuleRefused:  # a pattern that takes too long on this host's names
        ranks = alphas = places = False
    if not ranks:
        said |= {key: fresh[key] for key in ("r", "rank_pattern")}
        if said.get("init_lora_weights") == "orthogonal":  # PEFT refuses it for odd ranks
            said["init_lora_weights"] = True
    if not alphas:
        said |= {key: fresh[key] for key in ("lora_alpha", "alpha_pattern")}
    if not places:
        said |= dict.fromkeys({"exclude_modules", "layers_to_transform", "layers_pattern"} & said.keys())
        said |= {key: fresh[key] for key in ("target_modules", "target_parameters") if key in fresh}
    return said | _of_the_host(said, record, host, fresh)


def written_prefix(record: PeftRecord, host: Host) -> str:
    """Return the prefix of the names of the host's matrices in the file.

    For the model type of the file it is unchanged. For another type, or where there was no file, it is that of the
    class for which the task type is: PEFT ignores tensors of other names, with a warning at most.
    """
    headed = record.headed
    other_type = record.host is not None and record.host.model_type != host.fingerprint.model_type
    if not record.config or (other_type and _of_language_model(record)):
        headed = None if type(host.model).__name__.endswith(ARCHITECTURE) else HEADED[host.kind]
    return head_prefix(host, headed)


def _of_language_model(record: PeftRecord) -> bool:
    mapping = record.config.get("auto_mapping")
    class_name = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    return record.config.get("task_type") in LANGUAGE_MODELS or str(class_name).endswith(LANGUAGE_MODEL_CLASSES)


def _fresh(loras: Mapping[str, Written], record: PeftRecord, host: Host) -> dict[str, Any]:
    """Make the configuration of a LoRA that was not read from a PEFT file."""
    parameters = [
        slot.full_path for slot in host.slots.values() if slot.kind == "parameter" and slot.full_path in loras
    ]
    rank = Counter(lora.rank for lora in loras.values()).most_common(1)[0][0]
    alpha = Counter(lora.alpha for lora in loras.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": None if type(host.model).__name__.endswith(ARCHITECTURE) else TASK_TYPES[host.kind],
        **base_of(host),
        "r": rank,
        "lora_alpha": _number(alpha),
        "lora_dropout": record.dropout,
        "use_rslora": record.use_rslora,
        "rank_pattern": {path: lora.rank for path, lora in loras.items() if lora.rank != rank},
        "alpha_pattern": {path: _number(lora.alpha) for path, lora in loras.items() if lora.alpha != alpha},
        "target_modules": _targets(host, [path for path in loras if path not in parameters]),
        **({"target_parameters": parameters} if parameters else {}),
        "fan_in_fan_out": _lies_fan_in(host),
        "bias": "none",
        "inference_mode": True,
    }


def _of_the_host(said: dict[str, Any], record: PeftRecord, host: Host, fresh: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that depend on the host, for a file that was read on another host."""
    before, now = record.host, host.fingerprint
    if before is None or before.same_host(now):
        return {}
    changed = {key: fresh[key] for key in ("base_model_name_or_path", "revision") if key in said or fresh[key]}
    if before.model_type != now.model_type and "auto_mapping" in said:
        changed["auto_mapping"] = None
    if before.family != now.family and "fan_in_fan_out" in said:
        changed["fan_in_fan_out"] = fresh["fan_in_fan_out"]
    layout = layouts().get(before.family)
    if said.get("task_type") in LANGUAGE_MODELS and layout is not None and layout.kind != host.kind:
        changed["task_type"] = fresh["task_type"]
    return changed


def base_of(host: Host) -> dict[str, str | None]:
    """Return where the host is loaded from: its folder, or its hub id and revision."""
    if host.folder is None or "/" in host.name:
        name, _, revision = host.name.partition("@")
        return {"base_model_name_or_path": name, "revision": revision or None}
    return {"base_model_name_or_path": str(host.folder), "revision": None}


def _targeted(rules: Targets, prefix: str, record: PeftRecord, host: Host, loras: Iterable[str]) -> set[str]:
    """Return the paths of the modules on this host that PEFT would put a LoRA on, by the settings of the file."""
    if not rules.known:  # PEFT has a default by leaf names for each model type
        if record.host is None or record.host.model_type != host.fingerprint.model_type:
            return set()
        slots = whole_slots(host).values()
        sites = {slot.site for slot in slots if slot.path in set(loras)}
        return {slot.path for slot in slots if slot.site in sites}
    parameters = {slot.full_path for slot in host.slots.values() if slot.kind == "parameter"}
    every = str(rules.config.target_modules).lower() == ALL_LINEAR
    return {path for path in parameters if rules.has_parameter(prefix + path)} | {
        path
        for path, module in host.base.named_modules()
        if path and (not every or isinstance(module, linear_classes())) and rules.has(prefix + path)
    }


def _lies_fan_in(host: Host) -> bool:
    """Return whether the host stores its matrices as GPT-2 does, (D_in, D_out)."""
    linear: list[Slot] = [slot for slot in host.slots.values() if slot.kind == "linear"]
    return any(not isinstance(host.slot_module(slot), torch.nn.Linear) for slot in linear)


def _number(alpha: float) -> float | int:
    return int(alpha) if alpha.is_integer() else alpha


def _targets(host: Host, paths: list[str]) -> list[str]:
    """Return names by which PEFT finds exactly these matrices: the last parts of their paths, or else whole paths."""
    leaves = {path.rpartition(".")[2] for path in paths}
    names = [name for name, _ in host.model.named_modules() if name.rpartition(".")[2] in leaves]
    return sorted(leaves) if len(names) == len(paths) else sorted(paths)
