"""Read PEFT's ``adapter_config.json`` of a LoRA: each setting is supported, harmless, or refused by name.

Keys that older versions of PEFT do not write get PEFT's default values.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from peftport.core.errors import ModuleRefused
from peftport.modules.formats.tensors import one_line, printable, read_text

Names = Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)]
Layers = Annotated[tuple[int, ...], BeforeValidator(lambda v: (v,) if isinstance(v, int) else v)]
# Unsupported settings that change the update: any other values than these are refused.
REFUSED: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None), "use_qalora": (False, None), "bias": ("none", None), "lora_bias": (False, None),
    "layer_replication": (None, []), "trainable_token_indices": (None, [], {}),
    "megatron_config": (None,), "alora_invocation_tokens": (None, []),
    "use_bdlora": (None,), "arrow_config": (None,), "kasa_config": (None,), "monteclora_config": (None,),
    "velora_config": (None,), "enable_lora": (None,),
    # Other initialisations (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) start by changing the host's own weights.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva", "mica"),
}  # fmt: skip
READ = ("LORA", "ADALORA", "IA3", "VERA", "LOHA", "LOKR", "OFT")
UNREPEATABLE = ("pissa_niter", "corda", "loftq", "lora_ga")
KEEP = "keep it on its host, or use the model that PEFT's merge_and_unload makes of both as a host"
REMEDIES = {
    "alora_invocation_tokens": "it acts on a part of each text, which no plain LoRA does; keep it on its host",
    "layer_replication": "it was trained on a deeper host than this one; merge it with merge_and_unload and use that "
    "model as a host",
    "enable_lora": "save the adapter again with a PEFT of today",
}
UNKNOWN = "this version of peftport does not know it; if the trained LoRA computes the same without, set it to null"
NUMBERS = ("r", "lora_alpha")  # these may be absent, but not null
# Settings that do not affect a trained LoRA: where it came from, how it was initialised and trained.
HARMLESS = frozenset({
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "fan_in_fan_out",
    "inference_mode", "loftq_config", "lora_ga_config", "megatron_core", "merge_weights", "modules_to_save",
    "peft_type", "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
})  # fmt: skip
MOST_DEPTH = 50


class PeftConfig(BaseModel):
    """The settings of a LoRA that determine what it computes, and on which matrices."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    r: PositiveInt = 8
    lora_alpha: PositiveFloat = 8.0
    lora_dropout: float = 0.0
    use_rslora: bool = False
    rank_pattern: dict[str, PositiveInt] = {}
    alpha_pattern: dict[str, PositiveFloat] = {}
    target_parameters: Names = ()
    target_modules: str | tuple[str, ...] | None = None
    exclude_modules: str | tuple[str, ...] | None = None
    layers_to_transform: Layers = ()
    layers_pattern: Names = Field(default=())


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        ModuleRefused: the file is unreadable, too large, nested too deeply, or not an object.

    """
    try:
        read = json.loads(read_text(path))
        _check_writable(read, "the file", 0)
        json.dumps(read, ensure_ascii=False).encode()  # an unpaired surrogate could not be written again
    except (OSError, ValueError, RecursionError) as error:
        raise ModuleRefused(f"{path}: expected {what}, got: {one_line(error)}; save the adapter again") from error
    if not isinstance(read, dict):
        raise ModuleRefused(f"{path}: expected {what}, got a {type(read).__name__}; save the adapter again")
    return read


def _check_writable(value: Any, where: str, depth: int) -> None:
    """Refuse numbers that JSON does not have, and objects nested so deeply that they could not be written again."""
    if depth > MOST_DEPTH or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{where}: {'objects too deep within objects' if depth > MOST_DEPTH else value}")
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        _check_writable(inner, str(key), depth + 1)


def check_starts(said: dict[str, Any], path: Path) -> None:
    """Refuse a LoRA whose initialisation changed the host's weights in a way that cannot be repeated here.

    Raises:
        ModuleRefused: it was started so.

    """
    start = said.get("init_lora_weights")
    if said.get("peft_type") == "LORA" and isinstance(start, str) and start.lower().startswith(UNREPEATABLE):
        raise ModuleRefused(
            f"{path}: init_lora_weights = {printable(start)!r}: this start changed the weights of the host before the "
            "training, and how is not in the file: give the changed host that it was trained on (save it with the "
            "LoRA's training script) and set init_lora_weights to true, or save the adapter as a LoRA of the host as "
            "it was, by PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )


def parse_peft_config(read: dict[str, Any], path: Path) -> PeftConfig:
    """Parse the configuration of a PEFT LoRA; ``path`` is its JSON file.

    Raises:
        ModuleRefused: it is not a configuration, has another PEFT type, or a setting that would be lost.

    """
    kind = read.get("peft_type")
    if not isinstance(kind, str):
        raise ModuleRefused(f"{path}: expected a PEFT configuration, got no peft_type; save the adapter again")
    if kind != "LORA":
        raise ModuleRefused(
            f"{path}: expected peft_type {', '.join(READ)}, got {printable(kind)}, which is not an update of linear "
            "maps; keep it on its host, or train another of these types"
        )
    _refuse_what_would_be_lost(path, read)
    present = {key: read[key] for key in PeftConfig.model_fields if key in read}
    known = {key: value for key, value in present.items() if value is not None or key in NUMBERS}
    try:
        return PeftConfig.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        where = printable(".".join(str(part) for part in first["loc"]))
        shown = printable(repr(first["input"]))
        raise ModuleRefused(
            f"{path}: expected a PEFT configuration, got: {where}: {first['msg']}, {shown}; save the adapter again"
        ) from error


def _refuse_what_would_be_lost(path: Path, read: dict[str, Any]) -> None:
    for key, value in read.items():
        if (
            key in HARMLESS
            or key in PeftConfig.model_fields
            or any(value is v or value == v for v in REFUSED.get(key, ()))
        ):
            continue
        if key not in REFUSED and (value is None or value is False or value in ("", [], {})):
            continue  # a setting of a later version that is switched off
        raise ModuleRefused(
            f"{path}: {printable(key)} = {printable(repr(value))} is not supported, and dropping it would change the "
            f"module; {REMEDIES.get(key, KEEP) if key in REFUSED else UNKNOWN}"
        )
