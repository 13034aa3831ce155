"""anchor_ridge and its control anchor_mean, on anchors of which the right sum is known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from peftport.core.errors import BadRequest, ModuleRefused, SlotMismatch
from peftport.hosts.host import Host
from peftport.modules.kept import Kept
from peftport.modules.module import HEAD, Module, TaskRecord
from peftport.porting import porter_named
from peftport.porting.base import Anchor, PortInputs
from peftport.techniques import make_spec, technique_named
from peftport.techniques.base import TechniqueSpec
from pico import SPECS, pico_host, random_matrices
from porting.rebase import named

LORA = SPECS["lora"]
WIDE = make_spec("lora", {"rank": 8, "alpha": 3.0})  # rank for a sum of four LoRAs of rank 2


@cache
def hosts() -> tuple[Host, Host]:
    """Strangers of another width, depth and family."""
    receiver = pico_host("distilbert", 1, dim=32, n_layers=3, n_heads=4, hidden_dim=48)
    return named(pico_host("bert"), "the-origin"), named(receiver, "the-receiver")


def module_on(host: Host, seed: int, spec: TechniqueSpec = LORA) -> Module:
    return Module(spec, host.fingerprint, random_matrices(host, spec, seed))


def four_anchors(spec: TechniqueSpec = LORA) -> list[Anchor]:
    origin, receiver = hosts()
    return [Anchor(module_on(origin, seed, spec), module_on(receiver, 100 + seed, spec)) for seed in range(4)]


def updates(module: Module, host: Host) -> dict[str, Tensor]:
    technique = technique_named(module.spec.kind)
    return {
        name: technique.effective(
            module.spec, slot, {n: t.double()[None] for n, t in module.matrices[name].items()}, {}
        )[0]
        for name, slot in technique.slots(module.spec, host.slots).items()
    }


def ported(method: str, module: Module, anchors: Sequence[Anchor], receiver: Host | None = None) -> Module:
    inputs = PortInputs(anchors=anchors)
    return porter_named(method).port(module, receiver or hosts()[1], np.random.default_rng(0), inputs)


def roomy(module: Module, rank: int) -> Module:
    """The module as one of a higher rank, filled up with zeros; alpha / r stays what it is."""
    spec = make_spec("lora", {"rank": rank, "alpha": 3.0 * rank / 2})
    matrices = {}
    for slot, own in module.matrices.items():
        a, b = torch.zeros(rank, own["A"].shape[1]), torch.zeros(len(own["B"]), rank)
        a[:2], b[:, :2] = own["A"], own["B"]
        matrices[slot] = {"A": a, "B": b}
    return module.with_matrices(matrices, spec=spec)


# --- planted truths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", range(4))
def test_an_anchor_becomes_its_receiver_s_part(which: int) -> None:
    anchors = four_anchors()
    made = ported("anchor_ridge", anchors[which].origin, anchors)
    truth = updates(anchors[which].receiver, hosts()[1])
    for slot, update in updates(made, hosts()[1]).items():
        torch.testing.assert_close(update, truth[slot], atol=1e-6, rtol=0)
    note = made.ports[-1].slots["anchors"]
    expected = ", ".join(f"{1.0 if place == which else 0.0:.3f}" for place in range(4))
    assert note.replace("-0.000", "0.000").startswith(f"factors {expected}; ridge 0; 100% of the update explained")
    assert all("keeps 100.0% of the norm of rank 8" in n for s, n in made.ports[-1].slots.items() if s != "anchors")


def test_a_sum_of_anchors_becomes_the_same_sum() -> None:
    """Anchors of rank 2 in room for 8, so that nothing is cut."""
    anchors = [Anchor(roomy(one, 8), roomy(other, 8)) for one, other in four_anchors()]
    factors = [0.7, -1.2, 0.0, 0.4]
    first, matrices = anchors[0].origin, {}
    for slot in first.matrices:
        owns = [anchor.origin.matrices[slot] for anchor in anchors]
        b = torch.cat([f * own["B"][:, :2] for f, own in zip(factors, owns, strict=True)], dim=1)
        matrices[slot] = {"A": torch.cat([own["A"][:2] for own in owns]), "B": b}
    made = ported("anchor_ridge", first.with_matrices(matrices), anchors)
    parts = [updates(anchor.receiver, hosts()[1]) for anchor in anchors]
    for slot, update in updates(made, hosts()[1]).items():
        truth = sum(factor * part[slot] for factor, part in zip(factors, parts, strict=True))
        torch.testing.assert_close(update, truth, atol=1e-5, rtol=0)
    assert "factors 0.700, -1.200" in made.ports[-1].slots["anchors"]


def test_a_stranger_to_the_anchors_gets_nothing_of_them() -> None:
    """Noise is not explained at slots left out, so the ridge is large and the factors are small."""
    anchors = four_anchors()
    made = ported("anchor_ridge", module_on(hosts()[0], 50), anchors)
    note = made.ports[-1].slots["anchors"]
    factors = [abs(float(word)) for word in re.findall(r"-?\d\.\d{3}", note)]
    assert max(factors) < 0.3, note
    assert float(re.search(r"ridge ([\d.e-]+)", note)[1]) >= 0.1, note  # type: ignore[index]


def test_the_mean_does_not_look_at_the_module() -> None:
    anchors = four_anchors()
    one, other = (ported("anchor_mean", module_on(hosts()[0], seed), anchors) for seed in (50, 51))
    parts = [updates(anchor.receiver, hosts()[1]) for anchor in anchors]
    for slot, update in updates(one, hosts()[1]).items():
        assert torch.equal(update, updates(other, hosts()[1])[slot])
        mean = torch.stack([part[slot] for part in parts]).mean(0)
        kept = float(re.search(r"keeps ([\d.]+)%", one.ports[-1].slots[slot])[1]) / 100  # type: ignore[index]
        u, s, vt = torch.linalg.svd(mean)
        torch.testing.assert_close(update, (u[:, :2] * s[:2]) @ vt[:2], atol=1e-5, rtol=0)
        assert kept == pytest.approx(float(s[:2].norm() / s.norm()), abs=1e-3)


def test_scalings_are_summed_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from peftport.techniques import TECHNIQUES
    from techniques.ia3 import Ia3, Ia3Spec

    monkeypatch.setitem(TECHNIQUES, "ia3", Ia3())
    anchors = four_anchors(Ia3Spec())
    made = ported("anchor_ridge", anchors[1].origin, anchors)
    for slot, own in anchors[1].receiver.matrices.items():
        torch.testing.assert_close(made.matrices[slot]["l"], own["l"], atol=1e-6, rtol=0)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("technique", ["adapter", "compacter", "prefix"])
def test_techniques_without_a_common_order_are_refused(technique: str) -> None:
    module = module_on(hosts()[0], 0, SPECS[technique])
    with pytest.raises(BadRequest, match="no order that two trainings share"):
        ported("anchor_ridge", module, four_anchors(SPECS[technique]))


def test_anchors_that_do_not_fit_are_refused_in_a_line() -> None:
    origin, receiver = hosts()
    module, anchors = module_on(origin, 9), four_anchors()
    cases = {
        "needs at least 2 pairs of anchors.*none given; name them with --anchors": [],
        "at least 2 pairs.* one given": anchors[:1],
        "first module of anchor 2: expected one of the-origin, got one of the-receiver": [anchors[0], anchors[1][::-1]],
        "second module of anchor 2: expected one of the-receiver, got one of the-origin": [
            anchors[0],
            (anchors[1].origin, anchors[1].origin),
        ],
        r"second module of anchor 1: expected kind=lora rank=2.*, got kind=lora rank=8": [
            (anchors[0].origin, module_on(receiver, 3, WIDE)),
            anchors[1],
        ],
    }
    for message, given in cases.items():
        with pytest.raises((BadRequest, SlotMismatch), match=message) as refused:
            ported("anchor_ridge", module, [Anchor(*pair) for pair in given])
        assert "\n" not in str(refused.value) and refused.value.exit_code == 2


def test_a_head_goes_only_where_the_host_is_as_wide() -> None:
    origin, wider = hosts()
    head = {"weight": torch.ones(2, 16), "bias": torch.zeros(2)}
    module = module_on(origin, 0)
    module = module.with_matrices({**module.matrices, HEAD: head})
    with pytest.raises(SlotMismatch, match="leave the head out"):
        ported("anchor_mean", module, four_anchors())
    same = named(pico_host("bert", 4), "as-wide")
    anchors = [Anchor(module_on(origin, seed), module_on(same, seed + 9)) for seed in (1, 2)]
    made = ported("anchor_mean", module, anchors, same)
    assert wider.width != same.width and torch.equal(made.matrices[HEAD]["weight"], head["weight"])


def test_anchors_without_a_slot_or_for_two_tasks_are_refused() -> None:
    module, anchors = module_on(hosts()[0], 9), four_anchors()

    def shorter(one: Module) -> Module:
        return one.with_matrices(dict(list(one.matrices.items())[1:]))

    first, second = anchors[1]
    for pair in ((shorter(first), second), (first, shorter(second))):
        with pytest.raises(SlotMismatch, match="module of anchor 2: layers.0.*got nothing"):
            ported("anchor_ridge", module, [anchors[0], Anchor(*pair)])
    tasks = [TaskRecord(name=n, labels=("a", "b"), digest=n, readout="prototype") for n in ("one", "other")]
    pair = Anchor(*(m.with_matrices(m.matrices, task=t) for m, t in zip(anchors[1], tasks, strict=True)))
    with pytest.raises(BadRequest, match="anchor 2: expected two modules for one task"):
        ported("anchor_ridge", module, [anchors[0], pair])


@pytest.mark.parametrize("method", ["anchor_ridge", "anchor_mean"])
@pytest.mark.parametrize("side", ["first", "second"])
def test_anchors_that_change_weights_outside_the_layers_are_refused(method: str, side: str) -> None:
    """The sum would leave these changes out; a folded file that changes maps of the layers only is its matrices."""
    module, anchors = module_on(hosts()[0], 9), four_anchors()
    trained = {"embeddings.word_embeddings.weight": torch.ones(1), "pooler.dense.bias": torch.ones(1)}

    def with_folded(outside: dict[str, Tensor]) -> list[Anchor]:
        first, second = anchors[2]
        folded = Kept(config={}, tensors={}, outside=outside)
        pair = (replace(first, kept=folded), second) if side == "first" else (first, replace(second, kept=folded))
        return [*anchors[:2], Anchor(*pair), anchors[3]]

    with pytest.raises(ModuleRefused, match=f"{method}: the {side} module of anchor 3: ") as refused:
        ported(method, module, with_folded(trained))
    assert "got one of embeddings.word_embeddings, pooler.dense, too" in str(refused.value)
    plain, same = ported(method, module, anchors), ported(method, module, with_folded({}))
    for slot, own in plain.matrices.items():
        assert all(torch.equal(matrix, same.matrices[slot][name]) for name, matrix in own.items())


def test_of_a_module_without_effect_nothing_is_explained() -> None:
    module = module_on(hosts()[0], 9)
    silent = module.with_matrices({s: {n: 0 * t for n, t in own.items()} for s, own in module.matrices.items()})
    assert "changes nothing" in ported("anchor_ridge", silent, four_anchors()).ports[-1].slots["anchors"]
