"""What each method says it does, on matrices and hosts small enough to check by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from peftport.core.errors import BadRequest, HostRefused
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.hosts.opening import open_host
from peftport.hosts.slots import OUTSIDE
from peftport.hosts.weights import HostWeights
from peftport.modules.module import Module
from peftport.porting import porter_named
from peftport.porting.alignment import spaces
from peftport.porting.alignment.layer_cka import in_order, similarity
from peftport.porting.alignment.low_rank import compress, leading
from peftport.porting.alignment.maps import Moments, assignment, matched, ridge
from peftport.porting.alignment.rotations import rotation, unmoved
from peftport.porting.alignment.words import read, shared_words
from peftport.porting.base import PortCache, PortInputs
from peftport.porting.methods.lorasuite import LoraSuite
from peftport.porting.methods.subspace import above_chance
from peftport.porting.pairs import by_end, by_position
from peftport.techniques.attach import attached
from peftport.techniques.base import TechniqueSpec
from peftport.techniques.compacter import Compacter, expand
from peftport.techniques.kronecker import nearest_compacter
from pico import SPECS, fresh_module, inputs_of, pico_host, random_matrices
from porting.rebase import named, sentences

ROWS = ((9, 5, 20, 7, 11, 1), (6, 14, 10, 1))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(rng(seed).normal(size=shape))


# --- pairing ---------------------------------------------------------------------------------------------------------


def test_layers_are_paired_as_said() -> None:
    assert [by_position("", j, 6, 3) for j in range(3)] == [0, 2, 4]
    assert [by_end("", j, 6, 3) for j in range(3)] == [1, 3, 5]
    assert [by_position("", j, 6, 12) for j in range(12)] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5]
    for rule in (by_position, by_end):
        for ours, theirs in ((6, 6), (3, 7), (30, 12), (1, 5)):
            found = [rule("", j, ours, theirs) for j in range(theirs)]
            assert found == sorted(found) and set(found) <= set(range(ours))
            assert ours != theirs or found == list(range(ours))


def test_layers_by_likeness_keep_their_order() -> None:
    """The best path, by trying all."""
    table = gaussian(5, 3)
    paths = [(i, j, k) for i in range(5) for j in range(i + 1, 5) for k in range(j + 1, 5)]
    best = max(paths, key=lambda path: sum(float(table[i, c]) for c, i in enumerate(path)))
    assert tuple(in_order(table)) == best
    assert in_order(torch.eye(4)) == [0, 1, 2, 3]
    assert in_order(torch.eye(2).repeat_interleave(2, 1)) == [0, 0, 1, 1]


def test_a_layer_is_most_like_itself() -> None:
    host = pico_host("bert", dtype=torch.float64, num_hidden_layers=3)
    table = similarity(host, host, PortInputs(texts=sentences(40)))["layers"]
    torch.testing.assert_close(table.diagonal(), torch.ones(3).double())
    assert bool((table <= 1 + 1e-9).all()) and float(table[0, 2]) < 1 - 1e-3


# --- ports that share ------------------------------------------------------------------------------------------------


def a_module(host: Host, spec: TechniqueSpec, seed: int) -> Module:
    return fresh_module(host, spec, seed).with_matrices(random_matrices(host, spec, seed=seed))


@pytest.mark.parametrize(
    ("method", "technique"),
    [
        (method, technique)
        for method in ("theseus", "regress", "cast", "bico")
        for technique in ("lora", "adapter", "compacter", "prefix")
        if technique in porter_named(method).techniques
    ],
)
def test_ports_that_share_are_those_that_do_not(method: str, technique: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, whatever was ported before; both hosts are read once for all of one technique's linear fits."""
    one, other = (pico_host("bert", seed=seed, dtype=torch.float64) for seed in (0, 1))
    spec, porter, calls = SPECS[technique], porter_named(method), []
    modules = [a_module(one, spec, seed) for seed in (0, 1)]
    collect = spaces._collect
    monkeypatch.setattr(spaces, "_collect", lambda *given: calls.append(1) or collect(*given))
    apart = [porter.port(m, other, rng(), PortInputs(origin=one, texts=sentences(40))) for m in modules]
    assert len(calls) == 2
    shared = PortCache()
    together = [porter.port(m, other, rng(), PortInputs(one, sentences(40), shared=shared)) for m in modules]
    assert len(calls) == 3
    for alone, found in zip(apart, together, strict=True):
        assert alone.ports == found.ports
        for slot, own in alone.matrices.items():
            assert all(torch.equal(own[name], found.matrices[slot][name]) for name in own)


def test_other_texts_are_read_anew() -> None:
    one, other = (pico_host("bert", seed=seed, dtype=torch.float64) for seed in (0, 1))
    module, shared = Module(SPECS["lora"], one.fingerprint, random_matrices(one, SPECS["lora"])), PortCache()
    few, many = (
        porter_named("theseus").port(module, other, rng(), PortInputs(one, sentences(n), shared=shared))
        for n in (20, 60)
    )
    first = next(iter(few.matrices))
    assert not torch.equal(few.matrices[first]["A"], many.matrices[first]["A"])


# --- maps ------------------------------------------------------------------------------------------------------------


def test_matching_uses_every_row_before_any_again() -> None:
    score = torch.tensor([[9.0, 8.0, 7.0], [1.0, 2.0, 3.0]])
    found = matched(score)
    assert set(found) == {0, 1} and len(found) == 3
    assert matched(torch.eye(3)[[2, 0, 1]]) == [1, 2, 0]
    order = assignment(torch.eye(3, 4)).order
    assert order.tolist() == [0, 1, 2, -1]


def test_ridge_explains_what_is_linear_and_nothing_of_noise() -> None:
    weight, signal, noise = gaussian(6, 4), Moments(), Moments()
    for batch in range(10):
        rows = gaussian(50, 6, seed=batch + 1)
        signal.add(rows, rows @ weight)
        noise.add(rows, gaussian(50, 4, seed=batch + 100))
    found = ridge(signal)
    torch.testing.assert_close(found.weight, weight, atol=1e-6, rtol=0)
    assert found.explained == pytest.approx(1, abs=1e-6)
    assert ridge(noise).explained < 0.05 and ridge(noise).penalty == 1.0
    torch.testing.assert_close(ridge(signal.swapped().swapped()).weight, found.weight)


def test_moments_of_what_is_linear_in_others() -> None:
    """[b 1] W's moments with [a 1], from those of a and b."""
    read, made, weight = Moments(), Moments(), gaussian(5, 3)
    for batch in range(4):
        a, b = gaussian(20, 6, seed=batch), gaussian(20, 4, seed=batch + 50)
        ones = torch.ones(20, 1, dtype=torch.float64)
        read.add(a, b)
        made.add(torch.cat([a, ones], 1), torch.cat([b, ones], 1) @ weight)
    found = read.with_ones().through(weight)
    for got, wanted in ((found.fit, made.fit), (found.held, made.held), (found.all, made.all)):
        assert got.count == wanted.count
        for name in ("a", "b", "aa", "ab", "bb"):
            torch.testing.assert_close(getattr(got, name), getattr(wanted, name))


def test_ridge_keeps_small_where_rows_hardly_vary() -> None:
    """Directions that the rows hardly show get no large weights: other rows may show them."""
    rng = torch.Generator().manual_seed(0)
    shown = torch.randn(4000, 6, generator=rng, dtype=torch.float64)
    hidden = 1e-4 * torch.randn(4000, 6, generator=rng, dtype=torch.float64)
    b = shown[:, :3] + torch.randn(4000, 3, generator=rng, dtype=torch.float64) + 1000 * hidden[:, :3]
    moments = Moments()
    for begin in range(0, 4000, 100):
        moments.add(torch.cat([shown, hidden], dim=1)[begin : begin + 100], b[begin : begin + 100])
    assert ridge(moments).weight.abs().max() < 2


def test_ridge_falls_back_on_its_prior_where_rows_say_nothing() -> None:
    weight, moments = gaussian(6, 6), Moments()
    for batch in range(4):
        rows = gaussian(50, 6, seed=batch + 1)
        rows[:, 3:] = 0
        moments.add(rows, rows @ weight)
    torch.testing.assert_close(ridge(moments, (weight, weight)).weight, weight)
    assert not ridge(moments).weight[3:].any()


def test_orthogonal_maps_are_orthogonal_and_undo_rotations() -> None:
    turn, moments = torch.linalg.qr(gaussian(5, 5)).Q, Moments()
    for seed in (1, 2):
        rows = gaussian(40, 5, seed=seed)
        moments.add(rows, rows @ turn)
    found = rotation(moments, unmoved).dense
    torch.testing.assert_close(found.there, turn)
    assert found.note == "alignment 1.00"
    torch.testing.assert_close(found.read(found.there.mT), torch.eye(5).double())


# --- low rank --------------------------------------------------------------------------------------------------------


def test_compressed_factors_are_the_nearest_of_their_rank() -> None:
    b, a = gaussian(9, 6), gaussian(6, 8, seed=1)
    found = compress(b, a, 3)
    u, s, vt = torch.linalg.svd(b @ a)
    torch.testing.assert_close(found.b @ found.a, (u[:, :3] * s[:3]) @ vt[:3])
    assert found.lost == pytest.approx(float(s[3:].norm() / s.norm()))
    torch.testing.assert_close((whole := compress(b, a, 7)).b @ whole.a, b @ a)
    assert compress(b, a, 6).lost == 0


def test_random_ranges_keep_their_bound() -> None:
    """A matrix wide enough for the randomised method, with a spectrum that decays."""
    u, v = torch.linalg.qr(gaussian(1100, 60)).Q, torch.linalg.qr(gaussian(1300, 60, seed=1)).Q
    s = 0.8 ** torch.arange(60).double()
    matrix = (u * s) @ v.mT
    found = leading(matrix, 20, rng())
    torch.testing.assert_close(found.s, s[:20], rtol=1e-3, atol=0)
    error = float(torch.linalg.matrix_norm(matrix - (found.u * found.s) @ found.v.mT, 2))
    assert float(s[20]) * 0.99 <= error <= found.bound <= 3 * float(s[20])
    torch.testing.assert_close(found.u.mT @ found.u, torch.eye(20).double(), atol=1e-5, rtol=0)


def test_overlap_is_one_with_itself_and_zero_by_chance() -> None:
    draws = [torch.linalg.qr(gaussian(40, 10, seed=seed)).Q for seed in range(30)]
    assert above_chance(draws[0], draws[0]) == pytest.approx(1)
    assert abs(float(np.mean([above_chance(draws[0], other) for other in draws[1:]]))) < 0.05


# --- Compacter -------------------------------------------------------------------------------------------------------


def compacter_parts(seed: int = 0) -> tuple[dict[str, dict[str, Tensor]], Tensor]:
    host, spec = pico_host("bert"), SPECS["compacter"]
    matrices = random_matrices(host, spec, seed)
    rule = matrices.pop("shared")["rule"].double()
    one = {n: {k: t.double().unsqueeze(0) for k, t in own.items()} for n, own in matrices.items()}
    return {n: {k: t[0] for k, t in expand(own, rule.unsqueeze(0)).items()} for n, own in one.items()}, rule


def shapes(rank: int = 1) -> dict[str, dict[str, tuple[int, ...]]]:
    host = pico_host("bert")
    spec = SPECS["compacter"].model_copy(update={"phm_rank": rank})
    return {name: dict(Compacter().shapes(spec, host.slots[name])) for name in compacter_parts()[0]}  # type: ignore[arg-type]


def test_a_compacter_is_found_again_from_the_adapters_it_stands_for() -> None:
    adapters, rule = compacter_parts()
    near = nearest_compacter(adapters, shapes(), rule, 1)
    assert max(near.errors.values()) < 1e-8


def test_the_nearest_compacter_nears_as_its_rank_grows() -> None:
    """Adapters without any structure; the error never grows, and is under one."""
    adapters, rule = compacter_parts()
    loose = {
        n: {k: gaussian(*t.shape, seed=i + len(k)) for k, t in own.items()}
        for i, (n, own) in enumerate(adapters.items())
    }
    errors = [math.hypot(*nearest_compacter(loose, shapes(rank), rule, rank).errors.values()) for rank in (1, 2)]
    assert errors[1] < errors[0] < math.sqrt(len(loose))


# --- gradfix ---------------------------------------------------------------------------------------------------------


@dataclass
class Examples:
    """Losses that are the mean logit of the second label's word, an example a row."""

    host: Host
    rows: tuple[tuple[int, ...], ...] = ROWS

    def losses(self) -> Iterator[Tensor]:
        for row in self.rows:
            yield self.host.model(**inputs_of(self.host, (row,))).logits[..., 3].mean()


@pytest.mark.parametrize("technique", ["lora", "adapter", "compacter"])
def test_gradfix_keeps_only_what_descends(technique: str) -> None:
    """With one example the masked update is a direction in which the loss falls; copying need not be."""
    host = pico_host("bert", dtype=torch.float64)
    module = Module(SPECS[technique], host.fingerprint, random_matrices(host, SPECS[technique]))
    one = Examples(host, ROWS[:1])
    ported = porter_named("gradfix").port(module, host, rng(), PortInputs(labelled=one))
    outer = {"lora": ("B",), "adapter": ("up", "up_bias"), "compacter": ("up_right", "up_bias")}[technique]
    kept = total = 0
    for slot, own in module.matrices.items():
        for name, matrix in own.items():
            new = ported.matrices[slot][name]
            assert bool(((new == matrix) | (new == 0)).all()) and (name in outer or torch.equal(new, matrix))
            if name in outer:
                kept, total = kept + int((new != 0).sum()), total + new.numel()
    assert 0.2 < kept / total < 0.8
    before = next(one.losses())
    small = {s: {n: t * 1e-4 if n in outer else t for n, t in own.items()} for s, own in ported.matrices.items()}
    stacked = {s: {n: t.double().unsqueeze(0) for n, t in own.items()} for s, own in small.items()}
    with torch.no_grad(), attached(host, module.spec, stacked):
        assert float(next(one.losses())) < float(before)


def test_gradfix_refuses_prefixes_and_empty_hands() -> None:
    host = pico_host("bert")
    prefix = Module(SPECS["prefix"], host.fingerprint, random_matrices(host, SPECS["prefix"]))
    refusal = "gradfix: expected a module of lora, .*, got prefix: its matrices change the host .*theseus"
    with pytest.raises(BadRequest, match=refusal):
        porter_named("gradfix").port(prefix, host, rng(), PortInputs(labelled=Examples(host)))
    lora = Module(SPECS["lora"], host.fingerprint, random_matrices(host, SPECS["lora"]))
    with pytest.raises(BadRequest, match="gradfix: needs a few labelled texts, none given"):
        porter_named("gradfix").port(lora, host, rng())
    with pytest.raises(BadRequest, match="expected at least one labelled text"):
        porter_named("gradfix").port(lora, host, rng(), PortInputs(labelled=Examples(host, ())))


# --- texts and weights -----------------------------------------------------------------------------------------------


def test_words_are_shared_across_prefixes_and_cuts() -> None:
    """A host with a text prefix reads the same words; each word's tokens are its own."""
    host = pico_host("bert")
    prefixed = Host(**{**host.__dict__, "text_prefix": "review is "})
    texts = ["good film .", "the  plot was dull"]
    one, other = read(host, texts), read(prefixed, texts)
    words = shared_words(one, other)
    assert words == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)]
    for reading in (one, other):
        ids = reading.inputs["input_ids"]
        said = [host.tokenizer.decode(ids[text][reading.tokens[text, word]]) for text, word in words]
        assert said == ["good", "film", ".", "the", "plot", "was", "dull"]
    ids = one.inputs["input_ids"].unsqueeze(-1)
    torch.testing.assert_close(
        one.pooling(words)(ids)[:3, 0], ids[0][[one.tokens[0, i][0] for i in range(3)], 0].double()
    )


def saved(model_type: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    host = pico_host(model_type)
    host.model.to(dtype).save_pretrained(folder, max_shard_size="20KB")
    host.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", "t5", "bart", "opt", "phi", "distilbert"])
def test_an_opened_host_has_the_slots_and_weights_of_the_loaded_one(model_type: str, tmp_path: Path) -> None:
    """Read from shards, one tensor at a time, with nothing in memory."""
    folder = saved(model_type, tmp_path / "host")
    opened, loaded = open_host(str(folder)), load_host(str(folder))
    assert opened.slots == loaded.slots and opened.fingerprint == loaded.fingerprint
    assert opened.device.type == "meta" and opened.width == loaded.width
    files, memory = HostWeights(opened), HostWeights(loaded)
    for slot in opened.slots.values():
        if slot.kind == "linear":
            assert torch.equal(files.matrix(slot), memory.matrix(slot)), slot.name
    assert torch.equal(files.embeddings(), memory.embeddings())


@pytest.mark.parametrize("technique", SPECS)
@pytest.mark.parametrize("model_type", ["bert", "llama", "t5"])
def test_lorasuite_reads_texts_only_where_depths_differ(model_type: str, technique: str) -> None:
    """Whatever linear maps the hosts have outside their layers, such as a pooler."""
    one, same = (pico_host(model_type, seed, view="body") for seed in (0, 1))
    deep = pico_host(model_type, view="body", **{"num_layers" if model_type == "t5" else "num_hidden_layers": 3})
    assert (model_type == "bert") == any(name.startswith(OUTSIDE) for name in one.slots)
    module, porter = Module(SPECS[technique], one.fingerprint, random_matrices(one, SPECS[technique])), LoraSuite()
    assert [porter.needs_for(module, other) for other in (one, same, deep)] == ["weights", "weights", "texts"]


@pytest.mark.parametrize("method", ["resize", "subspace", "crosslora", "transfusion", "lorasuite"])
def test_methods_that_need_weights_never_load_a_host(method: str, tmp_path: Path) -> None:
    """And find what they find with loaded ones."""
    folder = saved("llama", tmp_path / "host", torch.bfloat16)
    opened, loaded = open_host(str(folder)), load_host(str(folder))
    receiver = named(pico_host("llama", 1), "receiver")
    module = Module(SPECS["lora"], opened.fingerprint, random_matrices(loaded, SPECS["lora"]))
    first, second = (
        porter_named(method).port(module, receiver, rng(), PortInputs(origin=origin)) for origin in (opened, loaded)
    )
    for slot, own in first.matrices.items():
        for name, tensor in own.items():
            torch.testing.assert_close(tensor, second.matrices[slot][name])


def test_a_host_that_is_only_opened_cannot_be_read_with(tmp_path: Path) -> None:
    opened = open_host(str(saved("bert", tmp_path / "host")))
    module = Module(SPECS["lora"], opened.fingerprint, random_matrices(pico_host("bert"), SPECS["lora"]))
    with pytest.raises(BadRequest, match="host: expected a loaded host"):
        porter_named("theseus").port(module, opened, rng(), PortInputs(origin=opened, texts=["good film"]))


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path) -> None:
    opened = open_host(str(saved("bert", tmp_path / "host")))
    with pytest.raises(HostRefused, match="expected one tensor named ...nothing.weight"):
        HostWeights(opened).tensor("nothing.weight")
