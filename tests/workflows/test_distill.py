"""Distilling: what a module says is learned without any label, by another host and even another technique."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from peftport.core.errors import BadRequest
from peftport.core.progress import Silent
from peftport.hosts.host import Host
from peftport.modules.module import HEAD, Module
from peftport.objectives.label_tokens import LabelTokens
from peftport.objectives.linear import Linear
from peftport.objectives.prototype import Prototype
from peftport.porting import porter_named
from peftport.tasks.task import Dropped, Split, Task
from peftport.training.bound_task import BoundTask
from peftport.training.evaluation import predict_entries
from peftport.training.loop import TrainSettings
from peftport.workflows.distill import DistillOptions, distill, taught_targets
from peftport.workflows.port_inputs import TaskLosses, open_port_inputs, read_texts
from pico import SPECS, TOY, pico_host, random_matrices
from porting.rebase import named, sentences

TEXTS = tuple(sentences(64))


def split(texts: tuple[str, ...]) -> Split:
    labels = np.array(["good" in text for text in texts], dtype=np.int64)
    return Split(tuple(map(str, range(len(texts)))), texts, labels)


def bound_task(host: Host, readout: type = Prototype) -> BoundTask:
    task = Task(TOY, split(TEXTS), split(TEXTS[:8]), split(TEXTS[:16]), Dropped())
    settings = TrainSettings(batch_size=8, max_tokens=16)
    return BoundTask(host, task, readout(host, TOY, 16), settings)


def a_module(host: Host, technique: str = "lora") -> Module:
    return Module(SPECS[technique], host.fingerprint, random_matrices(host, SPECS[technique]))


@pytest.mark.parametrize("technique", SPECS)
def test_the_new_module_says_what_the_old_one_says(technique: str) -> None:
    """Nearer than the bare receiver, on texts it was trained on; from a LoRA to any technique; no label is read."""
    home, away = bound_task(named(pico_host("bert"), "home")), bound_task(named(pico_host("distilbert", 1), "away"))
    lying = replace(away.task, train=Split(away.task.train.ids, TEXTS, np.zeros(len(TEXTS), dtype=np.int64)))
    away = replace(away, task=lying)
    module = a_module(home.host)
    before = taught_targets(module, home, TEXTS, Silent())
    how = DistillOptions(steps=60, learning_rate=0.01, spec=SPECS[technique])
    made = distill(module, home, away, TEXTS, how)
    after = taught_targets(made, away, TEXTS, Silent())
    with torch.no_grad():
        bare = away.readout.scores(away.readout.encode(TEXTS), None, 0).softmax(1).numpy()
    assert np.abs(after - before).mean() < 0.6 * np.abs(bare - before).mean()
    [record] = made.ports
    assert (record.method, record.origin, record.receiver) == ("distill", module.host, away.host.fingerprint)
    assert record.settings == {"steps": 60, "texts": len(TEXTS), "seed": 0}
    assert made.spec == SPECS[technique] and made.host == away.host.fingerprint


WORDINGS = {  # of one token, and of several that hang together
    "words": TOY,
    "phrases": TOY.model_copy(
        update={"words": ("a terrible film", "great"), "masked_words": ("terrible film", "great film")}
    ),
}


@pytest.mark.parametrize("wording", WORDINGS)
@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", "t5", "bart"])
def test_label_words_learn_probabilities(model_type: str, wording: str) -> None:
    """The loss is the cross-entropy among the labels by their losses as right ones, and a student comes to say them."""
    host, task = pico_host(model_type, 1, dtype=torch.float64), WORDINGS[wording]
    readout = LabelTokens(host, task, 24)
    rows = readout.encode(TEXTS[:6])
    taught = torch.from_numpy(np.random.default_rng(0).dirichlet((1.0, 1.0), size=6))
    with torch.no_grad():
        as_right = torch.stack([readout.loss(rows, torch.full((6,), label), None, 0) for label in (0, 1)], 1)
        expected = -(taught * torch.log_softmax(-as_right, 1)).sum(1)
        torch.testing.assert_close(readout.loss(rows, taught, None, 0), expected)

    home, away = bound_task(named(pico_host("bert"), "home")), bound_task(named(pico_host(model_type, 1), "away"))
    away = replace(away, readout=LabelTokens(away.host, task, 24))
    module = a_module(home.host)
    made = distill(module, home, away, TEXTS, DistillOptions(steps=120, learning_rate=0.03, spec=SPECS["lora"]))
    wanted, found = (taught_targets(one, on, TEXTS, Silent()) for one, on in ((module, home), (made, away)))
    bare = away.readout.taught(predict_entries(away.host, away.readout, None, [], away.readout.encode(TEXTS))[0])
    assert np.abs(found - wanted).mean() < 0.9 * np.abs(bare - wanted).mean()


def test_distilling_is_refused_without_texts_or_with_other_labels() -> None:
    home, away = bound_task(pico_host("bert")), bound_task(pico_host("bert", 1))
    with pytest.raises(BadRequest, match="distill: needs unlabelled texts, none given"):
        distill(a_module(home.host), home, away, ())
    other = TOY.model_copy(update={"labels": ("no", "yes")})
    strange = replace(away, task=replace(away.task, spec=other))
    with pytest.raises(BadRequest, match="distill: expected one set of labels"):
        distill(a_module(home.host), home, strange, TEXTS)


def test_a_technique_that_the_receiver_cannot_hold_is_refused_before_the_module_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home, away = bound_task(pico_host("bert")), bound_task(pico_host("deberta-v2"))
    asked: list[object] = []
    monkeypatch.setattr("peftport.workflows.distill.taught_targets", lambda *given: asked.append(given))
    with pytest.raises(BadRequest, match="prefix"):
        distill(a_module(home.host), home, away, TEXTS, DistillOptions(spec=SPECS["prefix"]))
    assert not asked


@pytest.mark.parametrize("readout", [Prototype, Linear])
def test_labelled_items_are_losses_of_what_is_attached(readout: type) -> None:
    """One a training item, with a graph; gradfix votes by them."""
    host = pico_host("bert")
    module = a_module(host)
    if readout is Linear:
        head = {"weight": torch.randn(2, 16, generator=torch.Generator().manual_seed(1)), "bias": torch.zeros(2)}
        module = module.with_matrices({**module.matrices, HEAD: head})
    items = TaskLosses(bound_task(host, readout), module, items=5)
    inputs = open_port_inputs(porter_named("gradfix"), module, host, bound_task=items.bound_task)
    ported = porter_named("gradfix").port(module, host, np.random.default_rng(0), inputs)
    notes = {name: note for name, note in ported.ports[-1].slots.items() if name != HEAD}
    assert all("32 examples" in note for note in notes.values())
    assert len(list(items.losses())) == 5


def test_texts_come_from_lines_or_from_a_task(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "texts.txt"
    file.write_text("one text\n\n two \n", encoding="utf-8")
    assert read_texts(str(file)) == ("one text", " two ")
    assert read_texts(str(file), most=1) == ("one text",)
    with pytest.raises(BadRequest, match=r"--texts .*gone.txt: expected a UTF-8 file"):
        read_texts(str(tmp_path / "gone.txt"))
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(BadRequest, match="expected a UTF-8 file"):
        read_texts(str(file))


def test_an_origin_that_is_not_here_is_asked_for() -> None:
    host = pico_host("bert")
    with pytest.raises(BadRequest, match="the module records 'pico-bert', which is not found here; .* --from HOST"):
        open_port_inputs(porter_named("subspace"), a_module(host), host)
