"""A port to one and the same host is the identity, whatever the shape; what a slot's record says of it is measured."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftport.hosts.host import Host
from peftport.modules.module import Module
from peftport.porting import PORTERS, porter_named
from peftport.porting.alignment import bases, low_rank
from peftport.porting.alignment.maps import Moments
from peftport.porting.alignment.rotations import polar, rotation, unmoved
from peftport.porting.base import PortInputs
from peftport.techniques import make_spec
from pico import SPECS, pico_host, random_matrices
from porting.rebase import rebase, sentences
from porting.same_host import (
    METHODS,
    Case,
    Outcome,
    Shape,
    answers,
    draw_case,
    draw_shape,
    host_of,
    nudged,
    port,
)

BOUND = 1e-4  # of the module's whole effect
LLAMA = dict(hidden_size=16, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24)
HARD: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "fused queries, keys and values": ("gpt2", {}, ("attn_qkv",)),
    "more units than rows show": ("gpt2", dict(n_inner=300), ("ffn_in", "ffn_out")),
    "heads wider than the stream": ("qwen3", dict(LLAMA, head_dim=32), ("attn_q", "attn_k", "attn_v", "attn_o")),
    "heads narrower than the stream": ("llama", dict(LLAMA, head_dim=2), ("attn_q", "attn_v", "attn_o", "ffn_gate")),
    "one key head for all": ("gemma", dict(LLAMA, num_key_value_heads=1, head_dim=8), ("attn_q", "attn_k", "attn_o")),
    "norms on both sides, windows": (
        "gemma3_text",
        dict(LLAMA, num_key_value_heads=1, head_dim=16, sliding_window=3),
        ("attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "ffn_out"),
    ),
    "keys apart from the width": ("t5", dict(d_kv=20), ("attn_q", "attn_v", "cross_k", "cross_o", "ffn_gate")),
    "units that no text turns on": ("opt", dict(ffn_dim=70), ("attn_q", "ffn_in", "ffn_out")),
    "attention beside the FFN": (
        "phi",
        dict(num_attention_heads=4, qk_layernorm=True),
        ("attn_q", "attn_o", "ffn_out"),
    ),
    "a bottleneck for units": ("bert", dict(intermediate_size=5), ("attn_q", "ffn_in", "ffn_out")),
}


@st.composite
def cases(draw: st.DrawFn) -> list[Case]:
    """Several techniques and methods on one drawn shape: a host is read once for them."""

    def choose(options: Any) -> Any:
        return draw(st.sampled_from(list(options)))

    shape = draw_shape(choose)
    return [draw_case(choose, shape) for _ in range(6)]


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=cases())
def test_a_port_to_the_same_host_is_the_identity(drawn: list[Case]) -> None:
    for case in drawn:
        found = port(case)
        if case.method == "lorasuite" and json.loads(case.shape.changes).get("embedding_size"):
            continue  # refused where embeddings are narrower than the host
        assert (
            found.refused == ""
            or "expected embeddings as wide as the host" in found.refused
            or ("linear:" in case.settings and "cannot carry the lora at this slot" in found.refused)
        ), (case, found)  # of a map outside the layers nobody knows how it reads a batch
        assert found.error < BOUND, (case, found)


CARRIED = [(m, t) for m in METHODS for t in ("lora", "adapter", "compacter", "prefix") if t in PORTERS[m].techniques]


@pytest.mark.parametrize("shape", HARD)
@pytest.mark.parametrize(("method", "technique"), CARRIED)
def test_hard_shapes_are_the_identity_too(method: str, technique: str, shape: str) -> None:
    found = port(hard(shape, technique, method))
    assert found.refused == "" and found.error < BOUND, found


def hard(shape: str, technique: str, method: str) -> Case:
    model_type, changes, sites = HARD[shape]
    settings_: dict[str, Any] = {
        "lora": dict(rank=9, alpha=3.0, sites=sites),
        "adapter": dict(reduction_factor=2),
        "compacter": dict(phm_dim=4, reduction_factor=2),
        "prefix": dict(length=3, hidden=6),
    }
    return Case(Shape(model_type, json.dumps(changes)), technique, json.dumps(settings_[technique]), method)


# `orthogonal_shift` goes by the direction of a change alone, however small it is.
CONTINUOUS = [(m, t) for m, t in CARRIED if t in ("lora", "prefix") and m != "orthogonal_shift"]


@pytest.mark.parametrize(("method", "technique"), CONTINUOUS)
def test_a_port_to_nearly_the_same_host_is_nearly_the_identity(method: str, technique: str) -> None:
    """Weights a millionth away, as after a minor update: nothing jumps where a direction is hardly shown by any row."""
    for shape in ("fused queries, keys and values", "heads wider than the stream", "keys apart from the width"):
        case = hard(shape, technique, method)
        found = port(case, nudged(host_of(case.shape), 1e-6))
        assert found.refused == "" and found.error < 1e-3, (shape, found)


@pytest.mark.parametrize(
    ("method", "technique"),
    [(m, t) for m, t in CONTINUOUS if m in ("theseus", "bico", "cast", "regress", "lorasuite")],
)
def test_another_basis_of_more_outputs_than_inputs_is_undone(technique: str, method: str) -> None:
    """Four heads of 8 on a stream of 16, and a fused matrix: rows leave the map open, heads close it."""
    for model_type, changes, sites in (
        ("mistral", dict(head_dim=8, num_key_value_heads=4), ("attn_q", "attn_k", "attn_v")),
        ("gpt2", dict(n_head=4), ("attn_qkv",)),
    ):
        one = pico_host(model_type, dtype=torch.float64, **changes)
        other = rebase(one).host
        spec = make_spec("lora", {"rank": 2, "alpha": 3.0, "sites": sites}) if technique == "lora" else SPECS["prefix"]
        module = Module(spec, one.fingerprint, random_matrices(one, spec))
        inputs = PortInputs(origin=one, texts=sentences(120))
        ported = porter_named(method).port(module, other, np.random.default_rng(0), inputs)
        change = answers(one, module) - answers(one, None)
        error = float((answers(other, ported) - answers(other, None) - change).abs().max() / change.abs().max())
        assert error < BOUND, model_type


@pytest.mark.parametrize("method", ["crosslora", "subspace"])
@pytest.mark.parametrize("technique", ["lora", "adapter", "prefix"])
def test_random_ranges_of_one_matrix_are_one(technique: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leading vectors of wide matrices are drawn: both hosts' by the same probes."""
    monkeypatch.setattr(low_rank, "EXACT_WIDTH", 4)
    monkeypatch.setattr(low_rank, "OVERSAMPLING", 1)
    monkeypatch.setattr(low_rank, "POWER_ITERATIONS", 0)
    monkeypatch.setattr(bases, "LARGEST_K", 6)
    case = hard("a bottleneck for units", technique, method)
    assert port(case).error < BOUND
    assert bases.leading is low_rank.leading


def test_a_product_of_more_columns_than_rows_is_cut_to_its_rank() -> None:
    """Rank 9 on a map of 5 outputs: `subspace` has 36 columns there."""
    g = torch.Generator().manual_seed(0)
    b, a = (torch.randn(*shape, generator=g).double() for shape in ((5, 36), (36, 12)))
    found = low_rank.compress(b, a, 9)
    assert found.b.shape == (5, 9) and found.a.shape == (9, 12)
    torch.testing.assert_close(found.b @ found.a, b @ a)


# --- maps completed --------------------------------------------------------------------------------------------------


def drawn_rows(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double()


def moments_of(*batches: tuple[torch.Tensor, torch.Tensor]) -> Moments:
    moments = Moments()
    for a, b in batches:
        moments.add(a, b)
    return moments


@given(width=st.integers(1, 8), rank=st.integers(0, 8), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_what_rows_leave_open_is_completed(width: int, rank: int, seed: int) -> None:
    """Orthogonal whatever the rank, the expected map where that fits the rows, and the rows' own where it does not."""
    turn = torch.linalg.qr(drawn_rows(width, width, seed)).Q
    x = drawn_rows(40, width, seed + 1) @ torch.diag((torch.arange(width) < rank).double())
    eye = torch.eye(width).double()
    torch.testing.assert_close(polar(x.mT @ x @ turn, turn), turn)
    found = polar(x.mT @ x @ turn, eye)
    torch.testing.assert_close(found @ found.mT, eye)
    torch.testing.assert_close(x @ found, x @ turn)
    torch.testing.assert_close(x @ polar(x.mT @ x @ turn), x @ turn)


def test_rows_held_out_decide_how_much_of_what_is_expected_is_taken() -> None:
    turn = torch.linalg.qr(drawn_rows(6, 6, 0)).Q
    told = [drawn_rows(50, 6, seed) for seed in range(1, 5)]
    found = rotation(moments_of(*((x, x @ turn) for x in told)), unmoved)
    torch.testing.assert_close(found.there, turn)
    shown = torch.tensor([1, 1, 1, 1, 1, 1e-6]).double()  # the last direction hardly more than the noise below
    hardly = [(x * shown, x * shown + 1e-6 * drawn_rows(50, 6, 9 + i)) for i, x in enumerate(told)]
    near = rotation(moments_of(*hardly), unmoved)
    assert float((near.there - torch.eye(6).double()).abs().max()) < 1e-5
    assert near.alignment is not None


# --- figures on record -----------------------------------------------------------------------------------------------


def figures(found: Outcome) -> list[float]:
    """The shares and alignments on a port's record, one a slot: the least named there."""
    wanted = re.compile(r"(?:alignment|explained(?: of \w+)?) (-?\d+\.\d\d)")
    notes = [note for note in found.notes if note.startswith("carried")]
    assert notes and all(wanted.search(note) for note in notes), notes
    return [min(float(figure) for figure in wanted.findall(note)) for note in notes]


FIGURED = [("theseus", "lora"), ("theseus", "adapter"), ("theseus", "prefix"), ("regress", "lora"),
           ("bico", "lora"), ("bico", "adapter"), ("cast", "lora"), ("cast", "adapter"), ("regress", "adapter"),
           ("regress", "prefix"), ("lorasuite", "lora")]  # fmt: skip


@pytest.mark.parametrize(("method", "technique"), FIGURED)
def test_figures_are_good_at_home_and_bad_among_strangers(method: str, technique: str) -> None:
    """Strangers: the same shape, other random weights. Rows that a map was fitted on would praise it."""
    case = Case(Shape("bert", "{}"), technique, json.dumps(settings_of(technique)), method)
    at_home, abroad = port(case), port(case, stranger(case))
    assert min(figures(at_home)) > 0.99
    assert min(figures(abroad)) < 0.7


@pytest.mark.parametrize(("method", "technique"), [pair for pair in FIGURED if pair[0] != "lorasuite"])
def test_figures_from_few_texts_are_bad_and_from_one_are_not_given(method: str, technique: str) -> None:
    case = Case(Shape("bert", json.dumps(dict(hidden_size=32))), technique, json.dumps(settings_of(technique)), method)
    few, many = (port(case, stranger(case), sentences(count)) for count in (4, 200))
    assert np.mean(figures(few)) < np.mean(figures(many))
    alone = port(case, stranger(case), sentences(1))
    carried = [note for note in alone.notes if note.startswith("carried")]
    assert carried and all("not measured: no second text to hold out" in note for note in carried)


def settings_of(technique: str) -> dict[str, Any]:
    return {"lora": dict(rank=2, alpha=3.0), "adapter": dict(reduction_factor=4), "prefix": dict(length=3, hidden=6)}[
        technique
    ]


def stranger(case: Case) -> Host:
    host = pico_host(case.shape.model_type, seed=5, **json.loads(case.shape.changes))
    return replace(host, fingerprint=host.fingerprint.model_copy(update={"width": host.width, "name": "stranger"}))


def test_a_text_given_twice_is_read_once() -> None:
    """A line and its copy would lie on both sides of what is held out."""
    case = Case(Shape("bert", "{}"), "lora", json.dumps(settings_of("lora")), "regress")
    once = port(case, stranger(case), sentences(20))
    assert port(case, stranger(case), [text for text in sentences(20) for _ in range(2)]).notes == once.notes
