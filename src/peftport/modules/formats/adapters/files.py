"""Folders of the `adapters` library: bottleneck adapters, Compacters and prefixes, read and written.

    adapter_config.json     see config.py
    adapter.safetensors     <layer>.<module>.adapters.NAME.adapter_down.0.weight (R, D), adapter_up.weight, ...
                            shared_parameters.NAME.phm_rule (n, n, n)
                            prefix_tuning.prefix_tunings.NAME.<location>.control_trans (P * L * 2 * D)

A prefix may be stored as the MLP that it is trained through; a module holds the keys and values that the MLP outputs.
"""

from __future__ import annotations

import json
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from peftport.core.errors import ModuleRefused, SlotMismatch
from peftport.core.libraries import torch
from peftport.core.numbers import serialized
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot, stack_paths
from peftport.modules.formats.adapters.config import CONFIG, AdaptersConfig, parse_adapters_config, written_config
from peftport.modules.formats.peft.config import read_object
from peftport.modules.formats.peft.lora import number_type
from peftport.modules.formats.peft.names import head_prefix
from peftport.modules.formats.peft.write import as_numbers
from peftport.modules.formats.tensors import printable, read_tensors
from peftport.modules.module import Module
from peftport.modules.record import AdaptersRecord
from peftport.techniques import technique_named
from peftport.techniques.adapter import AdapterSpec
from peftport.techniques.base import SHARED, Parameters, TechniqueSpec
from peftport.techniques.compacter import CompacterSpec
from peftport.techniques.lora import LoraSpec
from peftport.techniques.prefix import MLP, PrefixSpec, by_place

if TYPE_CHECKING:
    from torch import Tensor

TENSORS, PICKLED = "adapter.safetensors", "pytorch_adapter.bin"
HEAD_CONFIG = "head_config.json"
NEW_NAME = "peftport"
MATRICES = {
    "adapter": {
        "down": "adapter_down.0.weight", "down_bias": "adapter_down.0.bias",
        "up": "adapter_up.weight", "up_bias": "adapter_up.bias",
    },
    "compacter": {
        "down_left": "adapter_down.0.W_left", "down_right": "adapter_down.0.W_right", "down_bias": "adapter_down.0.b",
        "up_left": "adapter_up.W_left", "up_right": "adapter_up.W_right", "up_bias": "adapter_up.b",
    },
}  # fmt: skip
PREFIX_MLP = {
    "embedding": "wte.weight", "in": "control_trans.0.weight", "in_bias": "control_trans.0.bias",
    "out": "control_trans.2.weight", "out_bias": "control_trans.2.bias",
}  # fmt: skip
FLAT = "control_trans"
POOL, ALIAS = "prefix_tuning.prefix_tunings.", "prefix_tuning.pool.prefix_tunings."


def read_adapters(folder: Path, host: Host, leave_out: tuple[str, ...] = ()) -> Module:
    """Read a folder of the `adapters` library as a module on the host that it was trained on.

    There is nothing in it that ``leave_out`` could name.

    Raises:
        ModuleRefused: the technique or a setting is not supported, the folder has a prediction head or pickled weights,
            or a file is broken.
        SlotMismatch: the library does not support the technique on this kind of host, or a matrix has a wrong shape.

    """
    said = read_object(folder / CONFIG, "a configuration of the adapters library")
    config = parse_adapters_config(said, folder / CONFIG, host)
    if (folder / HEAD_CONFIG).exists():
        raise ModuleRefused(
            f"{folder / HEAD_CONFIG}: expected an adapter without a prediction head, got one, which would be lost; "
            "save it with with_head=False, or delete the head's files"
        )
    if not (folder / TENSORS).is_file() and (folder / PICKLED).is_file():
        raise ModuleRefused(
            f"{folder / PICKLED}: expected {TENSORS}, got pickled weights, which are never loaded; save it with "
            "use_safetensors=True (of a prefix the library cannot: save clones of its tensors with safetensors)"
        )
    flat = read_tensors(folder / TENSORS)
    numbers = number_type(flat)
    named = _by_place(folder / TENSORS, _without_aliases(flat), config, host)
    matrices = _prefix(named, config, host) if isinstance(config.spec, PrefixSpec) else named
    record = AdaptersRecord(name=config.name, numbers=numbers, config=said, host=host.fingerprint)
    return Module(config.spec, host.fingerprint, matrices, file=record)


def check_adapters_holds(spec: TechniqueSpec, host: Host) -> None:
    """Refuse a module that the library does not support, or computes differently.

    Raises:
        ModuleRefused: the format cannot hold the technique or the kind of host.

    """
    if not isinstance(spec, AdapterSpec | CompacterSpec | PrefixSpec):
        remedy = "peft" if isinstance(spec, LoraSpec) else "the native format"
        raise ModuleRefused(
            f"--format adapters: expected a bottleneck adapter, a Compacter or a prefix, got {spec.kind}; use {remedy}"
        )
    places = _places().get(host.fingerprint.model_type)
    if places is None:
        raise ModuleRefused(
            f"--format adapters: expected a host of a type the adapters library has ({', '.join(sorted(_places()))}), "
            f"got {host.fingerprint.model_type}; use the native format"
        )
    if isinstance(spec, PrefixSpec) and not all("attn" in place for place in places.values()):
        raise ModuleRefused(
            f"--format adapters: a prefix on {host.fingerprint.model_type} is not the same there: the adapters library "
            "numbers the text's positions otherwise than peftport; use the native format"
        )


def write_adapters(module: Module, host: Host, folder: Path) -> None:
    """Write a module of this host as the library does into an existing folder; the caller has checked the module."""
    record = module.file if isinstance(module.file, AdaptersRecord) else AdaptersRecord(name=NEW_NAME)
    prefix = head_prefix(host)
    flat: dict[str, Tensor] = {}
    if isinstance(module.spec, PrefixSpec):
        for place, group in _prefix_groups(module.spec, host).items():
            parts = [module.matrices[slot.name][name] for slot in group for name in ("keys", "values")]
            flat[prefix + _prefix_key(record.name, place, host) + FLAT] = torch.stack(parts, dim=1).flatten()
    else:
        keys = _keys(module.spec, host, record.name)
        flat = {prefix + keys[slot, name]: t for slot, named in module.matrices.items() for name, t in named.items()}
    config = written_config(module.spec, host, record)
    raw = serialized(as_numbers(dict(sorted(flat.items())), record.numbers), metadata={"format": "pt"})
    (folder / TENSORS).write_bytes(raw)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@cache
def _places() -> dict[str, dict[str, dict[str, str]]]:
    file = resources.files("peftport.modules.formats.adapters") / "places.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def _keys(spec: TechniqueSpec, host: Host, name: str) -> dict[tuple[str, str], str]:
    """Return the library's name of each matrix, relative to the base model, by slot and matrix."""
    keys: dict[tuple[str, str], str] = {}
    technique, places = technique_named(spec.kind), _places()[host.fingerprint.model_type]
    layers = stack_paths(host.base, host.layout)
    for slot in technique.slots(spec, host.slots).values():
        stack, index, site = slot.name.rsplit(".", 2)
        module = f"{layers[stack]}.{index}.{places[stack][site]}.adapters.{name}"
        keys |= {(slot.name, matrix): f"{module}.{theirs}" for matrix, theirs in MATRICES[spec.kind].items()}
    return keys | {(SHARED, m): f"shared_parameters.{name}.phm_{m}" for m in technique.shared_shapes(spec)}


def _prefix_groups(spec: PrefixSpec, host: Host) -> dict[str, list[Slot]]:
    return by_place(technique_named(spec.kind).slots(spec, host.slots))


def _prefix_key(name: str, place: str, host: Host) -> str:
    stack, site = place.rsplit(".", 1)
    return f"prefix_tuning.prefix_tunings.{name}.{_places()[host.fingerprint.model_type][stack][site]}."


def _by_place(path: Path, flat: dict[str, Tensor], config: AdaptersConfig, host: Host) -> Parameters:
    """Return the tensors of the file by slot (for prefixes, by stack) and matrix; refuse missing or wrong ones."""
    check_adapters_holds(config.spec, host)
    if isinstance(config.spec, PrefixSpec):
        keys, shapes = _prefix_keys(config, host), _prefix_shapes(config, host)
    else:
        keys, shapes = _keys(config.spec, host, config.name), _shapes(config.spec, host)
    prefix = getattr(host.model, "base_model_prefix", "") + "."
    prefix = prefix if any(key.startswith(prefix) for key in flat) else ""
    missing = sorted(prefix + key for key in keys.values() if prefix + key not in flat)
    extra = sorted(flat.keys() - {prefix + key for key in keys.values()})
    if missing or extra:
        raise ModuleRefused(
            f"{path}: expected the tensors of a {config.spec.kind} on {host.name}, "
            + (f"got {printable(extra[0])}, which would be lost" if extra else f"found none called {missing[0]}")
            + "; save the adapter again, or give the host it was trained on (--from)"
        )
    named: Parameters = {}
    for (slot, matrix), key in keys.items():
        tensor, expected = flat[prefix + key], tuple(shapes[slot, matrix])
        if tuple(tensor.shape) != expected:
            raise SlotMismatch(
                f"{path}: {slot}: {matrix} is {tuple(tensor.shape)}, {host.name} takes {expected} there; give the "
                "host it was trained on (--from)"
            )
        named.setdefault(slot, {})[matrix] = tensor.float()
    return named


def _shapes(spec: TechniqueSpec, host: Host) -> dict[tuple[str, str], tuple[int, ...]]:
    technique, shapes = technique_named(spec.kind), dict[tuple[str, str], tuple[int, ...]]()
    for slot in technique.slots(spec, host.slots).values():
        shapes |= {(slot.name, matrix): shape for matrix, shape in technique.shapes(spec, slot).items()}
    return shapes | {(SHARED, matrix): shape for matrix, shape in technique.shared_shapes(spec).items()}


def _without_aliases(flat: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the duplicates that a layer has only because it refers to the pool of all prefixes."""
    pools = {key[key.index(POOL) :]: tensor for key, tensor in flat.items() if POOL in key}
    aliases = set()
    for key, tensor in flat.items():
        _, alias, rest = key.partition(ALIAS)
        original = pools.get(POOL + rest) if alias else None
        if original is not None and torch.equal(original, tensor):
            aliases.add(key)
    return {key: tensor for key, tensor in flat.items() if key not in aliases}


def _prefix_keys(config: AdaptersConfig, host: Host) -> dict[tuple[str, str], str]:
    assert isinstance(config.spec, PrefixSpec)
    inside = PREFIX_MLP if config.mlp else {FLAT: FLAT}
    groups = _prefix_groups(config.spec, host)
    return {
        (place, ours): _prefix_key(config.name, place, host) + theirs
        for place in groups
        for ours, theirs in inside.items()
    }


def _prefix_shapes(config: AdaptersConfig, host: Host) -> dict[tuple[str, str], tuple[int, ...]]:
    assert isinstance(config.spec, PrefixSpec)
    length, hidden, shapes = config.spec.length, config.mlp, dict[tuple[str, str], tuple[int, ...]]()
    for place, group in _prefix_groups(config.spec, host).items():
        out = sum(2 * slot.out_width for slot in group)
        group_shapes = {
            FLAT: (length * out,), "embedding": (length, host.width), "in": (hidden, host.width), "in_bias": (hidden,),
            "out": (out, hidden), "out_bias": (out,),
        }  # fmt: skip
        shapes |= {(place, name): shape for name, shape in group_shapes.items()}
    return shapes


def _prefix(named: Parameters, config: AdaptersConfig, host: Host) -> Parameters:
    """Return keys and values (P, D) of every slot, by running the MLP or splitting the flat parameter (P, L, 2, D)."""
    assert isinstance(config.spec, PrefixSpec)
    technique = technique_named("prefix")
    slots = technique.slots(config.spec, host.slots)
    if config.mlp:
        stacked = {MLP + place: {name: t[None] for name, t in tensors.items()} for place, tensors in named.items()}
        made = technique.materialise(config.spec, slots, stacked)
        return {slot: {name: made[slot][name][0].contiguous() for name in ("keys", "values")} for slot in slots}
    cut: Parameters = {}
    for place, group in _prefix_groups(config.spec, host).items():
        parts = named[place][FLAT].view(config.spec.length, 2 * len(group), group[0].out_width)
        for index, slot in enumerate(group):
            cut[slot.name] = {
                "keys": parts[:, 2 * index].contiguous(), "values": parts[:, 2 * index + 1].contiguous(),
            }  # fmt: skip
    return cut
