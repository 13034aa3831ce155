"""Porters and samplers: bit for bit where they promise it, on record, and a refusal that names slot and hosts."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from peftport.core.errors import BadRequest, SlotMismatch, UnknownName
from peftport.hosts.host import Host
from peftport.modules.folders import read_module, write_module
from peftport.modules.module import HEAD, Module, fresh_module, stack
from peftport.porting import PORTERS, SAMPLERS, porter_named, sampler_named
from peftport.porting.base import Fits
from peftport.techniques import TECHNIQUES
from peftport.techniques.attach import attached, prefix_length
from peftport.techniques.base import SHARED
from pico import SPECS, inputs_of, pico_host, random_matrices

FAMILIES = ("bert", "t5", "llama", "gpt2")
ROWS = ((9, 5, 20, 7, 11, 1), (6, 14, 10, 1))
COPY = porter_named("copy")
host_of = cache(pico_host)  # shared: nothing may change it
by_technique = pytest.mark.parametrize("technique", TECHNIQUES)
by_sampler = pytest.mark.parametrize("sampler", SAMPLERS)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def named(host: Host, name: str, **changes: Any) -> Host:
    """The host under another name, so that messages tell two hosts apart."""
    config = host.config
    changes = {"layers": config.num_hidden_layers, "width": config.hidden_size, "weights": name, **changes}
    return replace(host, name=name, fingerprint=host.fingerprint.model_copy(update={"name": name, **changes}))


def a_module(technique: str, host: Host, head: bool = False) -> Module:
    matrices = random_matrices(host, SPECS[technique])
    if head:
        matrices[HEAD] = {
            "weight": torch.randn(2, 16, generator=torch.Generator().manual_seed(1)),
            "bias": torch.ones(2),
        }
    return Module(SPECS[technique], host.fingerprint, matrices)


def numbers(module: Module) -> dict[str, torch.Tensor]:
    return {f"{slot}/{name}": t for slot, own in module.matrices.items() for name, t in own.items()}


def equal(one: Module, other: Module) -> bool:
    a, b = numbers(one), numbers(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- copy ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", FAMILIES)
@by_technique
def test_a_copy_to_the_same_host_is_bitwise(model_type: str, technique: str) -> None:
    """The matrices, and so what the host answers with them."""
    host = host_of(model_type)
    module = a_module(technique, host, head=True)
    ported = COPY.port(module, host, rng())
    assert equal(ported, module)
    answers = []
    for each in (module, ported):
        inputs = inputs_of(host, ROWS, prefix_length(each.spec, host))
        with torch.no_grad(), attached(host, each.spec, stack([each.matrices])):
            answers.append(host.model(**inputs).logits)
    assert torch.equal(*answers)


@by_technique
def test_a_copy_is_on_record(technique: str) -> None:
    """Method, both hosts, and what was done at each slot; spec, task and training stay."""
    origin, receiver = host_of("bert"), named(host_of("bert", seed=1), "receiver")
    module = a_module(technique, origin)
    ported = COPY.port(module, receiver, rng())
    assert equal(ported, module)
    [record] = ported.ports
    assert (record.method, record.origin, record.receiver) == ("copy", origin.fingerprint, receiver.fingerprint)
    assert record.slots == dict.fromkeys(module.matrices, "copied")
    assert ported.host == receiver.fingerprint
    assert (ported.spec, ported.task, ported.training) == (module.spec, module.task, module.training)
    assert module.ports == () and module.host == origin.fingerprint


def test_ports_accumulate() -> None:
    hosts = [named(host_of("bert", seed=seed), f"host-{seed}") for seed in range(3)]
    module = a_module("lora", hosts[0])
    far = COPY.port(COPY.port(module, hosts[1], rng()), hosts[2], rng())
    assert [(p.origin.name, p.receiver.name) for p in far.ports] == [("host-0", "host-1"), ("host-1", "host-2")]
    sampled = sampler_named("gaussian").port(far, hosts[2], rng())
    assert [p.method for p in sampled.ports] == ["copy", "copy", "gaussian"]
    assert (len(far.ports), len(module.ports)) == (2, 0)


RECEIVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "wider": ("bert", {"hidden_size": 32}),
    "narrower": ("bert", {"hidden_size": 8}),
    "deeper": ("bert", {"num_hidden_layers": 3}),
    "shallower": ("bert", {"num_hidden_layers": 1}),
    "family with the same slots": ("distilbert", {}),
    "family with other slots": ("t5", {}),
    "decoder": ("llama", {"num_key_value_heads": 4}),
}


@pytest.mark.parametrize("change", RECEIVERS)
@pytest.mark.parametrize("method", [name for name, p in (PORTERS | SAMPLERS).items() if p.fits == Fits()])
@by_technique
def test_a_module_that_does_not_fit_is_refused(technique: str, method: str, change: str) -> None:
    """One line that names a slot and both hosts."""
    model_type, changes = RECEIVERS[change]
    origin, receiver = named(host_of("bert"), "the-origin"), named(host_of(model_type, **changes), "the-receiver")
    porter = (PORTERS | SAMPLERS)[method]
    if technique not in porter.techniques:
        with pytest.raises(BadRequest, match=f"^{method}: expected a module of .*, got {technique}: "):
            porter.port(a_module(technique, origin), receiver, rng())
        return
    with pytest.raises(SlotMismatch) as refusal:
        porter.port(a_module(technique, origin), receiver, rng())
    message = str(refusal.value)
    assert refusal.value.exit_code == 2 and "\n" not in message
    assert "the-origin" in message and "the-receiver" in message, message
    assert message.partition(":")[0] in {*origin.slots, *receiver.slots}, message
    assert f"`{method}`" in message


def test_widths_are_named_in_the_refusal() -> None:
    origin, receiver = named(host_of("bert"), "one"), named(host_of("bert", hidden_size=32), "other")
    with pytest.raises(SlotMismatch, match=r"layers\.0\.attn_q: .*A is \(2, 16\).*width 16.*takes \(2, 32\)"):
        COPY.port(a_module("lora", origin), receiver, rng())


@by_technique
def test_a_module_of_another_technique_is_refused(technique: str) -> None:
    """Matrices of one technique under the spec of another."""
    host = host_of("bert")
    for other in TECHNIQUES.keys() - {technique}:
        posing = replace(a_module(technique, host), spec=SPECS[other])
        with pytest.raises(SlotMismatch, match=r"^layers\.0\.attn"):
            COPY.port(posing, host, rng())


def test_unknown_methods_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown method 'copi': did you mean 'copy'"):
        porter_named("copi")
    with pytest.raises(UnknownName, match="unknown sampler 'gausian': did you mean 'gaussian'"):
        sampler_named("gausian")


# --- samplers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", FAMILIES)
@by_technique
@by_sampler
def test_sampled_modules_are_new_numbers_of_the_same_shapes(sampler: str, technique: str, model_type: str) -> None:
    """And the module they are drawn from stays as it is."""
    host = host_of(model_type)
    module = a_module(technique, host, head=True)
    before = {name: t.clone() for name, t in numbers(module).items()}
    drawn = SAMPLERS[sampler].port(module, host, rng())
    assert all(torch.equal(t, before[name]) for name, t in numbers(module).items())
    new = numbers(drawn)
    assert {n: (t.shape, t.dtype) for n, t in new.items()} == {n: (t.shape, t.dtype) for n, t in before.items()}
    assert all(bool(t.isfinite().all()) for t in new.values())
    alike = [n for n, t in new.items() if torch.equal(t, before[n]) and n != f"{HEAD}/bias"]  # all ones: its own sample
    assert alike == []
    assert not any(new[n].data_ptr() == t.data_ptr() for n, t in numbers(module).items())
    [record] = drawn.ports
    assert record.method == sampler and record.slots == dict.fromkeys(module.matrices, f"sampled ({sampler})")


@by_technique
@by_sampler
def test_a_sample_is_its_seed(sampler: str, technique: str, tmp_path: Path) -> None:
    """Also after the module has been saved and loaded, whatever order its slots then come in."""
    host = host_of("t5")
    module = a_module(technique, host)
    drawn = SAMPLERS[sampler].port(module, host, rng(1))
    assert equal(drawn, SAMPLERS[sampler].port(module, host, rng(1)))
    other = numbers(SAMPLERS[sampler].port(module, host, rng(2)))
    same = [torch.equal(t, other[name]) for name, t in numbers(drawn).items()]
    assert np.mean(same) < 0.1  # four numbers may be shuffled twice alike
    write_module(module, host, tmp_path / "module")
    assert equal(drawn, SAMPLERS[sampler].port(read_module(tmp_path / "module"), host, rng(1)))


def matrix(*shape: int) -> np.ndarray[Any, Any]:
    return rng(7).gamma(2.0, 1.5, shape) - 1


def test_gaussian_keeps_mean_and_deviation() -> None:
    """Of a skewed matrix: its two moments, and nothing else of it."""
    source = matrix(300, 200)
    drawn = sampler_named("gaussian").draw(source, rng())
    n = drawn.size
    assert abs(drawn.mean() - source.mean()) < 4 * source.std() / np.sqrt(n)
    assert abs(drawn.std() / source.std() - 1) < 4 / np.sqrt(2 * n)
    assert abs(stats.skew(drawn.ravel())) < 0.05 < stats.skew(source.ravel())
    assert abs(np.corrcoef(drawn.ravel(), source.ravel())[0, 1]) < 4 / np.sqrt(n)


def test_permutation_keeps_the_numbers() -> None:
    source = matrix(30, 20)
    drawn = sampler_named("permutation").draw(source, rng())
    assert np.array_equal(np.sort(drawn, axis=None), np.sort(source, axis=None))
    assert drawn.shape == source.shape and (drawn == source).mean() < 0.05
    assert not np.array_equal(np.sort(drawn, axis=1), np.sort(source, axis=1))  # not within rows only
    assert not np.array_equal(np.sort(drawn, axis=0), np.sort(source, axis=0))


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (4, 6, 3), (4, 4, 4), (1, 8), (8, 1)])
def test_spectrum_keeps_singular_values(shape: tuple[int, ...]) -> None:
    """Of every matrix of a batch; its singular vectors are others, without a preferred sign."""
    source = matrix(*shape)
    drawn = sampler_named("spectrum").draw(source, rng())
    kept = np.linalg.svd(source, compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(drawn, compute_uv=False), kept, rtol=1e-10, atol=1e-12)
    firsts = [sampler_named("spectrum").draw(source, rng(seed)).ravel()[0] for seed in range(200)]
    assert abs(np.mean(firsts)) < 4 * np.std(firsts) / np.sqrt(200)
    assert 0.3 < np.mean(np.array(firsts) > 0) < 0.7


def test_spectrum_keeps_the_norm_of_a_vector() -> None:
    source = matrix(40)
    drawn = sampler_named("spectrum").draw(source, rng())
    assert np.linalg.norm(drawn) == pytest.approx(np.linalg.norm(source))
    assert abs(np.dot(drawn, source)) < 0.9 * np.dot(source, source)
    assert not sampler_named("spectrum").draw(np.zeros(4), rng()).any()


def updates(module: Module, host: Host) -> dict[str, torch.Tensor]:
    technique = TECHNIQUES[module.spec.kind]
    stacked = stack([module.matrices], torch.float64)
    return {
        name: technique.effective(module.spec, slot, stacked[name], stacked.get(SHARED, {}))[0]
        for name, slot in technique.slots(module.spec, host.slots).items()
    }


@pytest.mark.parametrize("model_type", FAMILIES)
@by_technique
def test_norm_matched_keeps_the_norm_of_each_update(technique: str, model_type: str) -> None:
    """B A, W_up W_down, keys and values: not only of the factors; plain gaussian does not."""
    host = host_of(model_type)
    module = a_module(technique, host, head=True)
    before = {name: float(update.norm()) for name, update in updates(module, host).items()}
    matched = updates(sampler_named("norm_matched").port(module, host, rng()), host)
    plain = updates(sampler_named("gaussian").port(module, host, rng()), host)
    assert {name: float(update.norm()) for name, update in matched.items()} == pytest.approx(before, rel=1e-5)
    assert all(abs(float(update.norm()) / before[name] - 1) > 1e-4 for name, update in plain.items())
    for name, update in updates(module, host).items():
        cosine = torch.nn.functional.cosine_similarity(update.flatten(), matched[name].flatten(), dim=0)
        assert abs(float(cosine)) < 0.9, name


@by_sampler
def test_an_untrained_lora_is_sampled_without_an_update(sampler: str) -> None:
    """B is zero: zero has no spread, no other order and no norm; above all, no NaN."""
    host = host_of("bert")
    drawn = SAMPLERS[sampler].port(fresh_module(host, SPECS["lora"], 0), host, rng())
    assert not any(own["B"].any() for own in drawn.matrices.values())
    assert all(own["A"].isfinite().all() and own["A"].any() for own in drawn.matrices.values())
