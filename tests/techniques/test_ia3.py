"""(IA)3, a technique added by the recipe alone: trained, ported by every method, sampled, compared, written, read."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peftport.core.errors import BadRequest
from peftport.hosts.host import Host
from peftport.modules.folders import read_module, write_module
from peftport.modules.module import Module, fresh_module, stack
from peftport.porting import PORTERS, SAMPLERS, porter_named, sampler_named
from peftport.porting.alignment.maps import Dense, Reordering, Thin
from peftport.porting.alignment.transport import scaling_kept
from peftport.porting.base import PortInputs
from peftport.techniques import TECHNIQUES, make_spec
from peftport.techniques.attach import attached
from peftport.techniques.base import TechniqueSpec
from peftport.techniques.lora import Lora
from peftport.techniques.roles import Inner, Reads, Scales, Writes
from pico import SMALL, inputs_of, pico_host, random_matrices
from pico_folders import Run, cut_off, in_process, save_hosts, save_reviews
from pico_study import TINY, plan_of, run_in
from porting.rebase import rebase, sentences
from techniques.ia3 import Ia3, Ia3Spec

ROWS = ((9, 5, 20, 7, 11, 1), (6, 14, 10, 1))
TEXTS = tuple(sentences(80))
REFUSE = ("orthogonal_shift", "bico", "cast")  # which carry products of matrices
METHODS = [name for name, porter in PORTERS.items() if porter.needs not in ("anchors", "training")]
METHODS = [name for name in METHODS if name not in REFUSE]
host_of = cache(pico_host)  # shared: nothing may change it


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's one line."""
    monkeypatch.setitem(TECHNIQUES, "ia3", Ia3())


class Examples:
    """Losses on two texts, as a task would give them."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def losses(self) -> Any:
        for row in ROWS:
            out = self.host.model(**inputs_of(self.host, (row,)))
            yield out.logits[..., 3].mean()


def a_module(host: Host, spec: TechniqueSpec | None = None, seed: int = 3) -> Module:
    spec = spec or Ia3Spec()
    return Module(spec, host.fingerprint, random_matrices(host, spec, seed))


def given_(origin: Host, receiver: Host) -> PortInputs:
    return PortInputs(origin=origin, texts=TEXTS, labelled=Examples(receiver))


@torch.no_grad()
def answers(host: Host, module: Module | None) -> Tensor:
    matrices = stack([module.matrices], host.dtype) if module else {}
    with attached(host, module.spec if module else None, matrices):
        out: Tensor = host.model(**inputs_of(host, ROWS)).logits
    return out.double()


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def port(method: str, module: Module, origin: Host, receiver: Host) -> Module:
    return porter_named(method).port(module, receiver, np.random.default_rng(0), given_(origin, receiver))


# --- attached ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", SMALL)
def test_a_fresh_one_changes_nothing_and_a_random_one_does(model_type: str) -> None:
    host = host_of(model_type)
    fresh = fresh_module(host, Ia3Spec(), 0)
    assert torch.equal(answers(host, fresh), answers(host, None))
    assert apart(answers(host, a_module(host)), answers(host, None)) > 1e-3


# --- ported -----------------------------------------------------------------------------------------------------------


def test_every_method_claims_it_or_says_why_not() -> None:
    """All of them fit linear slots, and none goes by the names of techniques."""
    assert [name for name, porter in PORTERS.items() if "ia3" not in porter.techniques] == list(REFUSE)
    assert all(porter_named(name).cannot_carry(Ia3()) for name in REFUSE)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "t5", "gpt2", "llama", "opt", "phi"])
@pytest.mark.parametrize("method", METHODS)
def test_a_port_to_the_same_host_is_the_identity(method: str, model_type: str) -> None:
    """Masking by a gradient (gradfix) is none: there every number is the module's or zero."""
    host = host_of(model_type, dtype=torch.float64)
    sites = tuple(dict.fromkeys(slot.site for slot in host.slots.values() if slot.kind == "linear"))
    module = a_module(host, Ia3Spec(sites=sites))
    ported = port(method, module, host, host)
    if method == "gradfix":
        pairs = [(ported.matrices[slot]["l"], own["l"]) for slot, own in module.matrices.items()]
        assert all(bool(((new == old) | (new == 0)).all()) for new, old in pairs)
        return
    change = answers(host, module) - answers(host, None)
    assert apart(answers(host, ported) - answers(host, None), change) < 1e-4 * float(change.abs().max())


RELATIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "other weights": ("bert", {}),
    "wider and deeper": ("bert", {"hidden_size": 32, "num_hidden_layers": 3}),
    "narrower": ("bert", {"hidden_size": 8, "intermediate_size": 12}),
    "another family": ("distilbert", {}),
}


@pytest.mark.parametrize("relative", RELATIVES)
@pytest.mark.parametrize("method", METHODS)
def test_a_port_to_a_relative_runs_or_says_why_not(method: str, relative: str) -> None:
    model_type, changes = RELATIVES[relative]
    origin, receiver = host_of("bert"), host_of(model_type, seed=5, **changes)
    porter, module = porter_named(method), a_module(origin)
    if porter.refusal(module, receiver):
        assert porter.fits.width == "same" or porter.fits.depth == "same"
        return
    ported = port(method, module, origin, receiver)
    assert ported.matrices.keys() == Ia3().slots(ported.spec, receiver.slots).keys()
    notes = list(ported.ports[-1].slots.values())
    left_out = all(note.startswith("carried; left out: overlap") for note in notes)  # by `subspace`, among strangers
    assert left_out == (apart(answers(receiver, ported), answers(receiver, None)) == 0), notes
    if method in ("theseus", "crosslora") and relative == "other weights":  # a map that mixes coordinates
        assert any("of the scaling kept" in note for note in notes), notes


@pytest.mark.parametrize("method", ["transfusion", "theseus", "regress", "lorasuite"])
@pytest.mark.parametrize("model_type", ["bert", "gpt2", "t5"])
def test_reordered_units_are_undone_exactly(method: str, model_type: str) -> None:
    """Where coordinates are only reordered, a scaling of the one host is a scaling of the other; a copy is not."""
    origin = host_of(model_type, dtype=torch.float64)
    receiver = rebase(origin, residual=False, units_only=True).host
    module = a_module(origin, Ia3Spec(sites=("ffn_in",)))
    at_home = answers(origin, module)
    ported = port(method, module, origin, receiver)
    assert apart(answers(receiver, ported), at_home) < 1e-4
    assert apart(answers(receiver, port("copy", module, origin, receiver)), at_home) > 1e-3


@given(width=st.integers(1, 7), wider=st.integers(0, 4), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_the_scaling_is_the_nearest_one(width: int, wider: int, seed: int) -> None:
    """Of all diagonal matrices, for maps of every kind; what it keeps is what lies on the diagonal."""
    g = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).double()

    numbers, turn = drawn(width), torch.linalg.qr(drawn(width, width)).Q
    maps = [
        Dense(drawn(width, width + wider), drawn(width + wider, width)),
        Dense(turn, turn.mT),
        Thin(turn[:, :1], torch.eye(1).double(), torch.linalg.qr(drawn(width, 1)).Q, rest=True),
    ]
    for space in maps:
        there, back = space.matrices(width)
        change = back @ torch.diag(numbers) @ there
        found = space.scale(numbers)
        best = (change - torch.diag(found)).norm()
        for _ in range(5):
            other = found + 0.1 * drawn(len(found))
            assert float((change - torch.diag(other)).norm()) >= float(best) - 1e-12
        assert scaling_kept(numbers, space) == pytest.approx(1 - float(best / change.norm()) ** 2)
    order = torch.randperm(width, generator=g)
    assert torch.equal(Reordering(order).scale(numbers), numbers[order])
    assert scaling_kept(numbers, Reordering(order)) == pytest.approx(1)


# --- techniques that a method cannot carry ----------------------------------------------------------------------------


class Gated(Lora):
    """A technique of no known form: it reads a map's inputs and scales its outputs."""

    name = "gated"
    roles = {"A": Reads("in"), "l": Scales("out"), "b": Inner(), "B": Writes("out")}


@pytest.mark.parametrize(("method", "why"), [("subspace", "no product of two"), ("regress", "no regression is known")])
def test_a_method_says_in_one_line_what_it_cannot_carry(method: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_of("bert")
    monkeypatch.setitem(TECHNIQUES, "lora", Gated())
    module = a_module(host, make_spec("lora"))
    assert "lora" not in porter_named(method).techniques and "lora" in porter_named("theseus").techniques
    refusal = f"{method}: expected a module of .*ia3.*, got lora: .*{why}.*: .*theseus"
    with pytest.raises(BadRequest, match=refusal) as no:
        port(method, module, host, host)
    assert "\n" not in str(no.value)


# --- sampled ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_it_is_sampled(sampler: str) -> None:
    host, module = host_of("bert"), a_module(host_of("bert"))
    sampled = sampler_named(sampler).port(module, host, np.random.default_rng(0))
    for slot, own in module.matrices.items():
        new, old = sampled.matrices[slot]["l"], own["l"]
        assert new.shape == old.shape and not torch.equal(new, old)
        if sampler == "permutation":
            assert torch.equal(new.sort().values, old.sort().values)
        if sampler in ("norm_matched", "spectrum"):
            torch.testing.assert_close(new.norm(), old.norm())


# --- everywhere else --------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small hosts, a task, and nothing else that answers."""
    (tmp_path / "cache").mkdir()
    cut_off(monkeypatch, tmp_path / "cache")
    save_hosts(tmp_path, ("bert", "bert-updated", "t5", "t5-updated"))
    save_reviews(tmp_path / "reviews.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def peftport(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return in_process(monkeypatch, capfd)


def test_it_is_trained_evaluated_ported_compared_written_and_read(place: Path, peftport: Run) -> None:
    """By the command line, as its users would."""
    short = ["--steps", 4, "--batch-size", 4]
    done = peftport("train", "bert", "reviews.csv", "--technique", "ia3", "--out", "home", *short, "--json")
    assert done.code == 0, done.err
    module = read_module(place / "home")
    assert module.spec == Ia3Spec() and any(bool(own["l"].any()) for own in module.matrices.values())
    write_module(module, host_of("bert"), place / "again")
    again = read_module(place / "again")
    assert all(torch.equal(again.matrices[slot]["l"], own["l"]) for slot, own in module.matrices.items())
    evaluated = peftport("evaluate", "bert", "reviews.csv", "--module", "home", "--json")
    assert evaluated.json["accuracy"] == done.json["with_module"]["accuracy"]
    for method in METHODS:
        options = ["--to", "bert-updated", "--method", method, "--from", "bert", "--texts", "reviews.csv"]
        options += ["--task", "reviews.csv"] if method == "gradfix" else []
        assert (ported := peftport("port", "home", *options, "--out", f"by-{method}")).code == 0, ported.err
        assert read_module(place / f"by-{method}").spec == Ia3Spec()
    options = ["--to", "bert-updated", "--task", "reviews.csv", "--budgets", "0,2", "--seeds", 2, "--batch-size", 4]
    compared = peftport("compare", "home", *options, "--json")
    assert {row["arm"] for row in compared.json["rows"]} >= {"ported", "sampled", "scratch"}
    checked = peftport("check", "home", "--to", "bert-updated", "--json")
    assert checked.code == 0, checked.err
    for other in ("peft", "adapters"):
        refused = peftport(
            "train", "bert", "reviews.csv", "--technique", "ia3", "--format", other, "--out", other, *short
        )
        assert refused.code == 2 and refused.err.count("\n") == 1 and "use the native format" in refused.err
    listed = peftport("techniques", "--json").json
    assert "ia3" in str(listed)
    wrong = peftport("train", "bert", "reviews.csv", "--technique", "ia3", "--set", "rank=2", "--out", "wrong", *short)
    assert wrong.code == 2 and wrong.err.count("\n") == 1 and "settings of ia3: sites" in wrong.err


def test_it_is_in_a_study(place: Path) -> None:
    adapter = '{ kind = "adapter", reduction_factor = 4 }'
    assert adapter in TINY
    study = TINY.replace(adapter, '{ kind = "ia3", sites = ["attn_k", "ffn_in"] }')
    study = study.replace("adapter = 1e-2", "ia3 = 1e-2")
    Path("study.toml").write_text(study, encoding="utf-8")
    plan = plan_of(Path("study.toml"))
    summary = run_in(place / "folder", plan)
    assert summary.failed == 0 and summary.done > 0
