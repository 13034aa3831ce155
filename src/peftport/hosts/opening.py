"""Open a host for its weights alone: slots come from a model without storage, tensors from disk one at a time.

`open_host` builds the model on the meta device, so a host of any size needs very little memory. It returns a
`Host` with the slots, widths and fingerprint of the loaded one, which cannot be run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from peftport.core.errors import HostRefused
from peftport.core.libraries import torch
from peftport.hosts.fingerprint import Fingerprint, fingerprint, unlike_transformers
from peftport.hosts.host import Host, View
from peftport.hosts.layouts import Layout, layout_for
from peftport.hosts.load import (
    HARMLESS,
    NoTokenizer,
    check_all_layers_used,
    drop_pooler,
    read_settings,
    tokenizer_if_any,
    wrap_host,
)
from peftport.hosts.remembered import remembered
from peftport.hosts.slots import Slot
from peftport.hosts.sources import Source, find_host, read_config
from peftport.hosts.views import auto_class, has_class
from peftport.hosts.weights import HostWeights, endings, stored_tensors, tensor_names

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class HostOutline:
    """What is known of a host without its model, its files having been checked: its width and its slots."""

    width: int
    slots: tuple[Slot, ...]


OUTLINE, VIEWS = TypeAdapter(HostOutline), TypeAdapter(tuple[View, ...])
HEADS: tuple[View, ...] = ("language_model", "sequence_classification")
SMALL = (".json", ".txt", ".model", ".jinja")  # files from which models without storage and tokenizers are made


class OpenedHost(Host):
    """A host whose files were checked. Its model, without storage, and its tokenizer are made when they are used."""

    source: Source
    _outline: HostOutline

    def __init__(self, source: Source, layout: Layout, mark: Fingerprint, text_prefix: str) -> None:
        """Find the slots, or remember them.

        Raises:
            HostRefused: the host is broken.

        """
        self.__dict__.update(  # a frozen dataclass, whose other fields are made when they are used
            name=source.name, folder=source.folder, kind=layout.kind, layout=layout, fingerprint=mark,
            text_prefix=text_prefix, source=source,
        )  # fmt: skip
        outline = remembered("outline", self._key, OUTLINE, self._outlined)
        self.__dict__.update(_outline=outline, slots={slot.name: slot for slot in outline.slots})

    @cached_property
    def model(self) -> nn.Module:
        """The model on the meta device."""
        return self._made.model

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, or what refuses to be used where there is none."""
        return tokenizer_if_any(self.source)

    @property
    def width(self) -> int:
        """D, the width of the residual stream."""
        return self._outline.width

    @cached_property
    def heads(self) -> tuple[View, ...]:
        """The views beside the body that the files have the weights of."""
        there = lambda: tuple(view for view in HEADS if not lacks_head(self._made, view))  # noqa: E731
        return remembered("heads", self._key, VIEWS, there)

    @property
    def identity(self) -> list[Any]:
        """All that anything said of the host's files follows from, the bytes of its weights among it."""
        return [*self._key, self.fingerprint.weights]

    @cached_property
    def _key(self) -> list[Any]:
        """All that an outline follows from."""
        folder, layout = self.source.folder, self.layout.model_dump(mode="json")
        return [self.fingerprint.architecture, layout, _small_files(folder), tensor_names(folder)]

    @cached_property
    def _made(self) -> Host:
        """The host with a model without storage; its tokenizer is not looked at."""
        source = self.source
        settings = read_settings(source)
        try:
            model = _without_storage(auto_class(self.layout, "body"), settings)
        except Exception as error:  # a broken folder can make transformers raise any exception
            raise unlike_transformers(source.name, error) from error
        if any("pooler." in name for name in missing_tensors(model, stored_tensors(source.folder, model))):
            drop_pooler(model)
        absent = NoTokenizer(source.name)
        return wrap_host(source.name, model, absent, self.layout, self.fingerprint, source.folder, self.text_prefix)

    def _outlined(self) -> HostOutline:
        """Check the files against the model, and take the outline from it."""
        host, folder = self._made, self.source.folder
        tokenizer_if_any(self.source)
        _check_tensors(host, HostWeights(host), stored_tensors(folder, host.model))
        return HostOutline(host.width, tuple(host.slots.values()))


def open_host(ref: str) -> OpenedHost:
    """Open a host without loading it, for methods that need no activations; it may be one without a tokenizer.

    Raises:
        UnknownName: there is no such host.
        HostRefused: the host is broken, unsafe, or of no known family.

    """
    source = find_host(ref)
    config = read_config(source.folder)
    layout = layout_for(config, source.name)
    mark = fingerprint(source.folder, source.name, layout.family)
    return OpenedHost(source, layout, mark, config.get("peftport_text_prefix", ""))


def _small_files(folder: Path) -> list[list[str]]:
    """The bytes of every file that a model without storage and a tokenizer are made of, hashed, by name."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in SMALL)
    return [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files]


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
