"""Mixed precision: products of frozen matrices in bfloat16, everything else in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hosts.test_loading import KINDS, by_kind, by_technique, trained
from peftport.core.errors import BadRequest, SlotMismatch
from peftport.hosts import calibration
from peftport.hosts.host import Host, View
from peftport.hosts.load import load_host
from peftport.hosts.loading import Loading, loading_of, loading_remarks
from peftport.hosts.mixed import multiply_in_bfloat16
from peftport.hosts.slots import Slot, linear_paths
from peftport.hosts.weights import HostWeights
from peftport.modules.module import stack
from peftport.techniques import TECHNIQUES, make_spec, technique_named
from peftport.techniques.attach import attached
from peftport.techniques.base import TechniqueSpec
from pico import CONFIGS, inputs_of, pico_model, random_matrices, word_tokenizer

ROWS = ((9, 5, 20, 7, 11, 6, 8, 21, 10, 13, 1), (6, 14, 10, 1))


def saved(folder: Path, model_type: str) -> Path:
    if not folder.exists():
        pico_model(model_type).save_pretrained(folder)
        word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hosts")


def both(home: Path, model_type: str, view: View = "language_model") -> tuple[Host, Host]:
    folder = saved(home / model_type, model_type)
    return load_host(str(folder), view), load_host(str(folder), view, Loading(dtype="mixed"))


def computed(host: Host, spec: TechniqueSpec | None) -> tuple[Tensor, Tensor]:
    """The scores of a module of random numbers, and the gradient of a sum of them with respect to all its numbers."""
    if spec is None:
        with torch.no_grad():
            return host.model(**inputs_of(host, ROWS)).logits, torch.zeros(0)
    technique = technique_named(spec.kind)
    stacked = stack([random_matrices(host, spec, std=0.1)])
    leaves = [tensor.requires_grad_() for own in stacked.values() for tensor in own.values()]
    with attached(host, spec, technique.materialise(spec, technique.slots(spec, host.slots), stacked)):
        with torch.no_grad():
            out: Tensor = host.model(**inputs_of(host, ROWS)).logits
        scores = host.model(**inputs_of(host, ROWS)).logits
    torch.manual_seed(0)
    grads = torch.autograd.grad((scores * torch.randn(scores.shape)).sum(), leaves, allow_unused=True)
    return out, torch.cat([grad.flatten() for grad in grads if grad is not None])


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9), inner=st.integers(1, 70), outer=st.integers(1, 70), bias=st.booleans(),
    turned=st.booleans(), site=st.sampled_from(["ffn_in", "attn_q"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_product_and_its_gradient_are_those_of_rounded_numbers(
    rows: int, inner: int, outer: int, bias: bool, turned: bool, site: str, seed: int
) -> None:
    """Against float64 on the same rounded numbers: no more apart than roundings of the result to bfloat16."""
    torch.manual_seed(seed)
    layer: Any = Conv1D(outer, inner) if turned else nn.Linear(inner, outer, bias=bias)
    nn.init.normal_(layer.weight)
    model = nn.Sequential(layer).requires_grad_(False)
    multiply_in_bfloat16(model, [Slot(f"layer.0.{site}", site, "linear", "0", inner, outer)])
    assert layer.weight.dtype == torch.bfloat16
    x = torch.randn(rows, inner, requires_grad=True)
    y = layer(x)
    grad = torch.randn_like(y)
    y.backward(grad)
    weight = layer.weight.double().T if turned else layer.weight.double()
    added = layer.bias.double() if layer.bias is not None else torch.zeros(outer)
    product = x.detach().bfloat16().double() @ weight.T
    roundings = 2**-8 * ((product + added).abs() + product.abs()) + 1e-4 * inner
    back = grad.bfloat16().double() @ weight
    assert y.dtype == (torch.bfloat16 if site == "ffn_in" else torch.float32)  # attention meets one format only
    assert x.grad.dtype == torch.float32  # type: ignore[union-attr]
    assert ((y.detach().double() - product - added).abs() <= roundings).all()
    torch.testing.assert_close(x.grad.double(), back, rtol=2**-8, atol=1e-4 * outer)  # type: ignore[union-attr]


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(model_type=st.sampled_from(sorted(CONFIGS)), name=st.sampled_from(["none", "all", *TECHNIQUES]))
def test_a_host_of_a_drawn_family_computes_nearly_the_same(home: Path, model_type: str, name: str) -> None:
    """Without a module, with LoRA at all linear maps, and with each technique where it goes by default."""
    wide, mixed = both(home, model_type)
    assert mixed.dtype == mixed.wide_dtype == torch.float32
    frozen = {path: mixed.base.get_submodule(path).weight.dtype for path in linear_paths(mixed.base)}
    assert set(frozen.values()) == {torch.bfloat16}
    others = [p.dtype for name, p in mixed.model.named_parameters() if name.rpartition(".")[2] != "weight"]
    assert set(others) <= {torch.float32}
    sites = sorted({slot.site for slot in wide.slots.values() if slot.kind == "linear"})
    spec = (
        make_spec("lora", {"rank": 2, "sites": sites}) if name == "all" else None if name == "none" else make_spec(name)
    )
    try:
        one, gradient = computed(wide, spec)
    except SlotMismatch:
        assume(False)  # a technique that this family has no place for
    other, narrow = computed(mixed, spec)
    assert other.dtype == narrow.dtype == torch.float32
    assert 0 < (one - other).abs().max() < 0.05 * one.abs().max()
    assert (gradient - narrow).norm() <= 0.2 * gradient.norm()


@by_kind
@by_technique
def test_training_reaches_nearly_the_same(home: Path, model_type: str, readout: str, technique: str) -> None:
    """With what is trained in float32: steps far below the resolution of bfloat16 are not lost."""
    wide, mixed = both(home, model_type, "language_model" if readout == "label_tokens" else "body")
    one, other = trained(wide, readout, technique), trained(mixed, readout, technique)
    assert one.loss == pytest.approx(other.loss, rel=0.05, abs=0.05)
    start, moved = trained(mixed, readout, technique, 1, 1e-6), trained(mixed, readout, technique, 2, 1e-6)
    assert any(not torch.equal(t, start.matrices[s][n]) for s, own in moved.matrices.items() for n, t in own.items())
    assert all(t.dtype == torch.float32 for own in moved.matrices.values() for t in own.values())


@pytest.mark.parametrize("dtype", ["mixed", "bfloat16"])
@pytest.mark.parametrize("model_type", sorted({model_type for model_type, _ in KINDS} | {"gpt2"}))
def test_methods_read_the_numbers_of_the_files(home: Path, model_type: str, dtype: Any) -> None:
    """Not those that were rounded for the products."""
    folder = str(saved(home / model_type, model_type))
    narrow, whole = (HostWeights(load_host(folder, "body", Loading(dtype=each))) for each in (dtype, "float32"))
    for slot in whole.host.slots.values():
        if slot.kind == "linear":
            torch.testing.assert_close(narrow.matrix(slot), whole.matrix(slot), rtol=0, atol=0)
    torch.testing.assert_close(narrow.embeddings(), whole.embeddings(), rtol=0, atol=0)


def test_packed_matrices_are_no_matter_for_it() -> None:
    with pytest.raises(BadRequest, match="expected float32 or bfloat16 with bits=4, got mixed; leave one of them out"):
        loading_of({"dtype": "mixed", "bits": 4})


def test_auto_is_what_the_timing_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """And packed matrices stay in float32, of which nothing is timed."""
    for ratio, dtype in ((3.0, "mixed"), (0.2, "float32")):
        monkeypatch.setattr(calibration, "_seconds", lambda device, *, mixed, ratio=ratio: 1 / ratio if mixed else 1.0)
        calibration.chosen_format.cache_clear()
        assert loading_of({"dtype": "auto"}) == Loading(dtype=dtype)  # type: ignore[arg-type]
        [said] = loading_remarks({"dtype": "auto"})
        assert said == f"dtype auto: {dtype}, as a mixed product is {ratio:.1f} times as fast as one in float32 here"
    calibration.chosen_format.cache_clear()
    monkeypatch.setattr(calibration, "_seconds", None)
    assert loading_of({"dtype": "auto", "bits": 4}) == Loading(bits=4)
    assert loading_remarks({"dtype": "auto", "bits": 4}) == loading_remarks({"dtype": "mixed"}) == ()
    calibration.chosen_format.cache_clear()


def test_a_real_timing_names_one_of_the_two() -> None:
    chosen = calibration.chosen_format("cpu")
    assert chosen.dtype == ("mixed" if chosen.ratio >= calibration.WORTH else "float32") and chosen.ratio > 0
