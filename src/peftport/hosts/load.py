"""Load a host, frozen and in evaluation mode, and check that every weight in its files is used or known."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peftport.core.errors import HostRefused, first_line
from peftport.core.libraries import nn, transformers
from peftport.core.progress import step
from peftport.hosts.allocation import keep_freed_memory
from peftport.hosts.fingerprint import Fingerprint, fingerprint, unlike_transformers
from peftport.hosts.host import Host, View
from peftport.hosts.layouts import Layout, layout_for
from peftport.hosts.loading import Loading, checkpoint_layers, placement, settled
from peftport.hosts.slots import find_slots, layer_lists
from peftport.hosts.sources import Source, find_host, read_config
from peftport.hosts.tokens import TOKENIZER_FILES
from peftport.hosts.views import HEADS, auto_class, has_class

# Buffers that older versions of transformers saved in every layer, and a table that T5 never uses.
LEFT_OVER = re.compile(r"\.(attn\.(masked_)?bias|rotary_emb\.inv_freq|position_ids|relative_attention_bias\.weight)$")
# Weights that a body may lack without changing any hidden state. A trained head needs the pooler.
POOLER = "pooler."
HARMLESS = (POOLER, "position_ids", "rotary_emb.inv_freq")


def fingerprint_of(ref: str) -> Fingerprint:
    """Return the fingerprint of a host, which is not loaded.

    Raises:
        UnknownName, HostRefused: there is no such host, or it is broken.

    """
    source = find_host(ref)
    return fingerprint(source.folder, source.name, layout_for(read_config(source.folder), source.name).family)


def load_host(ref: str, view: View = "body", loading: Loading | None = None, mark: Fingerprint | None = None) -> Host:
    """Load a host, frozen. ``loading`` says how; by default on the processor of this machine and in float32.

    ``mark`` is its fingerprint, where that was computed just before.

    Raises:
        UnknownName: there is no such host.
        HostRefused: the host is broken, unsafe, of no known family or without the weights that ``view`` needs, or
            ``loading`` asks for something that this machine does not have.

    """
    with step(f"loading {ref}"):
        return _load(ref, view, loading, mark)


def _load(ref: str, view: View, loading: Loading | None, mark: Fingerprint | None) -> Host:
    source = find_host(ref)
    config = read_config(source.folder)
    layout = layout_for(config, source.name)
    mark = mark or fingerprint(source.folder, source.name, layout.family)
    loading = settled(loading or Loading())
    from peftport.hosts.four_bits import multiply_by_blocks  # these define functions of torch's autograd
    from peftport.hosts.mixed import multiply_in_bfloat16
    from peftport.hosts.rms_norms import fuse_rms_norms

    keep_freed_memory()
    model = _load_model(source, layout, view, placement(loading))
    multiply_by_blocks(model)
    tokenizer = load_tokenizer(source)
    prefix = config.get("peftport_text_prefix", "")
    host = wrap_host(source.name, model, tokenizer, layout, mark, source.folder, prefix)
    if loading.dtype == "mixed":
        multiply_in_bfloat16(host.base, host.slots.values())
        fuse_rms_norms(host.base)
    if loading.checkpointing:
        checkpoint_layers(host.base, layout)
    return host


def wrap_host(
    name: str,
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    mark: Fingerprint,
    folder: Path | None,
    text_prefix: str,
) -> Host:
    """Freeze a transformers model that is already in memory, and find its slots."""
    from peftport.hosts import attention  # it registers itself with transformers

    model.requires_grad_(False).eval()
    if layout.takes_prefixes:
        model.set_attn_implementation(attention.NAME)  # type: ignore[operator]
    _fuse_activations(model)
    slots = find_slots(model.base_model, layout, name)  # type: ignore[arg-type]
    named = {site for stack in layout.stacks for site in stack.sites}
    if not slots or (named and named.isdisjoint(slot.site for slot in slots.values())):
        raise HostRefused(f"{name}: expected layers, config.json says there are none; fetch the host again")
    return Host(name, folder, layout.kind, layout, model, tokenizer, mark, slots, text_prefix)


def _fuse_activations(model: nn.Module) -> None:
    """Use torch's kernel for the tanh form of GELU, which transformers computes step by step: it needs one pass."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, transformers.activations.NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def _load_model(source: Source, layout: Layout, view: View, options: dict[str, Any]) -> nn.Module:
    auto = auto_class(layout, view)
    _check_view(source, layout, view)
    try:
        with quiet_transformers():
            model, info = auto.from_pretrained(
                source.folder,
                **options,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                local_files_only=True,
                attn_implementation="eager",  # whatever config.json says; `wrap_host` replaces it by our function
            )
    except Exception as error:  # a broken folder can make transformers raise any exception
        raise HostRefused(
            f"{source.name}: expected a loadable transformers folder, got: {first_line(error)}; fetch it again"
        ) from error
    if info["mismatched_keys"]:
        key, actual, expected = sorted(info["mismatched_keys"])[0]
        raise HostRefused(
            f"{source.name}: {key}: expected shape {tuple(expected)} by config.json, got {tuple(actual)}; "
            "fetch the host again"
        )
    missing = missing_weights(info["missing_keys"], view)
    if missing:
        inside = [key for key in missing if _layers(model.base_model, layout).search(key)]
        headless = view in HEADS and not inside
        raise HostRefused(
            f"{source.name}: expected {HEADS[view] if headless else 'all weights'}, {len(missing)} tensors "
            f"are missing (first: {(inside or missing)[0]}); "
            + ("use --readout prototype or linear" if headless else "fetch the host again")
        )
    check_all_layers_used(source.name, model.base_model, layout, info["unexpected_keys"])
    if any("pooler." in key for key in info["missing_keys"]):
        drop_pooler(model)
    return model  # type: ignore[no-any-return]


def _check_view(source: Source, layout: Layout, view: View) -> None:
    """Refuse a head that transformers has not for this type of model."""
    if view != "body" and not has_class(layout, view, read_settings(source)):
        raise HostRefused(
            f"{source.name}: expected {HEADS[view]}, transformers has none for {layout.family}; "
            "use --readout prototype or linear"
        )


def read_settings(source: Source) -> Any:
    """Read the configuration of a host as transformers does.

    Raises:
        HostRefused: transformers cannot read it.

    """
    try:
        return transformers.AutoConfig.from_pretrained(source.folder, local_files_only=True)
    except Exception as error:  # a broken folder can make transformers raise any exception
        raise unlike_transformers(source.name, error) from error


def missing_weights(keys: Iterable[str], view: View) -> list[str]:
    """Those of the weights missing from a folder that a view of the host cannot do without, sorted."""
    needed = (POOLER,) if view == "sequence_classification" else ()
    return sorted(key for key in keys if not any(part in key for part in HARMLESS if part not in needed))


def drop_pooler(model: Any) -> None:
    """Remove the pooler, which no readout uses: a host may lack its weights, and then it cannot be quantised."""
    if isinstance(getattr(model, "pooler", None), nn.Module):
        model.pooler = None  # its forward pass then returns no pooled output


def check_all_layers_used(host: str, base: Any, layout: Layout, unexpected: Iterable[str]) -> None:
    """Refuse weights of layers, or inside layers, that config.json does not mention: the model would not use them.

    Raises:
        HostRefused: there are such weights.

    """
    inside = _layers(base, layout)
    unused = sorted(key for key in unexpected if inside.search(key) and not LEFT_OVER.search(key))
    if unused:
        raise HostRefused(
            f"{host}: expected the layers that config.json describes, {len(unused)} more tensors of layers have "
            f"no place in them (first: {unused[0]}); fetch the host again"
        )


def _layers(base: Any, layout: Layout) -> re.Pattern[str]:
    """Return a pattern that matches the names of tensors inside layers."""
    lists = [rf"(?:^|\.){re.escape(path)}\.\d+\." for path in layer_lists(base, layout)]
    return re.compile("|".join(lists) or "(?!)")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence what transformers prints while loading: what matters is checked here and refused with a reason."""
    log = transformers.utils.logging
    before, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(before)
        if bars:
            log.enable_progress_bar()


class NoTokenizer:
    """In place of the tokenizer of a host that has none: jobs that read no texts do without, others say so."""

    def __init__(self, host: str) -> None:
        self._host = host

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise HostRefused(f"{self._host}: expected a tokenizer in its folder, found none; add tokenizer.json")

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Refuse to turn texts into ids."""
        return self.encode


def tokenizer_if_any(source: Source) -> Any:
    """Load the host's own tokenizer, or return one that refuses to be used where the host has none.

    Raises:
        HostRefused: it is broken, or needs its own code to be run.

    """
    return load_tokenizer(source) if has_tokenizer(source) else NoTokenizer(source.name)


def load_tokenizer(source: Source) -> Any:
    """Load the host's own tokenizer.

    Raises:
        HostRefused: it is missing or broken, or needs its own code to be run.

    """
    try:
        check_tokenizer_files(source)
        return transformers.AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True)
    except HostRefused:
        raise
    except Exception as error:  # as above: any exception is possible
        raise HostRefused(
            f"{source.name}: expected a tokenizer in its folder, got: {first_line(error)}; add tokenizer.json"
        ) from error


def check_tokenizer_files(source: Source) -> None:
    """Refuse what transformers ignores: own code, and a missing tokenizer, which it replaces by an empty one.

    Raises:
        HostRefused: the folder has one or the other.

    """
    settings = source.folder / "tokenizer_config.json"
    config = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    if "AutoTokenizer" in config.get("auto_map", {}):
        raise HostRefused(
            f"{settings}: this host asks for its own code to be run (auto_map), which peftport never does; "
            "use a host whose tokenizer transformers has"
        )
    if not has_tokenizer(source):
        raise HostRefused(f"{source.name}: expected a tokenizer in its folder, found none; add tokenizer.json")


def has_tokenizer(source: Source) -> bool:
    """Return whether the host's folder has files of a tokenizer."""
    return any(file.name in TOKENIZER_FILES or file.suffix == ".model" for file in source.folder.iterdir())
