"""Open a host for its weights alone: slots come from a model without storage, tensors from disk one at a time.

`open_host` builds the model on the meta device, so a host of any size needs very little memory. It returns a
`Host` with the slots, widths and fingerprint of the loaded one, which cannot be run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftport.core.errors import HostRefused
from peftport.core.libraries import torch
from peftport.hosts.fingerprint import fingerprint, unlike_transformers
from peftport.hosts.host import Host, View
from peftport.hosts.layouts import layout_for
from peftport.hosts.load import (
    HARMLESS,
    check_all_layers_used,
    drop_pooler,
    read_settings,
    tokenizer_if_any,
    wrap_host,
)
from peftport.hosts.sources import find_host, read_config
from peftport.hosts.views import auto_class, has_class
from peftport.hosts.weights import HostWeights, endings, stored_tensors

if TYPE_CHECKING:
    from torch import nn


def open_host(ref: str) -> Host:
    """Open a host without loading it, for methods that need no activations; it may be one without a tokenizer.

    Raises:
        UnknownName: there is no such host.
        HostRefused: the host is broken, unsafe, or of no known family.

    """
    source = find_host(ref)
    config = read_config(source.folder)
    layout = layout_for(config, source.name)
    mark = fingerprint(source.folder, source.name, layout.family)
    settings = read_settings(source)
    try:
        model = _without_storage(auto_class(layout, "body"), settings)
    except Exception as error:  # a broken folder can make transformers raise any exception
        raise unlike_transformers(source.name, error) from error
    stored = stored_tensors(source.folder, model)
    if any("pooler." in name for name in missing_tensors(model, stored)):
        drop_pooler(model)
    tokenizer, prefix = tokenizer_if_any(source), config.get("peftport_text_prefix", "")
    host = wrap_host(source.name, model, tokenizer, layout, mark, source.folder, prefix)
    _check_tensors(host, HostWeights(host), stored)
    return host


def lacks_head(host: Host, view: View = "language_model") -> bool:
    """Return whether the files that a host was loaded or opened from lack its language-model head, or another one."""
    if not has_class(host.layout, view, host.config):
        return True
    model = _without_storage(auto_class(host.layout, view), host.config)
    return bool(_harmful(model, stored_tensors(host.folder or Path(), model)))


def _without_storage(auto: Any, settings: Any) -> nn.Module:
    with torch.device("meta"):
        made: nn.Module = auto.from_config(settings, attn_implementation="eager")
    return made


def missing_tensors(model: nn.Module, stored: Iterable[str]) -> list[str]:
    """List the parameters that transformers would initialise at random: they are in no file and are not optional."""
    saved = set(stored)
    # Files may be saved with a head and read without it, or the other way round.
    longer = {part for key in saved for part in endings(key)}
    ignored = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    named: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):  # tied parameters have several names
        named.setdefault(id(parameter), []).append(name)
    return sorted(
        names[0]
        for names in named.values()
        if not any(name in longer or not saved.isdisjoint(endings(name)) for name in names)
        and not any(re.search(part, name) for part in ignored for name in names)
    )


def _harmful(model: nn.Module, stored: Iterable[str]) -> list[str]:
    """List the missing parameters whose absence changes what the model computes."""
    return [name for name in missing_tensors(model, stored) if not any(part in name for part in HARMLESS)]


def _check_tensors(host: Host, weights: HostWeights, stored: Iterable[str]) -> None:
    """Refuse files that lack a tensor, or hold layers or shapes that disagree with config.json."""
    check_all_layers_used(host.name, host.base, host.layout, weights.unknown(set(host.base.state_dict())))
    shapes = {name: tuple(p.shape) for name, p in host.base.named_parameters()}
    missing = _harmful(host.base, stored)
    if missing:
        raise HostRefused(
            f"{host.name}: expected all weights, {len(missing)} tensors are missing (first: {missing[0]}); "
            "fetch the host again"
        )
    for name, expected in shapes.items():
        actual = weights.shape(name)
        if actual not in (None, expected):
            raise HostRefused(
                f"{host.name}: {name}: expected shape {expected} by config.json, got {actual}; fetch the host again"
            )
