"""Read a PEFT folder: a plain LoRA as it is, whatever else updates linear maps folded into one (fold.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftport.core.libraries import torch
from peftport.hosts.fingerprint import Fingerprint
from peftport.hosts.host import Host
from peftport.modules.formats.peft.config import READ, check_starts, read_object
from peftport.modules.formats.peft.fold import Folded, fold, names_in_model, title_of
from peftport.modules.formats.peft.heads import head_in, whole_weights
from peftport.modules.formats.peft.left_out import settings_without, without
from peftport.modules.formats.peft.lora import number_type, read_plain
from peftport.modules.formats.peft.names import is_outside, module_of, paths_below, whole_slots
from peftport.modules.formats.peft.prompts import is_prompt, read_prompt
from peftport.modules.formats.peft.shards import CONFIG, TENSORS, tensors_in
from peftport.modules.formats.peft.tokens import check_vocabulary, spelled_for
from peftport.modules.kept import FOLDED, Kept
from peftport.modules.module import HEAD, Module, PortRecord
from peftport.modules.record import PeftRecord, SlotInFile
from peftport.techniques.base import Parameters
from peftport.techniques.lora import LoraSpec

if TYPE_CHECKING:
    from torch import Tensor

NOT_PLAIN: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None), "lora_bias": (False, None), "bias": ("none", None),
    "trainable_token_indices": (None, [], {}),
}  # fmt: skip
LAST_LAYERS = frozenset({"classifier", "score", "qa_outputs", "classification_head"})  # of the heads of tasks
CHANGE_THE_HOST = ("pissa", "olora")  # these starts change the host's weights in a way that PEFT repeats exactly


def read_peft(folder: Path, host: Host, leave_out: tuple[str, ...] = ()) -> Module:
    """Read a PEFT folder as a module on the host that it was trained on, without the parts named in ``leave_out``.

    Raises:
        ModuleRefused: the PEFT type or a setting is not supported, the weights are pickled, or a file is broken.
        SlotMismatch: a matrix belongs to no slot of the host, or has the wrong shape for it.

    """
    said = read_object(folder / CONFIG, "a PEFT configuration")
    check_starts(said, folder / CONFIG)
    whole = tensors_in(folder)
    flat = without(whole, leave_out, folder / TENSORS)
    if is_prompt(said):
        return read_prompt(folder, said, flat, host)
    said = settings_without(said, leave_out, [key for key in whole if key not in flat])
    if not is_plain(said, flat, host):
        return read_folded(folder, Kept(said, names_in_model(flat), leave_out=leave_out), host)
    return read_plain(folder, said, flat, host)


def is_plain(said: Mapping[str, Any], flat: Mapping[str, Tensor], host: Host) -> bool:
    """Return whether a file is a LoRA on linear maps of the layers, perhaps with a head, or nothing that is known."""
    kind = said.get("peft_type")
    if kind != "LORA" or said.get("init_lora_weights") in CHANGE_THE_HOST:
        return kind not in READ
    if any(said.get(key) not in plain for key, plain in NOT_PLAIN.items() if key in said):
        return False
    paths, whole = {slot.path for slot in whole_slots(host).values()}, whole_weights(flat)
    loras = {module_of(key) for key in flat if ".lora_" in key}
    beside = [name for name in loras if paths.isdisjoint(paths_below(name, host))]
    saved = {name.rpartition(".")[0] for name in whole}
    headed = any(name.split(".")[0] in LAST_LAYERS for name in saved)
    apart = [name for name in saved if not headed or "embed" in name or name.startswith("lm_head")]
    return not any(is_outside(host, name) for name in [*beside, *apart])


def read_folded(folder: Path, kept: Kept, host: Host) -> Module:
    """Fold a file on a host and return it as a module, whose record says how near it is."""
    check_vocabulary(kept.tensors, host, folder / TENSORS)
    head = head_in(kept.tensors, kept.config, host, folder / TENSORS, others=True)
    folded = fold(folder, kept, host, tuple(head or ()))
    spec = _spec(folded, host)
    matrices: Parameters = {}
    sizes: dict[str, SlotInFile] = {}
    for name, slot in whole_slots(host).items():
        if slot.site in spec.sites:
            a, b = torch.zeros(spec.rank, slot.in_width), torch.zeros(slot.out_width, spec.rank)
            if name in folded.factors:
                own_a, own_b = folded.factors[name]
                a[: len(own_a)], b[:, : len(own_a)] = own_a, own_b
            matrices[name] = {"A": a, "B": b}
            sizes[name] = SlotInFile(rank=spec.rank if name in folded.factors else 0, alpha=spec.alpha)
    if head is not None:
        matrices[HEAD] = {**head, **folded.merged}
    record = PeftRecord(
        slots=sizes,
        headed=_is_headed(kept, host),
        numbers=number_type(dict(kept.tensors)),
        config=_plain_config(kept.config),
        host=host.fingerprint,
    )
    ports = (_record(folded, title_of(kept.config), host.fingerprint),)
    return Module(spec, host.fingerprint, matrices, file=record, ports=ports, kept=folded.kept)


def copied(module: Module, kept: Kept, origin: Host | None, receiver: Host) -> Module:
    """Return a file that a module keeps as a module of another host with equal maps, folded on that host's weights.

    ``origin`` is needed where trained tokens have other ids on the receiver.

    Raises:
        ModuleRefused: PEFT cannot put the file on that host.

    """
    return read_folded(Path(module.host.name), spelled_for(module, kept, origin, receiver), receiver)


def _is_headed(kept: Kept, host: Host) -> bool:
    """Return whether the names of a file start at a model with a head."""
    prefix = f"{getattr(host.model, 'base_model_prefix', '')}."
    return any(name.startswith(prefix) for name in kept.tensors)


def _spec(folded: Folded, host: Host) -> LoraSpec:
    slots = whole_slots(host)
    used = {host.slots[name].site for name in folded.factors} or {next(iter(slots.values())).site}
    sites = tuple(dict.fromkeys(slot.site for slot in slots.values() if slot.site in used))
    return LoraSpec.model_validate({"rank": folded.rank, "alpha": float(folded.rank), "sites": sites})


def _plain_config(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a plain LoRA that was made of another file; which maps it is on is filled in."""
    same = ("task_type", "auto_mapping", "base_model_name_or_path", "revision", "fan_in_fan_out", "modules_to_save")
    return {"peft_type": "LORA", "target_modules": [], **{key: said[key] for key in same if key in said}}


def _record(folded: Folded, title: str, mark: Fingerprint) -> PortRecord:
    errors = folded.errors
    return PortRecord(
        method=f"{FOLDED} from {title}", origin=mark, receiver=mark,
        settings={"rank": folded.rank, "largest_error": float(f"{max(errors.values(), default=0.0):.3g}")},
        slots={name: f"rank {folded.rank}, error {error:.2%} of the update" for name, error in errors.items()},
    )  # fmt: skip
