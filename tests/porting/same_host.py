"""Drawn hosts of every shape that a family allows, and modules on them: what a port to one and the same host leaves.

The relative error of a port is the largest difference between the receiver with the ported module and the origin with
its own, over the largest difference that the module makes at all.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from peftport.core.errors import BadRequest
from peftport.hosts.host import Host
from peftport.hosts.load import wrap_host
from peftport.modules.module import Module, stack
from peftport.porting import PORTERS, porter_named
from peftport.porting.base import PortCache, PortInputs
from peftport.techniques import make_spec
from peftport.techniques.attach import attached, prefix_length
from peftport.techniques.base import TechniqueSpec
from pico import inputs_of, pico_host, random_matrices
from porting.rebase import sentences

T = TypeVar("T")
Choose = Callable[[Sequence[Any]], Any]  # picks one: a hypothesis draw, or a seeded generator
METHODS = tuple(name for name, p in PORTERS.items() if p.needs not in ("labels", "anchors", "training"))
ROWS = ((9, 5, 20, 7, 11, 1), (6, 14, 10, 1))
TEXTS = tuple(sentences(40))
FUSED = ("gpt2",)


@dataclass(frozen=True)
class Shape:
    """A model type and what its config says beyond what all pico hosts have, as JSON: hosts are cached by it."""

    model_type: str
    changes: str


@dataclass(frozen=True)
class Case:
    """One triple: a shape, a technique with its settings (JSON), a method."""

    shape: Shape
    technique: str
    settings: str
    method: str
    compacter_as_adapter: bool = False


def draw_shape(choose: Choose) -> Shape:
    """Widths, depths and heads, each family by its own names; heads x head width may be below or above the width."""
    model_type = choose(tuple(FAMILIES))
    return Shape(model_type, json.dumps(FAMILIES[model_type](choose), sort_keys=True))


def draw_case(choose: Choose, shape: Shape) -> Case:
    """A technique with drawn slots and size, and a method that carries it."""
    technique = choose(("lora", "adapter", "compacter", "prefix"))
    method = choose([name for name in METHODS if technique in PORTERS[name].techniques])
    settings = json.dumps(SETTINGS[technique](choose, shape), sort_keys=True)
    as_adapter = technique == "compacter" and bool(choose((False, True)))
    return Case(shape, technique, settings, method, as_adapter)


def _heads(choose: Choose) -> tuple[int, int]:
    """Width and heads where heads x head width is the width."""
    heads = choose((1, 2, 3, 4))
    return heads * choose((4, 6, 8)), heads


def _bert(choose: Choose) -> dict[str, Any]:
    width, heads = _heads(choose)
    return dict(
        hidden_size=width, num_attention_heads=heads, intermediate_size=choose((5, 12, 32, 70)),
        num_hidden_layers=choose((1, 2, 3)),
    )  # fmt: skip


def _electra(choose: Choose) -> dict[str, Any]:
    found = _bert(choose)
    return {**found, "embedding_size": choose((found["hidden_size"], 8))}


def _distilbert(choose: Choose) -> dict[str, Any]:
    width, heads = _heads(choose)
    return dict(dim=width, n_heads=heads, hidden_dim=choose((5, 12, 32, 70)), n_layers=choose((1, 2, 3)))


def _gpt2(choose: Choose) -> dict[str, Any]:
    width, heads = _heads(choose)
    return dict(n_embd=width, n_head=heads, n_inner=choose((None, 5, 70)), n_layer=choose((1, 2, 3)))


def _opt(choose: Choose) -> dict[str, Any]:
    width, heads = _heads(choose)
    return dict(
        hidden_size=width, num_attention_heads=heads, ffn_dim=choose((5, 12, 32, 70)), num_hidden_layers=choose((1, 2)),
        word_embed_proj_dim=choose((width, 8)), do_layer_norm_before=choose((True, False)),
    )  # fmt: skip


def _phi(choose: Choose) -> dict[str, Any]:
    width, heads = _heads(choose)
    halved = width // heads % 4 == 0  # what is rotated is turned in pairs, so half of a head must be even
    return dict(
        hidden_size=width, num_attention_heads=heads, intermediate_size=choose((5, 12, 32, 70)),
        num_hidden_layers=choose((1, 2)), partial_rotary_factor=choose((0.5, 1.0) if halved else (1.0,)),
        qk_layernorm=choose((False, True)),
    )  # fmt: skip


def _llama(choose: Choose) -> dict[str, Any]:
    groups, kv = choose((1, 2, 3)), choose((1, 2, 4))
    return dict(
        hidden_size=choose((12, 24) if groups != 2 or kv != 4 else (24, 40)), num_attention_heads=groups * kv,
        num_key_value_heads=kv, head_dim=choose((2, 4, 8, 16, 32)), intermediate_size=choose((5, 12, 32, 70)),
        num_hidden_layers=choose((1, 2)),
    )  # fmt: skip


def _qwen2(choose: Choose) -> dict[str, Any]:
    groups, kv, width = choose((1, 2, 3)), choose((1, 2)), choose((2, 4, 8))
    return {**_llama(choose), "num_attention_heads": groups * kv, "num_key_value_heads": kv,
            "hidden_size": groups * kv * width, "head_dim": width}  # fmt: skip


def _gemma3_text(choose: Choose) -> dict[str, Any]:
    """Windows narrower and wider than the texts, in any order of windowed and full layers."""
    kinds = [choose(("sliding_attention", "full_attention")) for _ in range(choose((1, 2)))]
    return {
        **_llama(choose), "num_hidden_layers": len(kinds), "layer_types": kinds,
        "sliding_window": choose((2, 3, 5, 50)), "query_pre_attn_scalar": choose((4, 16)),
        "attention_bias": choose((False, True)),
    }  # fmt: skip


def _t5(choose: Choose) -> dict[str, Any]:
    return dict(
        d_model=choose((12, 16, 24)), d_kv=choose((2, 4, 8, 20)), num_heads=choose((1, 2, 3, 4)),
        d_ff=choose((5, 12, 32, 70)), num_layers=choose((1, 2)), num_decoder_layers=choose((1, 2)),
        feed_forward_proj=choose(("relu", "gated-gelu")),
    )  # fmt: skip


def _bart(choose: Choose) -> dict[str, Any]:
    ffn = (5, 12, 32, 70)
    return dict(
        d_model=choose((12, 24)), encoder_attention_heads=choose((1, 2, 3)), decoder_attention_heads=choose((1, 2, 3)),
        encoder_ffn_dim=choose(ffn), decoder_ffn_dim=choose(ffn), encoder_layers=choose((1, 2)),
        decoder_layers=choose((1, 2)),
    )  # fmt: skip


FAMILIES: dict[str, Callable[[Choose], dict[str, Any]]] = {
    "bert": _bert, "roberta": _bert, "xlm-roberta": _bert, "electra": _electra, "distilbert": _distilbert,
    "gpt2": _gpt2, "opt": _opt, "phi": _phi, "llama": _llama, "mistral": _llama, "qwen2": _qwen2,
    "qwen3": _llama, "gemma": _llama, "gemma3_text": _gemma3_text, "t5": _t5, "mt5": _t5, "bart": _bart,
}  # fmt: skip


def _lora(choose: Choose, shape: Shape) -> dict[str, Any]:
    sites = [slot.site for slot in host_of(shape).slots.values() if slot.kind == "linear"]
    known = sorted(set(sites))
    if "attn_qkv" in known:
        known = choose((["attn_qkv", "attn_o", "ffn_in"], [s for s in known if s != "attn_qkv"]))
    kept = [site for site in known if choose((True, False))] or [choose(known)]
    return dict(rank=choose((1, 2, 4, 9)), alpha=3.0, sites=tuple(kept))


def _adapter(choose: Choose, shape: Shape) -> dict[str, Any]:
    return dict(
        placement=choose(("houlsby", "pfeiffer")), reduction_factor=choose((1, 2, 4)),
        activation=choose(("relu", "gelu", "swish")),
    )  # fmt: skip


def _compacter(choose: Choose, shape: Shape) -> dict[str, Any]:
    width = host_of(shape).width
    factors = [(n, f) for n in (1, 2, 4) for f in (1, 2) if width % n == 0 and (width // f) % n == 0]
    phm, factor = choose(factors)
    return dict(phm_dim=phm, reduction_factor=factor, phm_rank=choose((1, 2)))


def _prefix(choose: Choose, shape: Shape) -> dict[str, Any]:
    return dict(length=choose((1, 3, 7)), hidden=6)


SETTINGS: dict[str, Callable[[Choose, Shape], dict[str, Any]]] = {
    "lora": _lora, "adapter": _adapter, "compacter": _compacter, "prefix": _prefix,
}  # fmt: skip


@lru_cache(maxsize=64)
def host_of(shape: Shape) -> Host:
    """A host of that shape, its fingerprint saying what it is."""
    changes = json.loads(shape.changes)
    vocabulary = {"initializer_range": 0.1} if shape.model_type.startswith("gemma") else {}
    host = pico_host(shape.model_type, **changes, **vocabulary)
    mark = host.fingerprint.model_copy(update={"width": host.width, "weights": shape.changes})
    return wrap_host(host.name, host.model, host.tokenizer, host.layout, mark, None, "")


@lru_cache(maxsize=4)
def found_of(shape: Shape) -> PortCache:
    """What ports to this host share."""
    return PortCache()


def spec_of(case: Case) -> TechniqueSpec:
    settings = json.loads(case.settings)
    return make_spec(case.technique, {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})


def nudged(host: Host, size: float) -> Host:
    """The host with every weight changed by normal numbers of ``size`` times its own standard deviation."""
    model, g = copy.deepcopy(host.model), torch.Generator().manual_seed(11)
    with torch.no_grad():
        for p in model.parameters():
            spread = float(p.std()) if p.numel() > 1 else float(p.abs().mean())
            p.add_(size * spread * torch.randn(p.shape, generator=g, dtype=p.dtype))
    mark = host.fingerprint.model_copy(update={"weights": f"{host.fingerprint.weights}-nudged"})
    return wrap_host("nudged", model, host.tokenizer, host.layout, mark, None, "")


@torch.no_grad()
def answers(host: Host, module: Module | None) -> Tensor:
    """Logits, in double."""
    spec = module.spec if module else None
    matrices = stack([module.matrices], host.dtype) if module else {}
    with attached(host, spec, matrices):
        out: Tensor = host.model(**inputs_of(host, ROWS, prefix_length(spec, host))).logits
    return out.double()


@dataclass(frozen=True)
class Outcome:
    """The relative error of a port, or why it was refused; the port's record."""

    error: float
    refused: str = ""
    notes: tuple[str, ...] = ()


def port(case: Case, receiver: Host | None = None, texts: Sequence[str] = TEXTS, seed: int = 3) -> Outcome:
    """Port a random module from the case's host to itself, or to another, and see what it does there."""
    host = host_of(case.shape)
    spec = spec_of(case)
    module = Module(spec, host.fingerprint, random_matrices(host, spec, seed))
    shared = found_of(case.shape) if receiver is None and texts is TEXTS else PortCache()
    inputs = PortInputs(host, texts, as_technique="adapter" if case.compacter_as_adapter else None, shared=shared)
    receiver = receiver or host
    try:
        ported = porter_named(case.method).port(module, receiver, np.random.default_rng(0), inputs)
    except BadRequest as error:
        return Outcome(0.0, str(error))
    wanted = answers(host, module) - answers(host, None)
    got = answers(receiver, ported) - answers(receiver, None)
    error = float((got - wanted).abs().max()) / max(float(wanted.abs().max()), 1e-30)
    return Outcome(error, "", tuple(ported.ports[-1].slots.values()))
