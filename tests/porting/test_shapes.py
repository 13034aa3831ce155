"""Hosts of other width, depth, heads, vocabulary and family: what comes out fits, runs, and says what was done."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from peftport.core.errors import BadRequest, SlotMismatch
from peftport.hosts.host import Host
from peftport.modules.module import HEAD, Module, check_fits, stack
from peftport.porting import PORTERS, porter_named
from peftport.porting.base import PortInputs
from peftport.techniques import TECHNIQUES, technique_named
from peftport.techniques.attach import attached, prefix_length
from pico import SPECS, inputs_of, pico_host, random_matrices
from porting.rebase import named, sentences

ROWS = ((9, 5, 20, 7, 11, 1), (6, 14, 10, 1))
TEXTS = sentences(40)
ANY = [name for name, p in PORTERS.items() if p.fits.width == "any" and p.needs not in ("anchors", "training")]
LARGE: dict[str, dict[str, Any]] = {
    "bert": dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, vocab_size=40),
    "roberta": dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=3),
    "distilbert": dict(dim=32, n_layers=4, n_heads=4, hidden_dim=48),
}
# Origin and receiver, and what is changed in the receiver.
SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "wider and deeper": ("bert", "bert", LARGE["bert"]),
    "narrower and shallower": ("bert", "roberta", dict(hidden_size=8, num_hidden_layers=1)),
    "another family": ("bert", "distilbert", LARGE["distilbert"]),
    "more heads": ("llama", "qwen2", dict(num_attention_heads=8, num_key_value_heads=4)),
    "wider heads": ("qwen2", "gemma", {}),
    "windows and more norms": ("llama", "gemma3_text", {}),
    "decoders": ("gpt2", "opt", dict(hidden_size=32, num_attention_heads=4, word_embed_proj_dim=32)),
    "encoder-decoders": ("mt5", "bart", dict(d_model=24, encoder_layers=1, decoder_layers=3)),
    "other tied norms": ("gemma", "llama", dict(hidden_size=32, num_hidden_layers=1)),
}


@cache
def pair(shape: str) -> tuple[Host, Host]:
    origin, receiver, changes = SHAPES[shape]
    return named(pico_host(origin), "the-origin"), named(pico_host(receiver, 1, **changes), "the-receiver")


def a_module(technique: str, host: Host) -> Module:
    matrices = random_matrices(host, SPECS[technique])
    matrices[HEAD] = {"weight": torch.ones(2, host.width), "bias": torch.zeros(2)}
    return Module(SPECS[technique], host.fingerprint, matrices)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("method", ANY)
def test_whatever_the_shapes_what_comes_out_fits_and_runs(method: str, technique: str, shape: str) -> None:
    """Every slot of the receiver is on record, and so is every slot of the origin that nothing takes."""
    if technique not in PORTERS[method].techniques:
        return
    origin, receiver = pair(shape)
    module = a_module(technique, origin)
    inputs = PortInputs(origin=origin, texts=TEXTS)
    ported = porter_named(method).port(module, receiver, np.random.default_rng(0), inputs)
    check_fits(ported, receiver)
    notes = ported.ports[-1].slots
    assert technique_named(technique).slots(module.spec, receiver.slots).keys() <= notes.keys()
    lost = [name for name in notes if name.startswith("origin ")]
    assert all(name.removeprefix("origin ") in origin.slots for name in lost)
    assert all(bool(t.isfinite().all()) for own in ported.matrices.values() for t in own.values())
    encoded = inputs_of(receiver, ROWS, prefix_length(ported.spec, receiver))
    with torch.no_grad():
        bare = receiver.model(**inputs_of(receiver, ROWS, 0)).logits
        with attached(receiver, ported.spec, stack([ported.matrices])):
            changed = receiver.model(**encoded).logits
    assert bool(changed.isfinite().all()) and float((changed - bare).abs().max()) > 1e-6


@pytest.mark.parametrize("technique", ["lora", "adapter", "compacter"])
def test_slots_without_a_counterpart_change_nothing(technique: str) -> None:
    """An encoder's module on an encoder-decoder: the decoder's slots say nothing until they are trained."""
    origin, receiver = named(pico_host("bert"), "the-origin"), named(pico_host("t5"), "the-receiver")
    ported = porter_named("resize").port(a_module(technique, origin), receiver, np.random.default_rng(0))
    outer = technique_named(technique).output_matrices
    notes = ported.ports[-1].slots
    assert any(note.startswith("left out") for note in notes.values())
    for name, note in notes.items():
        silent = not any(ported.matrices[name][matrix].any() for matrix in outer)
        assert silent == note.startswith("left out: no counterpart"), name


def test_a_prefix_cannot_be_left_out() -> None:
    origin, receiver = named(pico_host("bert"), "the-origin"), named(pico_host("t5"), "the-receiver")
    with pytest.raises(SlotMismatch, match=r"^decoder\.layers\.0\.attn: the-receiver has .*the-origin.*`resize`"):
        porter_named("resize").port(a_module("prefix", origin), receiver, np.random.default_rng(0))


def test_what_a_method_needs_is_asked_for() -> None:
    host = pico_host("bert")
    module = a_module("lora", host)
    with pytest.raises(BadRequest, match="theseus: needs the origin host's weights, none given; name it with --from"):
        porter_named("theseus").port(module, host, np.random.default_rng(0))
    with pytest.raises(BadRequest, match="theseus: needs unlabelled texts, none given; name some with --texts"):
        porter_named("theseus").port(module, host, np.random.default_rng(0), PortInputs(origin=host))
    with pytest.raises(BadRequest, match="texts: expected some with words that .* both read"):
        porter_named("theseus").port(module, host, np.random.default_rng(0), PortInputs(origin=host, texts=["", " "]))
    other = named(pico_host("bert", 1), "other")
    with pytest.raises(SlotMismatch, match="--from other: expected the module's own host pico-bert"):
        porter_named("theseus").port(module, host, np.random.default_rng(0), PortInputs(origin=other, texts=TEXTS))
    with pytest.raises(BadRequest, match="--as adapter: expected a Compacter, got lora"):
        porter_named("resize").port(module, host, np.random.default_rng(0), PortInputs(as_technique="adapter"))


def test_resize_interpolates_and_cuts() -> None:
    """Layer 1 of 3 lies half way between the origin's two; columns beyond the origin's width are zero."""
    origin, receiver = named(pico_host("bert"), "one"), named(pico_host("bert", 1, **LARGE["bert"]), "other")
    module = a_module("lora", origin)
    ported = porter_named("resize").port(module, receiver, np.random.default_rng(0))
    first, second = (module.matrices[f"layers.{i}.attn_q"]["A"] for i in (0, 1))
    own = ported.matrices["layers.1.attn_q"]["A"]
    torch.testing.assert_close(own[:, :16], (first + second) / 2)
    assert not own[:, 16:].any()
    torch.testing.assert_close(ported.matrices["layers.2.attn_q"]["A"][:, :16], second)


@pytest.mark.parametrize("method", ["skip", "resize"])
def test_a_layer_taken_twice_is_in_memory_twice(method: str) -> None:
    """So that training one slot leaves the other alone, and files can be written."""
    origin = named(pico_host("bert", num_hidden_layers=1), "one")
    receiver = named(pico_host("bert", 1, num_hidden_layers=3), "other")
    ported = porter_named(method).port(a_module("lora", origin), receiver, np.random.default_rng(0))
    below, above = (ported.matrices[f"layers.{i}.attn_q"]["A"] for i in (0, 1))
    assert torch.equal(below, above) and below.data_ptr() != above.data_ptr()


def test_equal_streams_with_other_slots_are_refused_where_widths_must_be_equal() -> None:
    """T5's queries are 3 x 4 wide beside a stream of 16, BERT's 16."""
    origin, receiver = named(pico_host("bert"), "the-origin"), named(pico_host("t5"), "the-receiver")
    with pytest.raises(SlotMismatch, match=r"^encoder\.layers\.0\.attn_q: .*16 -> 12 wide there; `subspace` needs"):
        porter_named("subspace").port(
            a_module("lora", origin), receiver, np.random.default_rng(0), PortInputs(origin=origin)
        )
