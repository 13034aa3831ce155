"""Attach a module to a transformers model for inference.

The matrices of the module are kept beside those of the model: attaching changes no weight, and detaching restores the
model. A prefix on a decoder takes positions before the text, so positions are shifted by its length, as in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self
from weakref import WeakSet

from peftport.core.errors import BadRequest, HostRefused, SlotMismatch
from peftport.core.libraries import nn, torch
from peftport.hosts.fingerprint import Fingerprint, fingerprint
from peftport.hosts.four_bits import multiply_by_blocks
from peftport.hosts.head import TrainedHead
from peftport.hosts.host import Host, View
from peftport.hosts.layouts import layout_for
from peftport.hosts.load import load_host, wrap_host
from peftport.hosts.loading import Loading, loading_of
from peftport.hosts.settings import settings_of
from peftport.hosts.slots import text_config
from peftport.hosts.sources import HUB_ID, find_host, read_config
from peftport.modules.folders import format_of, read_module
from peftport.modules.module import HEAD, Module, check_all_read, check_fits, stack
from peftport.modules.sources import module_folder
from peftport.objectives import objective_named
from peftport.techniques.attach import attached, prefix_length

_with_module: WeakSet[nn.Module] = WeakSet()  # the models in memory that have a module now


@dataclass(eq=False, repr=False)
class Attached:
    """A model with a module attached. Leaving the ``with`` block, or ``detach()``, restores the bare model.

    Attributes:
        model: the transformers model; call it, or its ``generate``, as usual.
        tokenizer: the host's tokenizer; None where `attach` was given a model.
        module: the attached module. The head of a linear readout is in ``module.head``; the model does not apply it.
        shift: positions that a prefix takes before the text, on decoders; else 0.

    """

    model: Any
    tokenizer: Any
    module: Module
    shift: int
    _stack: ExitStack = field(repr=False)

    def __enter__(self) -> Self:
        return self

    def __repr__(self) -> str:
        module = self.module
        n = len([slot for slot in module.matrices if slot != HEAD])
        return f"<Attached: {module.spec.kind} on {module.host.name}, {module.parameters:,} parameters at {n} slots>"

    def __exit__(self, *error: object) -> None:
        self.detach()

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Call the model without computing gradients."""
        with torch.no_grad():
            return self.model(*inputs, **named)

    def detach(self) -> None:
        """Detach the module and restore the model's attention, mode and gradients. A second call has no effect."""
        self._stack.close()


def attach(model: Any, module: str | Path, load: Mapping[str, Any] | None = None) -> Attached:
    """Put a module folder (native, PEFT or adapters) on a model.

    A transformers model is frozen and put in evaluation mode until the module is detached. If it was loaded from a
    folder or the hub's cache, it must be the host of the module. If it was made or changed in memory, only its slots
    and widths are checked.

    Args:
        model: a transformers model, or a host as the command line takes it, which is then loaded with its tokenizer.
        module: a module folder for this host; `port` makes one from a module of another host.
        load: how to load a host that is named, as ``--load`` says it: ``{"device": "cuda", "bits": 4}``.

    Raises:
        BadRequest: ``load`` has unknown keys or values, or is given with a model in memory.
        SlotMismatch: the module is for another host, or does not fit.
        ModuleRefused: the folder is broken.
        HostRefused: the model is of no known family, has a module already, or is in 4 bits and was run before.

    """
    folder, restore, loading = module_folder(module), ExitStack(), loading_of(load)
    if loading and isinstance(model, nn.Module):
        raise BadRequest("attach: load: expected none with a model in memory, which is loaded; leave it out")
    with ExitStack() as undone:  # if anything fails below, the model is restored
        undone.callback(restore.close)
        in_memory = isinstance(model, nn.Module)
        host, known = _wrapped(model, restore) if in_memory else (_loaded(str(model), folder, loading), True)
        loaded = read_module(folder, host)
        apart = loaded.host.differences(host.fingerprint, tokenizer=host.tokenizer is not None) if known else []
        if apart:
            raise SlotMismatch(
                f"{folder}: expected a module of {host.name}, got one of {loaded.host.name}, whose "
                f"{' and '.join(apart)} differ; port it first: peftport port {folder} --to {host.name} --out DIR"
            )
        check_fits(loaded, host, "attach")
        check_all_read(loaded, "attach")
        _enter(host, loaded, restore)
        undone.pop_all()
    return Attached(host.model, host.tokenizer, loaded, prefix_length(loaded.spec, host), restore)


def _loaded(ref: str, folder: Path, loading: Loading | None) -> Host:
    """Load the host with the head that the readout of the module uses, if the module records one."""
    task = read_module(folder).task if format_of(folder) == "native" else None
    source = find_host(ref)
    config = read_config(source.folder)
    kind = layout_for(config, source.name).kind
    default: View = "body" if kind == "encoder" else "language_model"
    view = objective_named(task.readout, kind, task.kind).view if task else default
    if view == "sequence_classification" and TrainedHead.of(config, source.name) is None:
        view = default  # the module was ported from a host that has a head of its own
    return load_host(ref, view, loading)


def _wrapped(model: Any, restore: ExitStack) -> tuple[Host, bool]:
    """Make a host of a model in memory. Also returns whether its weights are known, from the folder of the model."""
    config, name = getattr(model, "config", None), str(getattr(model, "name_or_path", "") or type(model).__name__)
    if config is None or not hasattr(model, "set_attn_implementation"):
        raise HostRefused(f"attach: expected a transformers model, got {type(model).__name__}; give the model inside")
    if model in _with_module:
        raise HostRefused(f"attach: expected {name} without a module, it has one; call detach() on that first")
    layout = layout_for(config.to_dict(), name)
    mark = _files_fingerprint(model, name, layout.family)
    restore.callback(_with_module.discard, model)
    _with_module.add(model)
    restore.callback(multiply_by_blocks(model))
    if layout.takes_prefixes:
        restore.callback(model.set_attn_implementation, config._attn_implementation)
    restore.callback(model.train, model.training)
    for parameter in model.parameters():
        restore.callback(parameter.requires_grad_, parameter.requires_grad)
    shown = mark or Fingerprint(
        name=name, family=layout.family, model_type=config.model_type,
        layers=text_config(model).num_hidden_layers, width=text_config(model).hidden_size, architecture="", weights="",
        tokenizer="",
    )  # fmt: skip
    return wrap_host(shown.name, model, None, layout, shown, None, ""), mark is not None


def _files_fingerprint(model: Any, name: str, family: str) -> Fingerprint | None:
    """Return the fingerprint of the folder that a model was loaded from, if that is on this machine."""
    folder = Path(name)
    if not folder.is_dir():
        cached = _cached(name, getattr(model.config, "_commit_hash", None))
        if cached is None:
            return None
        folder = cached
    try:
        mark = fingerprint(folder, name, family)
        return mark.model_copy(update={"settings": settings_of(model.config), "config": ""})  # the present settings
    except (HostRefused, OSError, ValueError):  # the model was not loaded from these files
        return None


def _cached(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    if not HUB_ID.match(name):
        return None
    config_path = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(config_path).parent if isinstance(config_path, str) else None


def _enter(host: Host, module: Module, restore: ExitStack) -> None:
    body = {slot: matrices for slot, matrices in module.matrices.items() if slot != HEAD}
    stacked = {
        slot: {name: tensor.to(host.device) for name, tensor in matrices.items()}
        for slot, matrices in stack([body], host.dtype).items()
    }
    restore.enter_context(attached(host, module.spec, stacked))
    shift = prefix_length(module.spec, host)
    if shift:
        reader: Any = getattr(
            host.base, "decoder", host.base
        )  # OPT's head calls the decoder in the base, past the base
        hook = reader.register_forward_pre_hook(partial(_shift_positions, shift), with_kwargs=True)
        restore.callback(hook.remove)


def _shift_positions(shift: int, base: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Make positions begin at ``shift``; padding on either side does not count."""
    positions = named.get("position_ids")
    if positions is None:
        ids = named.get("input_ids") if not args else args[0]
        tokens = ids if ids is not None else named["inputs_embeds"]  # (B, T) or (B, T, D)
        cache, mask = named.get("past_key_values"), named.get("attention_mask")
        seen, length = (cache.get_seq_length() if cache is not None else 0), tokens.shape[1]
        if mask is not None and mask.dim() == 2:
            positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        else:
            positions = torch.arange(seen, seen + length, device=tokens.device).unsqueeze(0)
    return args, {**named, "position_ids": positions + shift}
