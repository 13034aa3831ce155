"""A re-based copy of a host must be undone: a ported module does to its logits what the module does at home."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from peftport.hosts.host import Host
from peftport.hosts.slots import OUTSIDE
from peftport.hosts.weights import HostWeights
from peftport.modules.module import Module, stack
from peftport.porting import PORTERS, porter_named
from peftport.porting.base import PortInputs
from peftport.techniques import TECHNIQUES, make_spec
from peftport.techniques.attach import attached, prefix_length
from peftport.techniques.compacter import expand
from pico import SPECS, inputs_of, pico_host, random_matrices
from porting.rebase import Rebased, fold_gains, rebase, sentences

ROWS = ((9, 5, 20, 7, 11, 1), (6, 14, 10, 1))
# Family, and whether its hidden space may be rotated: only where RMS norms' gains can be folded away.
BASES = {"bert": False, "gpt2": False, "t5": False, "llama": True, "mistral": False, "opt": False, "phi": False}
TEXTS = sentences(120)
SITES = (
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_o",
    "cross_q",
    "cross_k",
    "cross_v",
    "cross_o",
    "ffn_gate",
    "ffn_in",
    "ffn_out",
)
EVERYWHERE = {**SPECS, "lora": make_spec("lora", {"rank": 2, "alpha": 3.0, "sites": SITES})}


@cache
def home(model_type: str) -> Host:
    changes = {"t5": {"num_heads": 4}, "phi": {"partial_rotary_factor": 1.0}}.get(model_type, {})
    view = "body" if model_type == "bert" else "language_model"
    host = pico_host(model_type, view=view, dtype=torch.float64, **changes)
    if BASES[model_type]:
        fold_gains(host)
    return host


@cache
def away(model_type: str, residual: bool = True) -> Rebased:
    return rebase(home(model_type), rotate=BASES[model_type] and residual, residual=residual)


def a_module(technique: str, host: Host) -> Module:
    return Module(SPECS[technique], host.fingerprint, random_matrices(host, SPECS[technique]))


@torch.no_grad()
def answers(host: Host, module: Module | None, basis: Tensor | None = None) -> Tensor:
    """Logits; of a host without a head, its last hidden states, turned back to the first basis."""
    spec = module.spec if module else None
    matrices = stack([module.matrices], host.dtype) if module else {}
    with attached(host, spec, matrices):
        out = host.model(**inputs_of(host, ROWS, prefix_length(spec, host)))
    if "logits" in out:
        return out.logits
    return out.last_hidden_state @ basis.T if basis is not None else out.last_hidden_state


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def port(method: str, module: Module, origin: Host, receiver: Host, **more: object) -> Module:
    inputs = PortInputs(origin=origin, texts=TEXTS, **more)  # type: ignore[arg-type]
    return porter_named(method).port(module, receiver, np.random.default_rng(0), inputs)


@pytest.mark.parametrize("model_type", BASES)
def test_another_basis_is_the_same_function(model_type: str) -> None:
    """Of other weights: else nothing below would be shown."""
    one, other = home(model_type), away(model_type)
    assert apart(answers(one, None), answers(other.host, None, other.basis)) < 1e-5  # T5 and Llama norm in float32
    assert all(
        apart(HostWeights(one).matrix(s), HostWeights(other.host).matrix(s)) > 0.1
        for s in one.slots.values()
        if s.kind == "linear" and not s.name.startswith(OUTSIDE)
    )


ALIGNING = ("theseus", "bico", "cast", "regress", "lorasuite")  # methods that undo a change of basis


@pytest.mark.parametrize("model_type", BASES)
@pytest.mark.parametrize(
    ("method", "technique"),
    [(m, t) for m in ALIGNING for t in ("lora", "adapter", "prefix") if t in PORTERS[m].techniques],
)
def test_a_change_of_basis_is_undone(method: str, technique: str, model_type: str) -> None:
    """Hidden units permuted or rotated, heads permuted and rotated, FFN units permuted; copying would not do."""
    one, other = home(model_type), away(model_type)
    module = a_module(technique, one)
    at_home = answers(one, module)
    assert apart(at_home, answers(one, None)) > 1e-2
    ported = port(method, module, one, other.host)
    assert apart(answers(other.host, ported, other.basis), at_home) < 1e-4
    copied = porter_named("copy").port(module, other.host, np.random.default_rng(0))
    assert apart(answers(other.host, copied, other.basis), at_home) > 1e-2


@pytest.mark.parametrize("model_type", BASES)
@pytest.mark.parametrize("method", ALIGNING)
def test_a_compacter_is_carried_exactly_as_the_adapter_it_stands_for(method: str, model_type: str) -> None:
    one, other = home(model_type), away(model_type)
    module = a_module("compacter", one)
    at_home = answers(one, module)
    ported = port(method, module, one, other.host, as_technique="adapter")
    assert ported.spec.kind == "adapter"
    assert apart(answers(other.host, ported, other.basis), at_home) < 1e-4 < apart(at_home, answers(one, None))


@pytest.mark.parametrize("method", ["theseus", "bico", "cast", "regress"])
def test_the_nearest_compacter_states_its_error(method: str) -> None:
    """A permutation breaks the Kronecker structure; the error on record is the distance to the exact adapter."""
    one, other = home("bert"), away("bert")
    module = a_module("compacter", one)
    near = port(method, module, one, other.host)
    exact = port(method, module, one, other.host, as_technique="adapter")
    assert near.spec == module.spec
    for name, note in near.ports[-1].slots.items():
        stated = float(note.rpartition("error ")[2])
        rule = {"rule": near.matrices["shared"]["rule"].unsqueeze(0)}
        full = expand({k: v.unsqueeze(0) for k, v in near.matrices[name].items()}, rule["rule"])
        wrong = sum(float((full[side][0] - exact.matrices[name][side]).square().sum()) for side in ("down", "up"))
        size = sum(float(exact.matrices[name][side].square().sum()) for side in ("down", "up"))
        assert stated == pytest.approx((wrong / size) ** 0.5, rel=0.06)
        assert 0.01 < stated < 1


@pytest.mark.parametrize("method", ["regress", "cast"])
def test_regressions_undo_gains_that_are_not_folded_away(method: str) -> None:
    """A map that is not orthogonal: rows scaled by the norms' gains before they are rotated."""
    one = pico_host("llama", dtype=torch.float64)
    other = rebase(one, rotate=True)
    module = a_module("lora", one)
    ported = port(method, module, one, other.host)
    at_home = answers(one, module)
    assert apart(answers(other.host, ported), at_home) < 1e-4 < apart(at_home, answers(one, None))


@pytest.mark.parametrize("model_type", BASES)
@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("method", PORTERS)
def test_a_port_to_the_same_host_changes_nothing(method: str, technique: str, model_type: str) -> None:
    """Every method is the identity there."""
    if technique not in PORTERS[method].techniques or PORTERS[method].needs in ("labels", "anchors", "training"):
        return
    one = home(model_type)
    module = a_module(technique, one)
    ported = port(method, module, one, one)
    assert ported.spec == module.spec
    assert apart(answers(one, ported), answers(one, module)) < 1e-4


@pytest.mark.parametrize("model_type", BASES)
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_transfusion_undoes_permuted_heads_and_units(technique: str, model_type: str) -> None:
    """By the weights alone, the residual stream's basis being the same."""
    one = home(model_type)
    other = rebase(one, residual=False, units_only=True)
    module = Module(EVERYWHERE[technique], one.fingerprint, random_matrices(one, EVERYWHERE[technique]))
    at_home = answers(one, module)
    ported = porter_named("transfusion").port(module, other.host, np.random.default_rng(0), PortInputs(origin=one))
    assert apart(answers(other.host, ported), at_home) < 1e-4
    if technique in ("lora", "prefix"):
        copied = porter_named("copy").port(module, other.host, np.random.default_rng(0))
        assert apart(answers(other.host, copied), at_home) > 1e-2


@pytest.mark.parametrize(
    ("method", "model_type"),
    [
        (method, model_type)
        for method in ALIGNING
        for model_type in BASES
        if (method, model_type) != ("regress", "opt")  # OPT's units that no text turns on cannot be regressed on
    ],
)
def test_a_lora_on_every_map_is_carried_to_another_basis(method: str, model_type: str) -> None:
    """FFN units and what goes into the attention's output too."""
    one, other = home(model_type), away(model_type)
    module = Module(EVERYWHERE["lora"], one.fingerprint, random_matrices(one, EVERYWHERE["lora"]))
    at_home = answers(one, module)
    ported = port(method, module, one, other.host)
    assert apart(answers(other.host, ported, other.basis), at_home) < 1e-4
