"""Layouts of host families, read from TOML files: where the sites lie in each layer of the model.

The files in the folder ``families`` come with peftport; users have files of their own (`own_files`). A model type that
none of them lists has no sites of a known meaning; its linear maps are found in the model itself (hosts.slots).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from peftport.core.errors import BadRequest, HostRefused, first_line

HostKind = Literal["encoder", "encoder_decoder", "decoder"]
SlotKind = Literal["linear", "parameter", "sum_into", "sum_from", "attention", "heads"]
SiteName = Literal[
    "attn", "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_o",
    "cross", "cross_q", "cross_k", "cross_v", "cross_o",
    "ffn_gate", "ffn_in", "ffn_gate_in", "ffn_out", "ffn_sum",
]  # fmt: skip
Paths = Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else tuple(v))]
KINDS: tuple[SlotKind, ...] = ("linear", "attention", "heads", "sum_into", "sum_from")
VARIABLE = "PEFTPORT_LAYOUTS"
Part = tuple[int, int] | Literal["q", "k", "v"]


class Site(BaseModel):
    """Where one site lies inside a layer: exactly one of the five paths (alternatives: the first that exists).

    Attributes:
        heads: the path of an attention block whose keys and values cannot be reached, so that it takes no prefix; its
            heads are counted.
        part: the site is a part of the outputs of the linear map: part i of n equal ones, or its queries, keys or
            values.
        order: how queries, keys and values lie in a fused matrix: one after the other (``blocks``), or, for each key
            head, first the queries that share it, then its key, then its value (``groups``).
        in_order: whether a pass calls the module with the tokens of the batch, text by text. Otherwise modules run
            there one at a time, and its activations are not read.

    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    linear: Paths = ()
    attention: Paths = ()
    heads: Paths = ()
    sum_into: Paths = ()
    sum_from: Paths = ()
    part: Part | None = None
    order: Literal["blocks", "groups"] = "blocks"
    in_order: bool = True
    optional: bool = False

    @model_validator(mode="after")
    def _has_one_path(self) -> Self:
        if sum(bool(getattr(self, kind)) for kind in KINDS) != 1:
            raise ValueError(f"expected exactly one of {', '.join(KINDS)}")
        return self

    @property
    def kind(self) -> SlotKind:
        """The kind of slot, by which of the five paths is given."""
        [kind] = [kind for kind in KINDS if getattr(self, kind)]
        return kind

    @property
    def paths(self) -> tuple[str, ...]:
        """The alternative paths, in order of preference."""
        found: tuple[str, ...] = getattr(self, self.kind)
        return found


class LayerStack(BaseModel):
    """A list of equal layers: ``layers`` is the path of its ModuleList below the base model (or alternatives).

    A star in the path stands for every child, as in ALBERT, whose groups of layers each have a list.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    layers: Paths
    sites: dict[SiteName, Site]


class Layout(BaseModel):
    """A host family: its kind and its stacks of layers.

    Attributes:
        architectures: if given, the family is only of folders whose config.json names one of these classes.
        body: transformers' class that loads the model without a head, where that is not the usual one.
        rotary: queries and keys are rotated by position, so that the order of a head's units has a meaning.
        position_table: how many positions there are is limited by a table; by default where nothing is rotated.
        known: whether a TOML file describes it; otherwise only linear maps are known, found in the model itself.
        reads_texts: whether the model can be run on token ids alone.

    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    family: str
    kind: HostKind
    model_types: tuple[str, ...]
    architectures: tuple[str, ...] = ()
    body: str = ""
    rotary: bool = False
    position_table: bool | None = None
    known: bool = True
    reads_texts: bool = True
    stacks: tuple[LayerStack, ...]

    @property
    def takes_prefixes(self) -> bool:
        """Whether the model's attention is the one that puts prefixes before the keys and values."""
        return any(site.kind == "attention" for stack in self.stacks for site in stack.sites.values())


def layouts() -> dict[str, Layout]:
    """Return every family by name: first those of the user's own files (`own_files`), then those of peftport.

    Raises:
        BadRequest: a file of the user's is no layout, or has the name of a family of peftport.

    """
    known = _families()
    own: dict[str, Layout] = {}
    for file in own_files():
        family = file.stem
        if family in known:
            raise BadRequest(f"{file}: expected a new name, got that of a family of peftport; rename the file")
        own[family] = _read(file, file.stat().st_mtime_ns)
    return own | known


def own_files() -> list[Path]:
    """Return the user's own layout files: those that ``PEFTPORT_LAYOUTS`` names, and those in the user's folder.

    The variable has paths of files, separated as in ``PATH``; the option ``--layout`` adds to it, so that workers of a
    study read them too. The folder is ``peftport/layouts`` in ``~/.config`` (or in ``XDG_CONFIG_HOME``).
    """
    named = [Path(path) for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "peftport" / "layouts"
    missing = [path for path in named if not path.is_file()]
    if missing:
        raise BadRequest(f"--layout {missing[0]}: expected a TOML file, found none; give its path")
    return [*named, *sorted(folder.glob("*.toml"))]


def use_layout(file: Path) -> None:
    """Use a layout file of the user's in this process and in those that it starts.

    Raises:
        BadRequest: the file is no layout.

    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = os.pathsep.join(filter(None, (str(file.absolute()), before)))
    layouts()


@cache
def _families() -> dict[str, Layout]:
    folder = resources.files("peftport.hosts") / "families"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    found = {f.name.removesuffix(".toml"): tomllib.loads(f.read_text(encoding="utf-8")) for f in files}
    return {family: Layout(family=family, **data) for family, data in found.items()}


@cache
def _read(file: Path, changed: int) -> Layout:
    """Read a user's file; ``changed`` is when it was, so that it is read again afterwards."""
    try:
        return Layout(family=file.stem, **tomllib.loads(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (TypeError, ValueError, OSError) as error:
        problem = first_line(error)
    raise BadRequest(f"--layout {file}: expected a layout as in docs/families.md, got: {problem}; correct the file")


def layout_for(config: Mapping[str, Any], where: str) -> Layout:
    """Return the family of a model by its config.json: its model type and, for some, its architecture.

    A model type that no family lists gets a layout without sites: its linear maps are found in the model itself.

    Raises:
        HostRefused: transformers does not know the model type.

    """
    model_type, classes = str(config["model_type"]), set(config.get("architectures") or ())
    by_type = [layout for layout in layouts().values() if model_type in layout.model_types]
    special = (layout for layout in by_type if classes.intersection(layout.architectures))
    general = (layout for layout in by_type if not layout.architectures)
    return next(special, None) or next(general, None) or _unlisted(model_type, config, where)


def _unlisted(model_type: str, config: Mapping[str, Any], where: str) -> Layout:
    """The layout of a model of which only its linear maps are known."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if model_type not in CONFIG_MAPPING_NAMES:
        raise HostRefused(
            f"{where}: model type {model_type!r} is none that transformers {version('transformers')} knows, expected "
            "one of its own; use a base model of another type, or a newer transformers"
        )
    kinds = dict(_kinds(model_type))
    told = [kinds[end] for name in config.get("architectures") or () for end in kinds if name.endswith(end)]
    kind: HostKind = next(iter([*told, *kinds.values()]), "encoder")
    if config.get("is_encoder_decoder"):
        kind = "encoder_decoder"
    reads = kind in kinds.values()
    return Layout(family=model_type, kind=kind, model_types=(model_type,), known=False, reads_texts=reads, stacks=())


def _kinds(model_type: str) -> Iterator[tuple[str, HostKind]]:
    """Which language models transformers has of a type: the end of the class's name, and the kind of host."""
    from transformers.models.auto import modeling_auto

    if model_type in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        yield "ForConditionalGeneration", "encoder_decoder"
    if model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        yield "ForMaskedLM", "encoder"
    if model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        yield "ForCausalLM", "decoder"


def check_reads_texts(name: str, layout: Layout) -> None:
    """Refuse to run texts through a model that transformers has no language model of.

    Raises:
        HostRefused: it reads images or sound, or images beside texts.

    """
    if not layout.reads_texts:
        raise HostRefused(
            f"{name}: expected a model that reads texts alone, got {layout.family}, of which transformers has no "
            "language model; methods that read no texts work on it: copy, resize, subspace and crosslora"
        )
