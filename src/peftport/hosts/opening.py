"""Open a host for its weights alone: slots come from a model without storage, tensors from disk one at a time.

`open_host` builds the model on the meta device, so a host of any size needs very little memory. It returns a
`Host` with the slots, widths and fingerprint of the loaded one, which cannot be run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from peftport.core.errors import HostRefused
from peftport.hosts.fingerprint import fingerprint, unlike_transformers
from peftport.hosts.host import Host, View
from peftport.hosts.load import AUTO, HARMLESS, check_all_layers_used, tokenizer_if_any, wrap_host
from peftport.hosts.slots import layout_for
from peftport.hosts.sources import find_host, read_config
from peftport.hosts.weights import HostWeights, endings, modern, tensor_files


def open_host(ref: str) -> Host:
    """Open a host without loading it, for methods that need no activations; it may be one without a tokenizer.

    Raises:
        UnknownName: there is no such host.
        HostRefused: the host is broken, unsafe, or of no known family.

    """
    source = find_host(ref)
    config = read_config(source.folder)
    layout = layout_for(config["model_type"], source.name)
    mark = fingerprint(source.folder, source.name, layout.family)
    try:
        settings = transformers.AutoConfig.from_pretrained(source.folder, local_files_only=True)
        model = _without_storage(AUTO[layout.kind, "body"], settings)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise unlike_transformers(source.name, error) from error
    tokenizer, prefix = tokenizer_if_any(source), config.get("peftport_text_prefix", "")
    host = wrap_host(source.name, model, tokenizer, layout, mark, source.folder, prefix)
    _check_tensors(host, HostWeights(host))
    return host


def lacks_head(host: Host, view: View = "language_model") -> bool:
    """Return whether the files that a host was loaded or opened from lack its language-model head, or another one."""
    model = _without_storage(AUTO[host.kind, view], host.config)
    return bool(_missing(model, set(tensor_files(host.folder or Path()))))


def _without_storage(auto: str, settings: Any) -> nn.Module:
    with torch.device("meta"):
        made: nn.Module = getattr(transformers, auto).from_config(settings, attn_implementation="eager")
    return made


def _missing(model: nn.Module, keys: set[str]) -> list[str]:
    """List the parameters that transformers would initialise at random: they are in no file and are not optional."""
    saved = {modern(key) for key in keys}
    # Files may be saved with a head and read without it, or the other way round.
    longer = {part for key in saved for part in endings(key)}
    ignored = [*map(re.escape, HARMLESS), *(getattr(model, "_keys_to_ignore_on_load_missing", None) or ())]
    named: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):  # tied parameters have several names
        named.setdefault(id(parameter), []).append(name)
    return sorted(
        names[0]
        for names in named.values()
        if not any(name in longer or not saved.isdisjoint(endings(name)) for name in names)
        and not any(re.search(part, name) for part in ignored for name in names)
    )


def _check_tensors(host: Host, weights: HostWeights) -> None:
    """Refuse files that lack a tensor, or hold layers or shapes that disagree with config.json."""
    check_all_layers_used(host.name, host.layout, weights.unknown(set(host.base.state_dict())))
    shapes = {name: tuple(p.shape) for name, p in host.base.named_parameters()}
    missing = _missing(host.base, set(tensor_files(host.folder or Path())))
    if missing:
        raise HostRefused(
            f"{host.name}: expected all weights, {len(missing)} tensors are missing (first: {missing[0]}); "
            "fetch the host again"
        )
    for name, expected in shapes.items():
        got = weights.shape(name)
        if got not in (None, expected):
            raise HostRefused(
                f"{host.name}: {name}: expected shape {expected} by config.json, got {got}; fetch the host again"
            )
