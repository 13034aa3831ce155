"""bico: gradients are those of the loss, and their map is theirs even where activations have another; both variants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from peftport.core.errors import BadRequest, NotFinite
from peftport.hosts.host import Host
from peftport.modules.module import Module, TaskRecord
from peftport.objectives.label_tokens import LabelTokens
from peftport.objectives.linear import Linear
from peftport.objectives.prototype import Prototype
from peftport.porting import porter_named
from peftport.porting.alignment.gradients import label_gradients, last_states, probed, spread
from peftport.porting.alignment.inputs import AlignInputs
from peftport.porting.alignment.maps import Moments, SecondMoments
from peftport.porting.alignment.spaces import Spaces
from peftport.porting.alignment.words import read
from peftport.porting.base import PortInputs
from peftport.porting.methods.bico import Bilinear
from peftport.porting.methods.theseus import Rotations
from peftport.porting.pairs import pair_slots
from peftport.techniques.attach import changed_at
from peftport.workflows.port_inputs import TaskLosses, open_port_inputs
from pico import SPECS, TOY, pico_host, random_matrices
from porting.rebase import named, sentences
from porting.test_rebased import BASES, EVERYWHERE, answers, apart, away, home
from workflows.test_distill import bound_task

TEXTS = sentences(120)


def gaussian(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def a_module(host: Host, technique: str = "lora") -> Module:
    return Module(SPECS[technique], host.fingerprint, random_matrices(host, SPECS[technique]))


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("model_type", ["bert", "gpt2", "bart", "phi", "albert"])
def test_probes_give_the_gradients_of_outputs(model_type: str, passes: int) -> None:
    """Against differences of the loss, at maps, parts of fused maps and sums; probes change nothing.

    A slot that layers share (ALBERT), or a loss that runs the host twice, has a gradient for every run.
    """
    host = pico_host(model_type, dtype=torch.float64)
    reading = read(host, sentences(3))
    wanted = gaussian(passes, *last_states(host, reading).shape, seed=1)
    names = [name for name, slot in host.slots.items() if slot.kind != "attention" and slot.in_order]

    def loss() -> Tensor:
        return torch.stack([(last_states(host, reading) * each).sum() for each in wanted]).sum()

    bare = loss().detach()
    with probed(host, names) as probes:
        found = loss()
        torch.testing.assert_close(found.detach(), bare)
        runs = {name: torch.autograd.grad(found, zeros, retain_graph=True) for name, zeros in probes.items()}
    shared = int(host.config.num_hidden_layers) if model_type == "albert" else 1
    assert {name: len(each) for name, each in runs.items()} == dict.fromkeys(names, passes * shared)
    gradients = {name: torch.stack(each).sum(0) for name, each in runs.items()}
    torch.testing.assert_close(loss().detach(), bare)  # nothing is left attached
    for name in names:
        step = 1e-5 * gaussian(*gradients[name].shape, seed=2)
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                slot = host.slots[name]
                handle = changed_at(host.slot_module(slot), slot, lambda x, y, by=sign * step: y + by)
                ends.append(float(loss()))
                handle.remove()
        assert (ends[0] - ends[1]) / 2 == pytest.approx(float((gradients[name] * step).sum()), rel=1e-3, abs=1e-9)


def test_gradients_of_means_are_spread_over_their_tokens() -> None:
    host = pico_host("bert", dtype=torch.float64)
    reading = read(host, sentences(4))
    words = sorted(reading.tokens)
    pooling = reading.pooling(words)
    states = gaussian(*pooling.shape, 3, seed=0).requires_grad_()
    rows = gaussian(len(words), 3, seed=1)
    means = torch.stack([states[text, reading.tokens[text, word]].mean(0) for text, word in words])
    [wanted] = torch.autograd.grad((means * rows).sum(), states)
    torch.testing.assert_close(spread(pooling, rows, states.detach()), wanted)


def planted(turn: Tensor, other: Tensor, shown: int) -> Bilinear:
    """Gradients of the first ``shown`` dimensions turned one way, outputs another."""
    host = pico_host("bert", dtype=torch.float64)
    module = a_module(host)
    pairs = {n: p for n, p in pair_slots(module, host.slots, host.kind).items() if p is not None}
    gradients, outputs = Moments(left=False, right=False), Moments(left=False, right=False)
    for batch in range(6):
        rows, seen = gaussian(50, len(turn), seed=batch), gaussian(50, len(turn), seed=batch + 50)
        rows = rows * (torch.arange(len(turn)) < shown)
        gradients.add(rows, rows @ turn)
        outputs.add(seen, seen @ other)
    spaces = Spaces(out=dict.fromkeys(pairs, outputs))
    inputs = AlignInputs(module, host, pairs, np.random.default_rng(0), PortInputs(origin=host))
    return Bilinear(inputs, spaces, dict.fromkeys(pairs, gradients), "by labels")


def test_the_map_of_gradients_is_theirs_and_not_that_of_outputs() -> None:
    """Planted; where no gradient points, the map of the outputs is taken."""
    turn, other = (torch.linalg.qr(gaussian(16, 16, seed=seed)).Q for seed in (0, 1))
    found = planted(turn, other, 16)
    pair = next(iter(found.gradients))
    of = pair_slots(a_module(found.origin), found.receiver.slots, "encoder")[pair]
    assert of is not None
    torch.testing.assert_close(found.of_gradients(of).there, turn)
    assert found.of_gradients(of).note == "alignment 1.00 by labels"
    torch.testing.assert_close(planted(turn, other, 0).of_gradients(of).there, other)
    half = planted(turn, other, 8).of_gradients(of).there
    torch.testing.assert_close(half @ half.mT, torch.eye(16).double())
    torch.testing.assert_close(half[:8], turn[:8])


@dataclass
class ReadOut:
    """Labels read off the mean of the last hidden states by a fixed matrix, which follows the basis of a host.

    ``parts``: the host reads the text so many times, as it does where pairs are read apart.
    """

    host: Host
    weight: Tensor
    texts: Sequence[str] = tuple(TEXTS)
    parts: int = 1

    def losses(self) -> Iterator[Tensor]:
        for index, text in enumerate(self.texts):
            parts = [last_states(self.host, read(self.host, [text]))[0].mean(0) for _ in range(self.parts)]
            yield torch.nn.functional.cross_entropy(sum(parts) @ self.weight, torch.tensor(index % 3))


@pytest.mark.parametrize("model_type", BASES)
@pytest.mark.parametrize("technique", ["lora", "adapter"])
def test_a_change_of_basis_is_undone_by_labels(technique: str, model_type: str) -> None:
    one, other = home(model_type), away(model_type)
    spec = EVERYWHERE[technique]
    module = Module(spec, one.fingerprint, random_matrices(one, spec))
    weight = gaussian(one.width, 3, seed=0)
    given = PortInputs(
        one, TEXTS, labelled=ReadOut(other.host, other.basis.T @ weight), labelled_at_home=ReadOut(one, weight),
        same_tokens=True,
    )  # fmt: skip
    ported = porter_named("bico").port(module, other.host, np.random.default_rng(0), given)
    at_home = answers(one, module)
    assert apart(answers(other.host, ported, other.basis), at_home) < 1e-4 < apart(at_home, answers(one, None))
    assert all("by labels" in note for note in ported.ports[-1].slots.values())


def gradients_of(here: Sequence[str], there: Sequence[str], same_tokens: bool, parts: int = 1) -> list[SecondMoments]:
    """The moments at every slot of two hosts, of which one reads these texts and the other one those."""
    one, other = pico_host("bert", dtype=torch.float64), pico_host("bert", 1, dtype=torch.float64)
    module, weight = a_module(one), gaussian(16, 3, seed=0)
    pairs = {name: pair for name, pair in pair_slots(module, other.slots, other.kind).items() if pair is not None}
    given = PortInputs(
        one, TEXTS, labelled=ReadOut(other, weight, there, parts), labelled_at_home=ReadOut(one, weight, here, parts),
        same_tokens=same_tokens,
    )  # fmt: skip
    found = label_gradients(AlignInputs(module, other, pairs, np.random.default_rng(0), given))
    return [moments.all for moments in found.values()]


def test_rows_of_gradients_are_tokens_or_texts_but_never_both() -> None:
    """Some texts that are longer on one host turn the rows of all into sums over the text, whatever was read before."""
    texts, host = TEXTS[:9], pico_host("bert")
    longer = [text + " good" * (place in (4, 7)) for place, text in enumerate(texts)]
    tokens = sum(read(host, [text]).length for text in texts)
    assert {sums.count for sums in gradients_of(texts, texts, same_tokens=True)} == {tokens}
    assert {sums.count for sums in gradients_of(texts, texts, same_tokens=False)} == {len(texts)}
    mixed, apart_ = (gradients_of(texts, longer, same_tokens=flag) for flag in (True, False))
    assert {sums.count for sums in mixed} == {len(texts)}
    for one, other in zip(mixed, apart_, strict=True):
        assert torch.equal(one.ab, other.ab)
    with pytest.raises(ValueError, match="shorter"):
        gradients_of(texts, texts[:-1], same_tokens=True)


def test_every_pass_of_a_loss_counts() -> None:
    """The two passes of a text are two texts as far as gradients go, each with that of the loss."""
    texts = TEXTS[:6]
    once, twice = (gradients_of(texts, texts, same_tokens=True, parts=parts) for parts in (1, 2))
    assert [sums.count for sums in twice] == [2 * sums.count for sums in once]
    assert all(bool((sums.ab != 0).any()) for sums in twice)


@pytest.mark.parametrize(("model_type", "same"), [("distilbert", True), ("llama", False)])
def test_tokens_are_paired_only_where_both_hosts_read_the_same(model_type: str, same: bool) -> None:
    """A decoder of the same vocabulary reads a prompt around the text, which may be as long by chance."""
    one = named(pico_host("bert"), "home")
    other = bound_task(named(pico_host(model_type, 1), "away"), Prototype if same else LabelTokens)
    given = open_port_inputs(porter_named("bico"), a_module(one), other.host, origin=one, bound_task=other)
    assert given.labelled is not None and given.same_tokens == same


def test_no_map_of_outputs_is_fitted_where_the_loss_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = pico_host("bert", dtype=torch.float64), pico_host("bert", 1, dtype=torch.float64)
    module, weight, porter = a_module(one), gaussian(16, 3, seed=0), porter_named("bico")
    given = PortInputs(one, TEXTS, labelled=ReadOut(other, weight), labelled_at_home=ReadOut(one, weight))
    before = porter.port(module, other, np.random.default_rng(0), given)
    monkeypatch.setattr(Rotations, "out", lambda *_: pytest.fail("a map was fitted that nobody uses"))
    after = porter.port(module, other, np.random.default_rng(0), given)
    for slot, own in before.matrices.items():
        assert all(torch.equal(matrix, after.matrices[slot][name]) for name, matrix in own.items())
    assert before.ports[-1].slots == after.ports[-1].slots


def test_widths_and_tokenizers_may_differ_by_labels_and_without() -> None:
    one, other = pico_host("bert", dtype=torch.float64), pico_host("gpt2", dtype=torch.float64, n_embd=24, n_head=2)
    module = a_module(one, "adapter")
    losses = (ReadOut(one, gaussian(16, 3, seed=0)), ReadOut(other, gaussian(24, 3, seed=0)))
    labelled = PortInputs(one, TEXTS, labelled=losses[1], labelled_at_home=losses[0])
    for given, word in ((labelled, "by labels"), (PortInputs(one, TEXTS), "by the module's own answers")):
        ported = porter_named("bico").port(module, other, np.random.default_rng(0), given)
        assert ported.host == other.fingerprint
        assert all(word in note for note in ported.ports[-1].slots.values() if note.startswith("carried"))


def test_a_task_gives_labels_and_texts_take_them_back(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """With --task alone the labels are used, on both hosts; with --texts, or a readout with a head, own answers are."""
    one, other = named(pico_host("bert"), "home"), bound_task(named(pico_host("distilbert", 1), "away"))
    module, porter = a_module(one), porter_named("bico")
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(sentences(20)), encoding="utf-8")
    by_labels = open_port_inputs(porter, module, other.host, origin=one, bound_task=other)
    assert by_labels.labelled is not None and by_labels.labelled_at_home is not None
    both = [[float(loss) for loss in each.losses()] for each in (by_labels.labelled_at_home, by_labels.labelled)]
    assert len(both[0]) == len(both[1]) == 64 and both[0] != both[1]
    by_texts = open_port_inputs(porter, module, other.host, origin=one, bound_task=other, texts=str(file))
    headed = open_port_inputs(porter, module, other.host, origin=one, bound_task=bound_task(other.host, Linear))
    theseus = open_port_inputs(porter_named("theseus"), module, other.host, origin=one, bound_task=other)
    assert by_texts.labelled_at_home is headed.labelled_at_home is theseus.labelled_at_home is None
    for given, word in ((by_labels, "by labels"), (by_texts, "own answers"), (headed, "own answers")):
        ported = porter.port(module, other.host, np.random.default_rng(0), given)
        assert all(word in note for note in ported.ports[-1].slots.values())


@pytest.mark.parametrize("recorded", [None, "prototype", "label_tokens"])
@pytest.mark.parametrize("asked", [None, "prototype", "label_tokens"])
def test_both_hosts_are_read_as_the_user_says(asked: str | None, recorded: str | None) -> None:
    """Else as the module was trained, and a module of another library, which does not say, as is usual for the host."""
    one, away_ = named(pico_host("bert"), "home"), named(pico_host("bert", 1), "away")
    task = None if recorded is None else TaskRecord(name="toy", labels=TOY.labels, digest="", readout=recorded)
    module = a_module(one)
    module = module.with_matrices(module.matrices, task=task)
    expected = asked or recorded or "prototype"
    other = bound_task(away_, {"prototype": Prototype, "label_tokens": LabelTokens}[expected])
    given = open_port_inputs(porter_named("bico"), module, away_, origin=one, bound_task=other, readout=asked)
    assert isinstance(given.labelled_at_home, TaskLosses)
    assert given.labelled_at_home.bound_task.readout.name == expected and given.same_tokens


def test_what_is_no_product_of_gradients_and_activations_is_refused() -> None:
    host = pico_host("bert")
    with pytest.raises(BadRequest, match=r"bico: .*got prefix: its matrices are no sums of products.*theseus"):
        porter_named("bico").port(a_module(host, "prefix"), host, np.random.default_rng(0), PortInputs(host, TEXTS))
    with pytest.raises(BadRequest, match="bico: needs unlabelled texts, none given; name some with --texts"):
        porter_named("bico").port(a_module(host), host, np.random.default_rng(0), PortInputs(host))


@pytest.mark.parametrize("method", ["bico", "gradfix"])
def test_a_loss_that_does_not_reach_a_decoder_says_nothing_of_it(method: str) -> None:
    one, other = named(pico_host("t5"), "home"), bound_task(named(pico_host("t5", 1), "away"))
    module, porter = a_module(one), porter_named(method)
    given = open_port_inputs(porter, module, other.host, origin=one, bound_task=other)
    notes = porter.port(module, other.host, np.random.default_rng(0), given).ports[-1].slots
    assert all(("not reach" in note) == slot.startswith("decoder") for slot, note in notes.items())


@pytest.mark.parametrize("method", ["bico", "gradfix"])
@pytest.mark.parametrize("wrong", [0, 1])
def test_a_gradient_that_is_no_number_is_refused(method: str, wrong: int) -> None:
    """Of whichever text, held out or not."""
    one = pico_host("bert", dtype=torch.float64)
    good = ReadOut(one, gaussian(16, 3, seed=0))

    class Broken:
        def losses(self) -> Iterator[Tensor]:
            for index, loss in enumerate(good.losses()):
                yield loss * (float("nan") if index == wrong else 1.0)

    given = PortInputs(one, TEXTS, labelled=Broken(), labelled_at_home=good)
    with pytest.raises(NotFinite, match="expected finite gradients"):
        porter_named(method).port(a_module(one), one, np.random.default_rng(0), given)
