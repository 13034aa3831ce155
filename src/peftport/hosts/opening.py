"""A host opened for its weights alone: its slots from a model without storage, its tensors from disk one at a time.

`open_host` builds the model on the meta device, so a host of any size costs the memory of its names. What comes back
is a `Host` whose slots, widths and fingerprint are those of the loaded one; it cannot run.
"""

from __future__ import annotations

import torch
import transformers

from peftport.errors import HostRefused
from peftport.hosts.fingerprint import fingerprint
from peftport.hosts.host import Host
from peftport.hosts.load import AUTO, check_all_layers_used, load_tokenizer, wrap_host
from peftport.hosts.slots import layout_for
from peftport.hosts.sources import find_host, read_config
from peftport.hosts.weights import HostWeights


def open_host(ref: str) -> Host:
    """Open a host without loading it: for methods that need no activations.

    Raises:
        UnknownName: no such host.
        HostRefused: broken, unsafe, or of no known family.

    """
    source = find_host(ref)
    config = read_config(source.folder)
    layout = layout_for(config["model_type"], source.name)
    try:
        mark = fingerprint(source.folder, source.name, layout.family)
        settings = transformers.AutoConfig.from_pretrained(source.folder, local_files_only=True)
        with torch.device("meta"):
            model = getattr(transformers, AUTO[layout.kind, "body"]).from_config(settings)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise HostRefused(
            f"{source.name}: expected config.json and an index of weights as transformers writes them, "
            f"got: {first}; fetch the host again"
        ) from error
    tokenizer, prefix = load_tokenizer(source), config.get("peftport_text_prefix", "")
    host = wrap_host(source.name, model, tokenizer, layout, mark, source.folder, prefix)
    _check_tensors(host, HostWeights(host))
    return host


def _check_tensors(host: Host, weights: HostWeights) -> None:
    """Refuse files that lack a slot's matrix, hold layers config.json does not know, or shapes it does not say."""
    check_all_layers_used(host.name, host.layout, weights.unknown(set(host.base.state_dict())))
    shapes = {name: tuple(p.shape) for name, p in host.base.named_parameters()}
    needed = {f"{slot.path}.weight" for slot in host.slots.values() if slot.kind == "linear"}
    missing = sorted(name for name in needed if weights.shape(name) is None)
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
