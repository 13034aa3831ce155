"""What a distilled module learns from: whole distributions where hosts have the same tokens, and the telling texts.

The distributions and the choice are held to computations of their own: softmax of all logits of a plain forward pass.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from peftport.core.errors import BadRequest, TaskRefused
from peftport.core.progress import Silent
from peftport.hosts.host import Host
from peftport.modules.module import Module, stack
from peftport.objectives import bind_objective, token_likelihood
from peftport.objectives.answer_tokens import AnswerRow, AnswerTokens, TaughtRow
from peftport.objectives.generation import generated
from peftport.objectives.linear_regression import LinearRegression
from peftport.objectives.next_tokens import NextTokens
from peftport.objectives.prototype import Prototype
from peftport.tasks.columns import Columns, Wording
from peftport.tasks.kinds.completion import Completion
from peftport.tasks.kinds.regression import RegressionTask
from peftport.tasks.task import Dropped, Split, Task
from peftport.techniques.attach import attached, prefix_length
from peftport.techniques.base import TechniqueSpec
from peftport.training.bound_task import BoundTask
from peftport.training.evaluation import predict_entries
from peftport.training.loop import Entry, TrainSettings, entry_loss, train_entries
from peftport.workflows.distill import DistillOptions, distill, taught_targets
from peftport.workflows.lesson import AskedModule, gains, largest_share, lesson_of, unlike_tokens
from pico import SPECS, TOY, WORDS, pico_host, random_matrices, word_tokenizer

RNG = np.random.default_rng(1)
PROMPTS = [" ".join(RNG.choice(WORDS[:8], 3)) for _ in range(24)]
ANSWERS = np.array([" ".join(RNG.choice(WORDS[:12], 1 + place % 4)) for place in range(24)], dtype=object)
LORA = SPECS["lora"]


def answers_of(*answers: str) -> np.ndarray[Any, Any]:
    targets = np.empty(len(answers), dtype=object)
    targets[:] = [(answer,) for answer in answers]
    return targets


def bound_answers(host: Host) -> BoundTask:
    spec = Completion.read("answers", Columns("answers", {"text": ["a"]}, ["b"]), Wording()).spec
    split = Split(tuple(map(str, range(len(PROMPTS)))), tuple(PROMPTS), answers_of(*["terrible"] * len(PROMPTS)))
    readout = bind_objective(None, host, spec, 6)
    return BoundTask(
        host, Task(spec, split, split, split, Dropped()), readout, TrainSettings(batch_size=8, max_tokens=6)
    )


def module_of(bound: BoundTask, spec: TechniqueSpec = LORA, seed: int = 3) -> Module:
    return Module(
        spec, bound.host.fingerprint, in_dtype(bound.host, random_matrices(bound.host, spec, seed)), bound.record
    )


def in_dtype(host: Host, matrices: Any) -> Any:
    return {slot: {name: t.to(host.dtype) for name, t in own.items()} for slot, own in matrices.items()}


def asked_of(origin: str = "llama", receiver: str = "llama", spec: TechniqueSpec = LORA, **changes: Any) -> AskedModule:
    home = bound_answers(pico_host(origin, dtype=torch.float64, **changes))
    away = bound_answers(pico_host(receiver, 1, dtype=torch.float64, **changes))
    module = module_of(home, spec)
    said = taught_targets(module, home, PROMPTS, Silent())  # small hosts end few of their answers: the others are made
    return AskedModule(module, home, away, PROMPTS, np.where(said == "", ANSWERS, said))


def logits_of(host: Host, row: Any, shift: int = 0) -> torch.Tensor:
    """The logits at the places of an answer, (S, V), from one plain forward pass."""
    with torch.no_grad():
        if host.kind == "encoder_decoder":
            start = int(host.config.decoder_start_token_id)
            asked = torch.tensor([[start, *row.target[:-1]]])
            found: torch.Tensor = host.model(input_ids=torch.tensor([row]), decoder_input_ids=asked).logits[0]
            return found
        whole = torch.tensor([[*row, *row.target]])
        positions = {"position_ids": torch.arange(whole.shape[1])[None] + shift} if host.takes_positions else {}
        mask = torch.ones_like(whole)
        logits: torch.Tensor = host.model(input_ids=whole, attention_mask=mask, use_cache=False, **positions).logits[0]
        return logits[len(row) - 1 : -1]


def taught_rows(asked: AskedModule, kept: int = 32) -> list[TaughtRow]:
    """The answers with the module's own distributions, as its own host reads them."""
    readout, host = asked.home.readout, asked.home.host
    rows = readout.lesson(asked.texts, asked.taught).rows
    objective = NextTokens(host, asked.home.task.spec, 6, int(host.config.vocab_size), kept)
    [found] = predict_entries(host, objective, asked.module.spec, [asked.module.matrices], rows)
    return [TaughtRow.of(row, own) for row, own in zip(rows, found, strict=True)]  # type: ignore[arg-type]


@pytest.mark.parametrize("technique", ["lora", "prefix"])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma3_text", "t5", "bart"])
def test_what_is_taught_are_the_likeliest_tokens_of_a_plain_pass(model_type: str, technique: str) -> None:
    asked = asked_of(model_type, model_type, SPECS[technique])
    host, spec = asked.home.host, asked.module.spec
    for row in taught_rows(asked, kept=5)[:6]:
        with attached(host, spec, stack([asked.module.matrices], torch.float64)):
            shares = logits_of(host, row, prefix_length(spec, host)).softmax(-1)
        best = shares.topk(5)
        assert row.taught.tokens.tolist() == best.indices.tolist()
        found = np.exp(row.taught.log_probabilities)
        np.testing.assert_allclose(found[:, :5], best.values.numpy(), rtol=1e-6)
        np.testing.assert_allclose(found[:, 5], 1 - best.values.sum(-1).numpy(), rtol=1e-6)


@pytest.mark.parametrize("at_once", [1, 7, 10**6])
@pytest.mark.parametrize("model_type", ["llama", "t5"])
def test_the_loss_is_the_divergence_of_plain_distributions(
    model_type: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the k likeliest tokens and the rest; with all tokens kept it is the whole divergence, and never less."""
    asked = asked_of(model_type, model_type)
    host, readout = asked.away.host, asked.away.readout
    size = int(host.config.vocab_size)
    monkeypatch.setattr(token_likelihood, "LOGITS_AT_ONCE", at_once * size)
    some, whole = taught_rows(asked, 4)[:5], taught_rows(asked, size)[:5]
    with torch.no_grad():
        partly, wholly = (readout.loss(rows, torch.zeros(5), None, 0) for rows in (some, whole))
    for row, mine, all_of_it in zip(whole, partly, wholly, strict=True):
        with attached(asked.home.host, asked.module.spec, stack([asked.module.matrices], torch.float64)):
            p = logits_of(asked.home.host, row).softmax(-1)
        q = logits_of(host, row).softmax(-1)
        assert float(all_of_it) == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-6)
        ids = p.topk(4).indices
        p4, q4 = (torch.cat([s.gather(-1, ids), 1 - s.gather(-1, ids).sum(-1, keepdim=True)], -1) for s in (p, q))
        assert float(mine) == pytest.approx(float((p4 * (p4 / q4).log()).sum(-1).mean()), rel=1e-6)
        assert 0 < float(mine) <= float(all_of_it)


@pytest.mark.parametrize("kept", [3, 10**6])
@pytest.mark.parametrize("technique", ["lora", "adapter", "prefix"])
@pytest.mark.parametrize("model_type", ["llama", "t5"])
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(model_type: str, technique: str, kept: int) -> None:
    asked = asked_of(model_type, model_type, SPECS[technique])
    rows = taught_rows(asked, min(kept, int(asked.home.host.config.vocab_size)))
    host, spec = asked.home.host, asked.module.spec
    own = {s: {n: t[None].clone().requires_grad_() for n, t in m.items()} for s, m in asked.module.matrices.items()}
    with attached(host, spec, own):
        loss = asked.home.readout.loss(rows, torch.zeros(len(rows)), None, prefix_length(spec, host))
        gradients = torch.autograd.grad(loss.sum(), [t for m in own.values() for t in m.values()], allow_unused=True)
    assert float(loss.detach().abs().max()) < 1e-12
    assert max(float(g.abs().max()) for g in gradients if g is not None) < 1e-10
    sampled = [AnswerRow(row, row.target) for row in rows]  # the answers alone do teach
    with torch.no_grad(), attached(host, spec, own):
        assert (
            float(asked.home.readout.loss(sampled, torch.zeros(len(rows)), None, prefix_length(spec, host)).min()) > 0.1
        )


def distance(asked: AskedModule, student: Module) -> float:
    """The mean divergence of a student on the receiver from the module, at the places of the module's answers."""
    rows, host = taught_rows(asked, int(asked.home.host.config.vocab_size)), asked.away.host
    with torch.no_grad(), attached(host, student.spec, stack([in_dtype(host, student.matrices)], torch.float64)):
        return float(asked.away.readout.loss(rows, torch.zeros(len(rows)), None, 0).mean())


@pytest.mark.parametrize("steps", [5, 20, 60])
def test_on_the_origin_tokens_teach_at_least_as_fast_as_sequences(steps: int) -> None:
    asked = asked_of()
    asked = asked._replace(away=asked.home)
    found = {}
    for teach in ("sequences", "tokens"):
        how = DistillOptions(steps=steps, learning_rate=1e-2, seed=1, teach=teach)  # type: ignore[arg-type]
        made = distill(asked.module, asked.home, asked.away, PROMPTS, how)
        found[teach] = distance(asked, made)
        assert made.ports[-1].settings.get("teach") == (None if teach == "sequences" else "tokens")
    bare = distance(asked, replace(asked.module, matrices=asked.home.fresh(LORA, 1)))
    assert found["tokens"] < bare and found["tokens"] <= found["sequences"]


def test_taught_entries_do_not_feel_their_company() -> None:
    """Modules stacked on one host learn from distributions as each alone (float64)."""
    asked = asked_of()
    encoded = lesson_of(asked, "tokens", 1.0, Silent()).encoded
    assert all(isinstance(row, TaughtRow) for row in encoded.rows)
    away = asked.away
    entries = [Entry(away.fresh(LORA, seed), encoded.rows, encoded.targets, seed, 1e-2) for seed in range(3)]
    together = train_entries(away.host, away.readout, LORA, entries, [4], away.settings)
    for entry, kept in zip(entries, together, strict=True):
        [alone] = train_entries(away.host, away.readout, LORA, [entry], [4], away.settings)
        assert kept[4].loss == pytest.approx(alone[4].loss, rel=1e-10)
        for slot, matrices in alone[4].matrices.items():
            for name, tensor in matrices.items():
                torch.testing.assert_close(kept[4].matrices[slot][name], tensor, atol=1e-9, rtol=1e-9)
    assert float(entry_loss(away.host, away.readout, LORA, entries[0], np.arange(4)).detach()) > 0


def plain_gain(asked: AskedModule, row: AnswerRow) -> float:
    """The mean over an answer's tokens of log p(module) - log p(origin), from two plain passes."""
    host, spec = asked.home.host, asked.module.spec
    with attached(host, spec, stack([asked.module.matrices], torch.float64)):
        own = logits_of(host, row).log_softmax(-1)
    bare, target = logits_of(host, row).log_softmax(-1), torch.tensor(row.target)[:, None]
    return float((own.gather(-1, target) - bare.gather(-1, target)).mean())


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("model_type", ["llama", "t5"])
def test_the_answers_are_kept_that_the_module_changes_most(model_type: str, keep: float) -> None:
    asked = asked_of(model_type, model_type)
    every = asked.home.readout.lesson(asked.texts, asked.taught).rows
    values = [plain_gain(asked, row) for row in every if isinstance(row, AnswerRow)]
    count = -int(-keep * len(values) // 1)
    best = sorted(sorted(range(len(values)), key=lambda place: (-values[place], place))[:count])
    lesson = lesson_of(asked, "sequences", keep, Silent())
    assert [(*row, *row.target) for row in lesson.encoded.rows] == [  # type: ignore[attr-defined]
        (*every[place], *every[place].target)
        for place in best  # type: ignore[attr-defined]
    ]
    assert lesson.settings == {"keep": keep, "kept": count}
    both = lesson_of(asked, "auto", keep, Silent())
    assert both.settings == {"keep": keep, "kept": count, "teach": "tokens"}
    assert [tuple(row) for row in both.encoded.rows] == [tuple(row) for row in lesson.encoded.rows]


def bound_classes(host: Host) -> BoundTask:
    texts = tuple(dict.fromkeys(PROMPTS))
    split = Split(tuple(map(str, range(len(texts)))), texts, np.zeros(len(texts), dtype=np.int64))
    task = Task(TOY, split, split, split, Dropped())
    return BoundTask(host, task, Prototype(host, TOY, 16), TrainSettings(batch_size=4, max_tokens=16))


def test_texts_are_kept_by_the_class_that_the_module_predicts() -> None:
    home, away = bound_classes(pico_host("bert")), bound_classes(pico_host("bert", 1))
    module, texts = Module(LORA, home.host.fingerprint, random_matrices(home.host, LORA)), home.task.train.examples
    taught = taught_targets(module, home, texts, Silent())
    rows = home.readout.encode(texts)
    with torch.no_grad():
        bare = home.readout.scores(rows, None, 0).double().log_softmax(1).numpy()  # type: ignore[attr-defined]
        with attached(home.host, LORA, stack([module.matrices])):
            own = home.readout.scores(rows, None, 0).double().log_softmax(1).numpy()  # type: ignore[attr-defined]
    places, classes = np.arange(len(texts)), own.argmax(1)
    expected = own[places, classes] - bare[places, classes]
    found = gains(AskedModule(module, home, away, texts, taught), Silent())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    made = distill(module, home, away, texts, DistillOptions(steps=1, keep=0.25))
    kept = -(-len(texts) // 4)
    assert made.ports[-1].settings == {"steps": 1, "texts": len(texts), "seed": 0, "keep": 0.25, "kept": kept}


def test_equal_values_are_kept_in_their_order() -> None:
    assert largest_share(np.array([1.0, 2.0, 1.0, 2.0, 1.0]), 0.6) == [0, 1, 3]
    assert largest_share(np.zeros(30), 0.1) == [0, 1, 2]
    assert largest_share(np.array([3.0, 5.0]), 0.01) == [1]
    assert largest_share(np.array([3.0, 5.0]), 1e-300) == [1]  # a share of something is never nothing
    assert largest_share(np.zeros(0), 0.5) == []


def test_without_a_wish_the_lesson_is_the_answers() -> None:
    asked = asked_of()
    lesson, before = lesson_of(asked, "sequences", 1.0, Silent()), asked.away.readout.lesson(PROMPTS, asked.taught)
    assert lesson.settings == {} and not any(isinstance(row, TaughtRow) for row in lesson.encoded.rows)
    assert [(*row, *row.target) for row in lesson.encoded.rows] == [(*r, *r.target) for r in before.rows]  # type: ignore[attr-defined]


def test_an_answer_that_was_cut_off_is_not_learnt() -> None:
    """It would teach to end in the middle, however few tokens another tokenizer makes of it."""
    asked = asked_of()
    home = asked.home
    rows = home.readout.encode(PROMPTS)
    with attached(home.host, LORA, stack([asked.module.matrices], torch.float64)):
        said = generated(home.host, rows, home.readout.ends, 6, 0)  # type: ignore[attr-defined]
    cut = [len(row) == 6 for row in said]
    assert any(cut) and not all(cut)
    texts = [home.host.tokenizer.decode(row, skip_special_tokens=True) for row in said]
    expected = ["" if gone else text for text, gone in zip(texts, cut, strict=True)]
    taught = taught_targets(asked.module, home, PROMPTS, Silent())
    assert taught.tolist() == expected
    whole = [place for place, text in enumerate(expected) if text]
    lesson = lesson_of(asked._replace(taught=taught), "sequences", 1.0, Silent())
    assert len(lesson.encoded.rows) == len(whole) and lesson.settings == {"left_out": len(PROMPTS) - len(whole)}
    tests = home.readout.encode_split(home.task.test, generate=len(PROMPTS)).rows
    [values] = predict_entries(home.host, home.readout, LORA, [asked.module.matrices], tests)
    assert values["text"].tolist() == texts  # what is tested is shown as far as it goes


def test_answers_that_one_host_cannot_read_are_left_out_and_counted() -> None:
    asked = asked_of()._replace(taught=ANSWERS.copy())
    asked.taught[:3] = ["", " ".join(["film"] * 6), "film " * 5]
    lesson = lesson_of(asked, "sequences", 1.0, Silent())
    assert lesson.settings == {"left_out": 2} and len(lesson.encoded.rows) == len(PROMPTS) - 2
    with pytest.raises(TaskRefused, match="of 24 of the module's none has 1 to 6 tokens and an end"):
        lesson_of(asked._replace(taught=np.array([""] * 24, dtype=object)), "auto", 0.5, Silent())


def test_tokens_are_refused_where_they_differ() -> None:
    asked = asked_of()
    away = asked.away
    away.host.tokenizer.add_tokens(["entirely"])
    says = "--teach tokens: expected one vocabulary on both hosts, got .* of which .* have one id; give --teach seq"
    with pytest.raises(BadRequest, match=says):
        distill(asked.module, asked.home, away, PROMPTS, DistillOptions(steps=1, teach="tokens"))
    made = distill(asked.module, asked.home, away, PROMPTS, DistillOptions(steps=1, teach="auto"))
    assert made.ports[-1].settings["teach"] == "sequences"
    other = asked_of().away
    other.host.tokenizer.unk_token = "<mask>"
    assert "expected the same unk_token on both hosts, got '<unk>'" in unlike_tokens(asked.home, other)
    assert word_tokenizer().get_vocab() == asked.home.host.tokenizer.get_vocab()


def test_answers_that_templates_end_differently_are_taught_as_texts() -> None:
    asked = asked_of()
    asked.away.host.tokenizer.chat_template = (
        "{% for message in messages %}{{ '<mask>' + message['content'] + ' fine </s> ' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<mask>' }}{% endif %}"
    )
    away = bound_answers(asked.away.host)
    with pytest.raises(BadRequest, match="--teach tokens: .* put other tokens around an answer"):
        lesson_of(asked._replace(away=away), "tokens", 1.0, Silent())
    assert lesson_of(asked._replace(away=away), "auto", 1.0, Silent()).settings == {"teach": "sequences"}


def test_what_has_no_probability_cannot_be_chosen_by_it() -> None:
    task = RegressionTask.read("numbers", Columns("numbers", {"text": ["a", "b"]}, ["1", "2.5"]), Wording()).spec
    bounds = []
    for seed in (0, 1):
        bound = bound_classes(pico_host("bert", seed))
        bounds.append(
            replace(bound, task=replace(bound.task, spec=task), readout=LinearRegression(bound.host, task, 16))
        )
    module = Module(LORA, bounds[0].host.fingerprint, random_matrices(bounds[0].host, LORA))
    with pytest.raises(
        BadRequest, match="--keep 0.5: numbers is a task of kind regression, expected classification or"
    ):
        distill(module, *bounds, PROMPTS, DistillOptions(keep=0.5))
    with pytest.raises(BadRequest, match="--teach tokens: numbers is a task of kind regression, whose answers are not"):
        distill(module, *bounds, PROMPTS, DistillOptions(teach="tokens"))


def test_the_readout_of_answers_has_what_lessons_need() -> None:
    assert AnswerTokens.certain and Prototype.certain and not LinearRegression.certain
    with pytest.raises(NotImplementedError, match="predicts no probabilities"):
        bound = bound_classes(pico_host("bert"))
        spec = RegressionTask.read("numbers", Columns("numbers", {"text": ["a", "b"]}, ["1", "2"]), Wording()).spec
        LinearRegression(bound.host, spec, 16).certainty(np.zeros(1), np.zeros(1))
