"""cast: the port of a module is the module on the origin between two linear heads, folded in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from peftport.core.errors import BadRequest
from peftport.hosts.host import Host
from peftport.modules.module import Module
from peftport.porting import porter_named
from peftport.porting.alignment.inputs import AlignInputs
from peftport.porting.alignment.maps import Moments
from peftport.porting.alignment.spaces import Spaces
from peftport.porting.alignment.transport import expanded
from peftport.porting.base import PortInputs
from peftport.porting.methods.cast import LinearHeads
from peftport.porting.pairs import Pair, pair_slots
from peftport.techniques import technique_named
from pico import SPECS, pico_host, random_matrices
from porting.rebase import sentences


def gaussian(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def a_module(host: Host, technique: str) -> Module:
    return Module(SPECS[technique], host.fingerprint, random_matrices(host, SPECS[technique]))


def planted(technique: str, shift: float) -> tuple[LinearHeads, Module, Pair, Tensor, Tensor, Tensor]:
    """Hosts whose states are any linear maps of one another, not orthogonal, with a constant between them."""
    host = pico_host("bert", dtype=torch.float64)
    module = a_module(host, technique)
    pair = next(p for p in pair_slots(module, host.slots, host.kind).values() if p is not None)
    back, there, constant = gaussian(16, 16, seed=1), gaussian(16, 16, seed=2), shift * gaussian(16, seed=3)
    into, out = Moments(), Moments(right=False)
    for batch in range(6):
        x_t, y_s = gaussian(60, 16, seed=batch + 10), gaussian(60, 16, seed=batch + 90)
        into.add(x_t @ back + constant, x_t)  # x_s = P_in x_t + c
        out.add(y_s, y_s @ there)  # y_t = P_out y_s
    spaces = Spaces(into={pair.receiver.name: into}, out={pair.receiver.name: out})
    inputs = AlignInputs(module, host, {pair.receiver.name: pair}, np.random.default_rng(0), PortInputs(host))
    return LinearHeads(inputs, spaces), module, pair, back, there, constant


def test_a_lora_between_planted_heads_is_folded() -> None:
    """y_t changes by P_out(B A(P_in h_t)), of the same rank."""
    heads, module, pair, back, there, _ = planted("lora", 0.0)
    own = expanded(module, pair.origin)
    made = heads.carry(pair, own, technique_named("lora").roles)
    assert made.matrices["A"].shape == own["A"].shape and made.matrices["B"].shape == own["B"].shape
    torch.testing.assert_close(made.matrices["A"], own["A"] @ back.mT, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made.matrices["B"], there.mT @ own["B"], atol=1e-5, rtol=1e-5)
    assert made.note == "explained 1.00 in, 1.00 out"


def test_an_adapter_between_planted_heads_is_folded_with_the_constant() -> None:
    """The receiver's units are the origin's on the translated state, and its change is the translated change."""
    heads, module, pair, back, there, constant = planted("adapter", 2.0)
    own = expanded(module, pair.origin)
    made = heads.carry(pair, own, technique_named("adapter").roles).matrices
    states = gaussian(20, 16, seed=200)
    units = (states @ back + constant) @ own["down"].mT + own["down_bias"]
    found = states @ made["down"].mT + made["down_bias"]
    torch.testing.assert_close(found, units, atol=1e-4, rtol=1e-4)
    change = (units.relu() @ own["up"].mT + own["up_bias"]) @ there
    torch.testing.assert_close(found.relu() @ made["up"].mT + made["up_bias"], change, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("technique", ["lora", "adapter", "compacter"])
def test_widths_depths_and_tokenizers_may_differ(technique: str) -> None:
    one = pico_host("bert", dtype=torch.float64)
    other = pico_host("gpt2", dtype=torch.float64, n_embd=24, n_head=2, n_layer=3)
    if technique == "lora":
        other = pico_host("distilbert", dtype=torch.float64, dim=24, n_heads=2, n_layers=3)
    inputs = PortInputs(origin=one, texts=sentences(60))
    ported = porter_named("cast").port(a_module(one, technique), other, np.random.default_rng(0), inputs)
    assert ported.host == other.fingerprint and ported.spec == SPECS[technique]
    assert all("explained" in note for note in ported.ports[-1].slots.values() if note.startswith("carried"))


def test_what_no_head_can_translate_is_refused() -> None:
    host = pico_host("bert")
    inputs = PortInputs(origin=host, texts=sentences(10))
    with pytest.raises(BadRequest, match=r"cast: .*got prefix: its matrices do not stand between a state.*regress"):
        porter_named("cast").port(a_module(host, "prefix"), host, np.random.default_rng(0), inputs)
    with pytest.raises(BadRequest, match="cast: needs the origin host's weights, none given; name it with --from"):
        porter_named("cast").port(a_module(host, "lora"), host, np.random.default_rng(0), PortInputs(texts=["a text"]))
