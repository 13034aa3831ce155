"""Fold a PEFT file that is more than a plain LoRA into a LoRA: what its library adds to the host's linear maps.

PEFT itself puts the file on the host and merges it into the weights, so that whatever it changes shows as a difference
D = W' - W at each linear map, which is factored by its largest singular values, D ~ B A. This holds for every technique
that is an update of linear maps, whatever its equation:

    DoRA (arXiv 2402.09353), LoRA with biases or started by PiSSA (2404.02948) or OLoRA (2406.01775), on a head or an
    embedding, AdaLoRA (2303.10512), (IA)3 (2205.05638), VeRA (2310.11454), LoHa (2108.06098), LoKr (2309.14859),
    OFT (2306.07280)

The rank is the smallest one at which every map's error ||D - B A|| / ||D|| is at most `ENOUGH`, or `MOST_RANK`; the
errors are put on record. Changes of anything but linear maps of the layers are kept apart (`Kept.outside`).
"""

from __future__ import annotations

import copy
import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftport.core.errors import ModuleRefused, first_line
from peftport.core.libraries import nn, torch, transformers
from peftport.hosts.changes import part_vocabularies
from peftport.hosts.host import Host
from peftport.hosts.load import quiet_transformers
from peftport.hosts.slots import Slot
from peftport.hosts.task_head import CLASSES, rows_of
from peftport.modules.formats.peft.config import PeftConfig
from peftport.modules.formats.peft.heads import whole_weights
from peftport.modules.formats.peft.left_out import leaves_out
from peftport.modules.formats.peft.names import bare, full_name, module_of, whole_slots
from peftport.modules.formats.peft.targets import Targets
from peftport.modules.head import kind_of_task_type
from peftport.modules.kept import Kept

if TYPE_CHECKING:
    from torch import Tensor

TITLES = {"ADALORA": "AdaLoRA", "IA3": "(IA)3", "VERA": "VeRA", "LOHA": "LoHa", "LOKR": "LoKr"}
ENOUGH, MOST_RANK = 1e-3, 128
EXACT_UP_TO = 1024  # of larger matrices only the largest singular values are computed
MOST_SIZE = 65536  # of a rank or block in a configuration
UNSAID = (
    "auto_mapping", "runtime_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "base_model_name_or_path", "revision",
)  # fmt: skip
LANGUAGE_MODELS = {"CAUSAL_LM": "AutoModelForCausalLM", "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM"}
HEADED = {
    "encoder": "AutoModelForMaskedLM",
    "decoder": "AutoModelForCausalLM",
    "encoder_decoder": "AutoModelForSeq2SeqLM",
}


@dataclass(frozen=True, eq=False)
class Folded:
    """What a file changes: factors (A, B) of each slot and their errors, other weights, and all weights of a head."""

    factors: dict[str, tuple[Tensor, Tensor]]
    errors: dict[str, float]
    kept: Kept
    merged: dict[str, Tensor]

    @property
    def rank(self) -> int:
        """The rank of every slot."""
        return max((len(a) for a, _ in self.factors.values()), default=1)


def fold(folder: Path, kept: Kept, host: Host, head: tuple[str, ...] = ()) -> Folded:
    """Fold a file on a host. ``head``: the names of its head's tensors.

    Raises:
        ModuleRefused: PEFT is not installed or cannot put the file on this host.

    """
    _check_sizes(kept.config, folder)
    _check_patterns(kept.config, folder, host)
    with _quiet():
        model = _load(folder, kept, host)
        if kept.parts_vocabularies:
            part_vocabularies(model)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        merged = _merged(folder, kept, model)
    after = {name: parameter.detach() for name, parameter in merged.named_parameters()}
    broken = [name for name, own in after.items() if not bool(torch.isfinite(own).all())]
    if broken:
        raise ModuleRefused(
            f"{folder}: {broken[0]}: expected finite weights after merging, got NaN or infinity; train it again"
        )
    changes = {name: own - before[name] for name, own in after.items() if not torch.equal(own, before[name])}
    deltas, outside = _split(changes, merged, host, head)
    if not deltas and not outside and not head:
        raise ModuleRefused(f"{folder}: expected changes of {host.name}'s weights, found none; save the adapter again")
    factors, errors = _factored(deltas)
    return Folded(
        factors, errors, replace(kept, outside=outside), {name: after[name].float() for name in head if name in after}
    )


def title_of(said: Mapping[str, Any]) -> str:
    """Return what users call the technique of a configuration."""
    kind = str(said.get("peft_type"))
    if kind == "LORA":
        return "DoRA" if said.get("use_dora") else "LoRA with more than its two matrices at the layers"
    return TITLES.get(kind, kind)


def _load(folder: Path, kept: Kept, host: Host) -> Any:
    """Load the model that the file was trained on, in float32."""
    task = kept.config.get("task_type")
    options: dict[str, Any] = {}
    kind = kind_of_task_type(task)
    if kind is not None:
        auto, options = CLASSES[kind], {"num_labels": rows_of(whole_weights(kept.tensors), host, kind) or 2}
    elif isinstance(task, str) and task in LANGUAGE_MODELS:
        auto = LANGUAGE_MODELS[task]
    else:
        auto = _class_in(kept, host)
    try:
        if host.folder is None:
            return _in_memory(getattr(transformers, auto), host, options)
        return getattr(transformers, auto).from_pretrained(
            host.folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True,
            **options,
        )  # fmt: skip
    except Exception as error:  # a broken folder can make transformers raise any exception
        raise ModuleRefused(
            f"{folder}: expected {host.name} to load as the {auto} that it was trained on, got: {first_line(error)}; "
            "give the host it was trained on (--from)"
        ) from error


def _in_memory(auto: Any, host: Host, options: dict[str, Any]) -> Any:
    """Make the model of a host that was not loaded from files, with the host's own weights."""
    if not all(parameter.is_floating_point() for parameter in host.model.parameters()):
        raise ValueError("a model in memory whose weights are packed")
    config = copy.deepcopy(host.config)
    for name, value in options.items():
        setattr(config, name, value)
    config._attn_implementation = "eager"
    model = (auto.from_config if hasattr(auto, "from_config") else auto)(config).float().eval()
    model.base_model.load_state_dict(host.base.state_dict(), strict=False)
    if type(model) is type(host.model):
        model.load_state_dict(host.model.state_dict())
    return model


def _class_in(kept: Kept, host: Host) -> str:
    mapping = kept.config.get("auto_mapping")
    name = str(mapping.get("base_model_class")) if isinstance(mapping, dict) else ""
    known = getattr(transformers, name, None) if name.isidentifier() else None
    if isinstance(known, type) and issubclass(known, transformers.PreTrainedModel):
        return name
    prefix = f"{getattr(host.model, 'base_model_prefix', '')}."
    return HEADED[host.kind] if any(key.startswith(prefix) for key in kept.tensors) else "AutoModel"


def _merged(folder: Path, kept: Kept, model: Any) -> nn.Module:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # which peft imports, and which misses a kernel
    try:
        import peft
    except ImportError as error:
        raise ModuleRefused(
            f"{folder}: {title_of(kept.config)} is folded by the library peft, which is not installed; "
            "pip install 'peftport[peft]'"
        ) from error
    title = title_of(kept.config)
    try:
        config = peft.PeftConfig.from_peft_type(**_known(folder, kept.config, peft))
        wrapped = peft.get_peft_model(model, config)
        expected = set(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False))
        tensors = {full_name(name): tensor for name, tensor in kept.tensors.items()}
        loaded = peft.set_peft_model_state_dict(wrapped, tensors)
        missing = _missing(expected - tensors.keys(), kept)
        unknown = list(loaded.unexpected_keys)
        if not missing and not unknown:
            merged: nn.Module = wrapped.merge_and_unload()
            return merged
    except ModuleRefused:
        raise
    except Exception as error:  # a broken file can make peft raise any exception
        raise ModuleRefused(
            f"{folder}: expected a {title} that PEFT can put on this host and merge into its weights, got: "
            f"{first_line(error)}; give the host it was trained on (--from)"
        ) from error
    first = [*missing, *unknown][0]
    raise ModuleRefused(
        f"{folder}: {bare(first)[:200]}: expected the tensors that PEFT has for this configuration, this "
        f"one is {'missing' if missing else 'none of them'}; save the adapter again, or give the host it was trained on"
    )


def _known(folder: Path, said: Mapping[str, Any], peft: Any) -> dict[str, Any]:
    """Return the settings of a configuration without those that say where it came from; nothing in them is run."""
    names = {each.name for each in fields(peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(said["peft_type"])])}
    odd = [key for key, value in said.items() if key not in names and value not in (None, False, "", [], {})]
    if odd or said.get("megatron_config"):
        raise ModuleRefused(
            f"{folder}: {odd[0] if odd else 'megatron_config'}: expected settings that the installed PEFT has, got one "
            "that it has not; install a newer PEFT, or set it to null if the module computes the same without"
        )
    kept = {key: value for key, value in said.items() if key in names and key not in UNSAID}
    return {**kept, "inference_mode": True}


def _missing(keys: set[str], kept: Kept) -> list[str]:
    """Return the tensors that a file lacks; VeRA's shared matrices may be drawn again from their seed."""
    drawn = kept.config.get("peft_type") == "VERA" and not kept.config.get("save_projection", True)
    return sorted(
        key
        for key in keys
        if not (drawn and re.search(r"\.vera_[AB]$", key)) and not leaves_out(module_of(key), kept.leave_out)
    )


def _split(
    changes: Mapping[str, Tensor], model: nn.Module, host: Host, head: tuple[str, ...]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the changes (D_out, D_in) of linear slots by slot, and all others by name; those of a head are neither."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    by_weight: dict[str, Slot] = {
        f"{slot.path}.weight": slot for slot in whole_slots(host).values() if slot.kind == "linear"
    }
    deltas: dict[str, Tensor] = {}
    outside: dict[str, Tensor] = {}
    for name, change in changes.items():
        slot = by_weight.get(name) or by_weight.get(name.removeprefix(prefix))
        if slot is not None:
            stored = model.get_submodule(name.rpartition(".")[0])
            deltas[slot.name] = change if isinstance(stored, nn.Linear) else change.T
        elif name not in head:
            outside[name] = change
    return {name: deltas[name] for name in host.slots if name in deltas}, outside


def _factored(deltas: Mapping[str, Tensor]) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, float]]:
    """Return A (R, D_in) and B (D_out, R) of every change at one rank R, with their relative errors."""
    parts = {name: _singular(delta) for name, delta in deltas.items()}
    totals = {name: float(delta.double().square().sum()) for name, delta in deltas.items()}
    rank = max((_rank(values, totals[name]) for name, (_, values, _) in parts.items()), default=1)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    errors: dict[str, float] = {}
    for name, (left, values, right) in parts.items():
        root = values[:rank].sqrt()
        factors[name] = ((root.unsqueeze(1) * right[:, :rank].T).float(), (left[:, :rank] * root).float())
        errors[name] = _left_over(values[:rank], totals[name])
    return factors, errors


def _singular(delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, S and V of D = U S V^T, as many as can be needed."""
    if min(delta.shape) <= EXACT_UP_TO:
        left, values, right = torch.linalg.svd(delta.double(), full_matrices=False)
        return left, values, right.T
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.svd_lowrank(delta, q=MOST_RANK + 16, niter=4)


def _rank(values: Tensor, total: float) -> int:
    most = min(MOST_RANK, len(values))
    return next((rank for rank in range(1, most) if _left_over(values[:rank], total) <= ENOUGH), most)


def _left_over(values: Tensor, total: float) -> float:
    """Return the relative error of the product of these singular values in the Frobenius norm."""
    return math.sqrt(max(0.0, 1 - float(values.double().square().sum()) / total)) if total else 0.0


def _check_sizes(said: Mapping[str, Any], folder: Path) -> None:
    for key in ("r", "init_r", "target_r", "oft_block_size", "decompose_factor", "num_virtual_tokens"):
        value = said.get(key)
        if isinstance(value, int) and value > MOST_SIZE:
            raise ModuleRefused(f"{folder}: {key}: expected at most {MOST_SIZE}, got {value}; save the adapter again")


def _check_patterns(said: Mapping[str, Any], folder: Path, host: Host) -> None:
    """Refuse regular expressions that take too long, before PEFT uses them."""
    asked = [said.get(key) for key in ("target_modules", "exclude_modules", "feedforward_modules")]
    patterns = [said.get(name) for name in ("rank_pattern", "alpha_pattern")]
    ranks = [key for each in patterns if isinstance(each, dict) for key in each]
    names = [name for name, _ in host.base.named_modules() if name]
    asked_patterns: list[str | None] = [each for each in asked if isinstance(each, str)]
    for pattern in asked_patterns or [None]:
        targets = Targets(PeftConfig(target_modules=pattern, rank_pattern=dict.fromkeys(ranks, 1)), folder)
        for name in names:
            targets.has(name)
            targets.rank(name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what transformers and PEFT say while a model is loaded and a file is put on it."""
    with quiet_transformers(), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield


def names_in_model(flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file by their names in the trained model, without an adapter's name."""
    return {re.sub(r"(\.lora_[A-Za-z_]+)\.default(?=\.|$)", r"\1", bare(key)): tensor for key, tensor in flat.items()}
