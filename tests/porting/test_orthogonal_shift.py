"""What orthogonal_shift removes from an update: the component along the host's own change, whatever the rank."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftport.core.errors import BadRequest, NotFinite
from peftport.hosts.host import Host
from peftport.hosts.weights import HostWeights
from peftport.modules.module import Module
from peftport.porting import porter_named
from peftport.porting.base import PortInputs
from peftport.porting.methods.orthogonal_shift import orthogonal_to
from pico import SPECS, pico_host, random_matrices
from porting.same_host import nudged


def gaussian(*shape: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def a_module(host: Host, technique: str = "lora") -> Module:
    return Module(SPECS[technique], host.fingerprint, random_matrices(host, SPECS[technique]))


def port(module: Module, origin: Host, receiver: Host) -> Module:
    porter = porter_named("orthogonal_shift")
    return porter.port(module, receiver, np.random.default_rng(0), PortInputs(origin=origin))


@given(
    sides=st.tuples(st.integers(1, 7), st.integers(1, 7)), rank=st.integers(1, 4), shown=st.integers(0, 4),
    seed=st.integers(0, 500), size=st.sampled_from([1e-8, 1.0, 1e6]),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_what_is_left_is_orthogonal_and_near(
    sides: tuple[int, int], rank: int, shown: int, seed: int, size: float
) -> None:
    """Of the rank that it had, by a change no larger than the update, and the same for changes of every size."""
    mask = (torch.arange(rank) < shown).double()  # some of the ranks may be idle
    a, b = gaussian(rank, sides[1], seed=seed), gaussian(sides[0], rank, seed=seed + 1) * mask
    shift = gaussian(*sides, seed=seed + 2)
    left_a, left_b, _ = orthogonal_to(shift * size, a, b)
    update, left = b @ a, left_b @ left_a
    assert left_a.shape == a.shape and left_b.shape == b.shape
    assert abs(float((left * shift).sum())) <= 1e-9 * float(update.norm() * shift.norm())
    assert float((left - update).norm()) <= (1 + 1e-9) * float(update.norm())
    torch.testing.assert_close(left, torch.matmul(*reversed(orthogonal_to(shift, a, b)[:2])))
    torch.testing.assert_close(torch.matmul(*reversed(orthogonal_to(shift, left_a, left_b)[:2])), left)


@pytest.mark.parametrize(("outputs", "inputs"), [(12, 3), (3, 12)])
def test_it_is_the_nearest_of_its_columns_or_rows(outputs: int, inputs: int) -> None:
    """No other matrix with the same columns or rows that is orthogonal to the change lies nearer."""
    a, b, shift = gaussian(2, inputs, seed=0), gaussian(outputs, 2, seed=1), gaussian(outputs, inputs, seed=2)
    left_a, left_b, note = orthogonal_to(shift, a, b)
    update = b @ a
    distance = float((left_b @ left_a - update).norm())
    assert f"{distance / float(update.norm()):.3f} of the update" in note
    for seed in range(200):
        for other in (b @ (a + gaussian(2, inputs, seed=seed)), (b + gaussian(outputs, 2, seed=seed)) @ a):
            step = other - update
            along = float((step * shift).sum())
            step = step * (-float((update * shift).sum()) / along)  # orthogonal to the change again
            assert float(((update + step) * shift).sum()) == pytest.approx(0, abs=1e-9)
            assert float(step.norm()) >= distance - 1e-9


def test_a_full_rank_is_the_projection_itself() -> None:
    """With as many ranks as inputs it is dW - <dW, D> / <D, D> D, the method for whole weights."""
    a, b, shift = gaussian(4, 4, seed=0), gaussian(4, 4, seed=1), gaussian(4, 4, seed=2)
    left_a, left_b, _ = orthogonal_to(shift, a, b)
    wanted = b @ a - (b @ a * shift).sum() / shift.square().sum() * shift
    torch.testing.assert_close(left_b @ left_a, wanted)


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "t5", "llama"])
def test_every_slot_of_a_port_is_orthogonal_to_its_own_change(model_type: str) -> None:
    one = pico_host(model_type, dtype=torch.float64)
    other = nudged(one, 0.1)
    module = a_module(one)
    ported = port(module, one, other)
    assert ported.spec == module.spec
    before, after = HostWeights(one), HostWeights(other)
    for name, own in ported.matrices.items():
        shift = after.matrix(other.slots[name]) - before.matrix(one.slots[name])
        left, update = own["B"] @ own["A"], module.matrices[name]["B"] @ module.matrices[name]["A"]
        assert abs(float((left * shift).sum())) < 1e-6 * float(update.norm() * shift.norm())
        assert float((update * shift).sum()) != 0 and "removed" in ported.ports[-1].slots[name]


def test_an_update_along_the_change_is_gone_and_one_beside_it_stays() -> None:
    """Planted."""
    direction, beside = gaussian(5, 2, seed=0), gaussian(5, 2, seed=1)
    rows = torch.linalg.qr(gaussian(6, 4, seed=2)).Q.mT
    shift = direction @ rows[:2]
    gone_a, gone_b, note = orthogonal_to(shift, rows[:2], direction)
    assert float((gone_b @ gone_a).norm()) < 1e-9 and "cosine 1.000" in note
    kept_a, kept_b, note = orthogonal_to(shift, rows[2:], beside)
    torch.testing.assert_close(kept_b @ kept_a, beside @ rows[2:])
    assert "by a change of 0.000" in note or "no component" in note


def test_nothing_is_removed_on_the_origin_itself() -> None:
    host = pico_host("bert")
    module = a_module(host)
    ported = port(module, host, host)
    assert all(torch.equal(m, module.matrices[s][n]) for s, own in ported.matrices.items() for n, m in own.items())
    assert set(ported.ports[-1].slots.values()) == {"copied: the host's matrix has not changed"}


@pytest.mark.parametrize("technique", ["adapter", "compacter", "prefix"])
def test_what_is_no_update_of_weights_is_refused(technique: str) -> None:
    """With the reason and the methods that can."""
    host = pico_host("bert")
    with pytest.raises(BadRequest, match=r"no matrix that is added to a weight matrix.*methods that carry .*copy"):
        port(a_module(host, technique), host, nudged(host, 0.1))


def test_without_the_origin_it_is_refused() -> None:
    host = pico_host("bert")
    with pytest.raises(BadRequest, match=r"needs the origin host's weights, none given; name it with --from"):
        porter_named("orthogonal_shift").port(a_module(host), host, np.random.default_rng(0), PortInputs())


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_host_that_is_not_finite_has_not_stayed_as_it_was(number: float) -> None:
    host = pico_host("bert")
    module, other = a_module(host), nudged(host, 0.1)
    slot = other.slots[next(iter(module.matrices))]
    with torch.no_grad():
        other.slot_module(slot).weight[0, 0] = number
    with pytest.raises(NotFinite, match="expected finite numbers"):
        port(module, host, other)
