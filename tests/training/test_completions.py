"""Answers on hosts that generate: likelihoods, gradients and greedy texts are those of transformers and peft.

Chat templates are rendered as `apply_chat_template` does; what is learnt is the answer and its end, nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from torch.utils._python_dispatch import TorchDispatchMode

from peftport.core.errors import BadRequest, TaskRefused
from peftport.core.progress import Silent
from peftport.hosts.host import Host
from peftport.modules.folders import write_module
from peftport.modules.module import Module, stack
from peftport.objectives import bind_objective, objective_for, token_likelihood
from peftport.objectives.answer_tokens import AnswerRow, AnswerTokens
from peftport.objectives.generation import generated
from peftport.objectives.templates import Template
from peftport.tasks.chats import Chat, Turn
from peftport.tasks.columns import Columns, Wording
from peftport.tasks.kinds.completion import Answers, Completion
from peftport.tasks.task import Dropped, Split, Task
from peftport.techniques.attach import attached, prefix_length
from peftport.training.bound_task import BoundTask, Start
from peftport.training.evaluation import predict_entries
from peftport.training.loop import Entry, TrainSettings, entry_loss
from peftport.workflows.distill import DistillOptions, distill, taught_targets
from pico import SPECS, WORDS, pico_host, pico_model, random_matrices

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
DECODERS = ("llama", "qwen3", "gemma", "gemma3_text", "gpt2", "opt")
GENERATORS = (*DECODERS, "t5", "bart")
CHATML = (
    "{% for message in messages %}{{ '<mask>' + message['role'] + ' . ' + message['content'] + ' </s> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<mask>assistant . ' }}{% endif %}"
)
words = st.lists(st.sampled_from(WORDS[:14]), min_size=1, max_size=9).map(" ".join)


@cache
def host_of(model_type: str, chat: bool = False, **changes: Any) -> Host:
    host = pico_host(model_type, dtype=torch.float64, **changes)
    host.tokenizer.chat_template = CHATML if chat else None
    return host


def spec_of(conversations: bool = False, **wording: Any) -> Completion:
    prompts: list[object] = [Chat([Turn("user", "a")])] if conversations else ["a"]
    spec = Completion.read("answers", Columns("answers", {"text": prompts}, ["b"]), Wording(**wording)).spec
    assert isinstance(spec, Completion)
    return spec


def answers_of(*answers: str) -> np.ndarray[Any, Any]:
    targets = np.empty(len(answers), dtype=object)
    targets[:] = [(answer,) for answer in answers]
    return targets


def split_of(prompts: list[str], answers: list[str]) -> Split:
    return Split(tuple(map(str, range(len(prompts)))), tuple(prompts), answers_of(*answers))


def objective_of(host: Host, **wording: Any) -> AnswerTokens:
    found = bind_objective(None, host, spec_of(**wording), 64)
    assert isinstance(found, AnswerTokens)
    return found


def library_loss(host: Host, model: Any, row: Any) -> torch.Tensor:
    """The loss that transformers computes of one row whose prompt is masked: the mean over the answer's tokens."""
    if host.kind == "encoder_decoder":
        return model(input_ids=torch.tensor([row]), labels=torch.tensor([row.target])).loss  # type: ignore[no-any-return]
    ids = torch.tensor([[*row, *row.target]])
    labels = torch.cat([torch.full((1, len(row)), -100), torch.tensor([row.target])], dim=1)
    return model(input_ids=ids, labels=labels, use_cache=False).loss  # type: ignore[no-any-return]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("model_type", GENERATORS)
@given(pairs=st.lists(st.tuples(words, words), min_size=1, max_size=5))
@settings(max_examples=6, deadline=None)
def test_likelihoods_are_those_of_transformers(model_type: str, chat: bool, pairs: list[tuple[str, str]]) -> None:
    """In a batch as alone, whatever the lengths of prompts and answers."""
    host = host_of(model_type, chat)
    objective = objective_of(host)
    rows = objective.encode_split(split_of(*map(list, zip(*pairs, strict=True)))).rows
    with torch.no_grad():
        values = objective.predict(rows, None, 0)
        for row, value in zip(rows, values, strict=True):
            assert isinstance(row, AnswerRow) and value["tokens"] == len(row.target)
            expected = -float(library_loss(host, host.model, row)) * len(row.target)
            assert value["log_likelihood"] == pytest.approx(expected, rel=1e-5)  # transformers takes losses in float32
            assert value["text"] is None


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma3_text", "gpt2", "t5"])
def test_gradients_of_a_batch_are_those_of_peft(model_type: str, tmp_path: Path) -> None:
    """The mean over all answer tokens of the batch, as supervised fine-tuning has it; LoRA by peft as the oracle."""
    host, spec = pico_host(model_type), SPECS["lora"]
    objective = objective_of(host)
    rows = objective.encode_split(
        split_of(["the film was good", "a plot", "it is dull ."], ["good", "bad dull bad fine", "a film ."])
    ).rows
    start = random_matrices(host, spec)
    entry = Entry(start, rows, np.array([len(row.target) for row in rows]), 0, 1e-3)  # type: ignore[attr-defined]
    ours = entry_loss(host, objective, spec, entry, np.arange(3))
    write_module(Module(spec, host.fingerprint, start), host, tmp_path / "m", "peft")
    model = PeftModel.from_pretrained(pico_model(model_type), tmp_path / "m", is_trainable=True).eval()
    counts = [len(row.target) for row in rows]  # type: ignore[attr-defined]
    losses = [library_loss(host, model, row) * n for row, n in zip(rows, counts, strict=True)]
    theirs = torch.stack(losses).sum() / sum(counts)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    theirs.backward()  # type: ignore[no-untyped-call]
    vectors = {slot: {name: t.clone().requires_grad_() for name, t in own.items()} for slot, own in start.items()}
    stacked = {slot: {name: t[None] for name, t in own.items()} for slot, own in vectors.items()}
    with attached(host, spec, stacked):
        loss = objective.loss(rows, torch.tensor(counts), None, 0)
        weights = objective.weights(rows)
        ((loss * weights).sum() / weights.sum()).backward()
    prefix = "" if host.base is host.model else host.model.base_model_prefix + "."
    for name, own in vectors.items():
        slot = host.slots[name]
        if slot.start or any(other.path == slot.path for other in host.slots.values() if other is not slot):
            continue  # of a fused matrix peft holds several slots in one
        layer: Any = model.get_submodule(f"base_model.model.{prefix}{slot.path}")
        for key, theirs_of in (("A", layer.lora_A), ("B", layer.lora_B)):
            gradient = theirs_of["default"].weight.grad
            assert own[key].grad is not None
            assert torch.allclose(own[key].grad, gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()) + 1e-8)


@pytest.mark.parametrize("technique", [None, "lora", "adapter", "compacter", "prefix"])
@pytest.mark.parametrize("model_type", GENERATORS)
def test_greedy_answers_are_those_of_generate(model_type: str, technique: str | None) -> None:
    """transformers' own generate, a prompt at a time, with the same module attached; ours in one batch of K modules."""
    host = host_of(model_type)
    spec = SPECS[technique] if technique else None
    seeds = (3, 4, 5) if spec else (0,)
    modules = [random_matrices(host, spec, seed) for seed in seeds] if spec else []
    objective, shift = objective_of(host), prefix_length(spec, host)
    prompts = [
        objective.template.prompt_tokens(text) for text in ("the film was good", "a", "it is dull . a fine plot")
    ]
    together = [prompt for _ in seeds for prompt in prompts]
    matrices = (
        stack([{s: {k: t.double() for k, t in o.items()} for s, o in m.items()} for m in modules]) if spec else {}
    )
    with attached(host, spec, matrices):
        found = generated(host, together, objective.ends, 7, shift)
    for place, seed in enumerate(seeds):
        alone = {s: {k: t[place : place + 1] for k, t in o.items()} for s, o in matrices.items()}
        for number, prompt in enumerate(prompts):
            ours = found[place * len(prompts) + number]
            with attached(host, spec, alone):
                if shift:  # positions begin after the prefix, which generate cannot be told: a token at a time
                    expected = stepwise(host, prompt, 7, shift, objective.ends)
                else:
                    expected = library_answer(host, prompt, 7, objective.ends)
            assert ours == expected, (seed, prompt)


def library_answer(host: Host, prompt: Any, most: int, ends: frozenset[int]) -> tuple[int, ...]:
    out = host.model.generate(  # type: ignore[operator]
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=most,
        do_sample=False, num_beams=1, eos_token_id=sorted(ends), pad_token_id=0, forced_eos_token_id=None,
    )[0].tolist()  # fmt: skip
    new = out[1:] if host.kind == "encoder_decoder" else out[len(prompt) :]
    return tuple(new[: next((i for i, token in enumerate(new) if token in ends), len(new))])


def stepwise(host: Host, prompt: Any, most: int, shift: int, ends: frozenset[int]) -> tuple[int, ...]:
    """Greedy without a cache: the whole text is read again for every token."""
    tokens: list[int] = []
    for _ in range(most):
        ids = torch.tensor([[*prompt, *tokens]])
        places = torch.arange(ids.shape[1])[None] + shift
        with torch.no_grad():
            token = int(host.model(input_ids=ids, position_ids=places, use_cache=False).logits[0, -1].argmax())
        if token in ends:
            break
        tokens.append(token)
    return tuple(tokens)


@pytest.mark.parametrize("model_type", ["llama", "t5"])
@pytest.mark.parametrize("technique", list(SPECS))
def test_modules_together_answer_as_alone(model_type: str, technique: str) -> None:
    host, spec = host_of(model_type), SPECS[technique]
    objective = objective_of(host)
    prompts = ["the film was good", "a", "it is dull .", "this movie is a fine movie", "plot"]
    rows = objective.encode_split(split_of(prompts, ["good bad", "a", "it is", "fine", "dull ."]), generate=3).rows
    modules = [random_matrices(host, spec, seed) for seed in (1, 2, 3)]
    together = predict_entries(host, objective, spec, modules, rows, tokens_at_once=60)
    for module, values in zip(modules, together, strict=True):
        [alone] = predict_entries(host, objective, spec, [module], rows)
        assert np.allclose(values["log_likelihood"], alone["log_likelihood"], rtol=1e-9)
        assert values["text"].tolist() == alone["text"].tolist()
        assert [text is None for text in values["text"]] == [False] * 3 + [True] * 2


@pytest.mark.parametrize("model_type", ["llama", "t5"])
@pytest.mark.parametrize("technique", list(SPECS))
def test_answers_are_learnt(model_type: str, technique: str) -> None:
    """Each prompt asks for its last word: likelihoods rise with training, for three entries stacked as for one."""
    host, spec = pico_host(model_type), SPECS[technique]
    rng = np.random.default_rng(0)
    prompts = [" ".join(rng.choice(WORDS[:8], 3)) for _ in range(60)]
    task = Task(spec_of(), *[split_of(prompts, [text.split()[-1] for text in prompts])] * 3, Dropped())
    bound = BoundTask(host, task, objective_of(host), TrainSettings(batch_size=10), test_items=20, generate=20)
    starts = [Start(bound.fresh(spec, seed), seed) for seed in (0, 1)]
    trained = bound.train(spec, starts, [0, 40], 1e-2)
    before, after = (bound.test(spec, [one[budget].matrices for one in trained]) for budget in (0, 40))
    for one, other in zip(before, after, strict=True):
        assert isinstance(other, Answers)
        assert other.values["log_likelihood"].mean() > one.values["log_likelihood"].mean() + 0.5
        assert all(isinstance(text, str) for text in other.texts)
    [alone] = bound.train(spec, starts[:1], [40], 1e-2)
    for slot, own in alone[40].matrices.items():
        for name, tensor in own.items():
            assert torch.allclose(tensor, trained[0][40].matrices[slot][name], atol=2e-3), (slot, name)


def test_what_a_host_reads_is_its_chat_template(tmp_path: Path) -> None:
    host = host_of("llama", chat=True)
    chat = Chat([Turn("system", "this is"), Turn("user", "good film"), Turn("assistant", "bad"), Turn("user", "plot")])
    template = Template.of(host, spec_of(conversations=True))
    messages = [turn.message() for turn in chat.turns]
    ids = host.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert list(template.prompt_tokens(chat)) == ids
    whole = host.tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": "dull"}], return_dict=False)
    assert [*ids, *template.answer_tokens(chat, "dull")] == whole
    assert template.ends >= {host.tokenizer.eos_token_id}
    assert Template.of(host, spec_of(template="none")).chat is None
    assert Template.of(host_of("llama"), spec_of()).chat is None
    plain = Template.of(host_of("llama"), spec_of(conversations=True))
    assert plain.prompt(chat) == "System: this is\nUser: good film\nAssistant: bad\nUser: plot\nAssistant:"
    assert Template.of(host_of("llama"), spec_of()).whole("good film", "dull") == "good film\nAnswer: dull"


def test_the_end_is_learnt_and_the_prompt_is_not() -> None:
    host = host_of("llama")
    objective = objective_of(host)
    [row] = objective.encode_split(split_of(["good film"], ["dull plot"])).rows
    assert isinstance(row, AnswerRow)
    assert row.target[-1] == host.tokenizer.eos_token_id
    assert host.tokenizer.decode(row.target[:-1]) == "dull plot"
    assert host.tokenizer.decode(row).endswith("good film <unk> <unk>")  # the pico's words know no "Answer:"


def test_long_conversations_lose_their_oldest_turns_and_long_texts_their_end() -> None:
    host = host_of("llama", chat=True)
    chat = Chat(
        [Turn("system", "this"), *[Turn(r, "good bad") for r in ("user", "assistant")], Turn("user", "the film")]
    )
    objective = bind_objective(None, host, spec_of(conversations=True), 4)
    assert isinstance(objective, AnswerTokens)
    [cut] = objective._prompts([chat])
    assert isinstance(cut, Chat) and [turn.content for turn in cut.turns] == ["this", "the film"]
    [text] = objective._prompts(["good bad good bad good bad"])
    assert text == "good bad good bad"


def test_what_is_refused() -> None:
    host = host_of("llama")
    bert = pico_host("bert")
    with pytest.raises(BadRequest, match="needs a host that generates"):
        objective_for(None, bert.kind, spec_of())
    with pytest.raises(
        TaskRefused, match="1 of 2 answers have more than 3 tokens .* give --max-tokens 5, or drop them"
    ):
        bind_objective(None, host, spec_of(), 3).encode_split(split_of(["a", "b"], ["good", "a b c d"]))
    broken = replace(Template.of(host_of("llama", chat=True), spec_of()), chat="{{ raise_exception('no system') }}")
    with pytest.raises(TaskRefused, match="the chat template fails on turns of user .*no system.* --template none"):
        broken.prompt("good")
    twisted = replace(broken, chat="{{ messages|length }} {{ messages[0]['content'] }}")
    with pytest.raises(TaskRefused, match="renders a prompt as it begins the answered conversation"):
        twisted.answer_tokens("good", "bad")


@pytest.mark.parametrize("chat", [False, True])
def test_examples_in_the_prompt_are_read_before_it(chat: bool) -> None:
    host = host_of("llama", chat)
    shots = (("good film", "fine"), (Chat([Turn("system", "it is"), Turn("user", "plot")]), "dull"))
    template = Template.of(host, spec_of(), shots)
    asked = Chat([Turn("system", "this"), Turn("user", "a review")])
    if not chat:
        assert (
            template.prompt("a") == "good film\nAnswer: fine\n\nSystem: it is\nUser: plot\nAnswer: dull\n\na\nAnswer:"
        )
        return
    messages = [
        ("system", "this"),
        ("user", "good film"),
        ("assistant", "fine"),
        ("user", "plot"),
        ("assistant", "dull"),
    ]
    rendered = host.tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in [*messages, ("user", "a review")]],
        add_generation_prompt=True, tokenize=False,
    )  # fmt: skip
    assert template.prompt(asked) == rendered


def ends_often(host: Host) -> Host:
    """A host of which several tokens end an answer, so that not all of a small one's are cut off."""
    host.model.generation_config.eos_token_id = [1, *range(6, 25, 4)]  # type: ignore[union-attr]
    return host


@pytest.mark.parametrize(("origin", "seed", "receiver"), [("llama", 2, "t5"), ("t5", 4, "llama")])
def test_answers_are_distilled_to_another_kind_of_host(origin: str, seed: int, receiver: str) -> None:
    """What the student learns is what the teacher generates: its likelihood rises, and no reference is looked at."""
    rng = np.random.default_rng(1)
    prompts = [" ".join(rng.choice(WORDS[:8], 3)) for _ in range(40)]
    task = Task(spec_of(), *[split_of(prompts, ["terrible"] * 40)] * 3, Dropped())
    home, away = (
        BoundTask(host, task, bind_objective(None, host, task.spec, 6), TrainSettings(batch_size=8, max_tokens=6))
        for host in (ends_often(pico_host(origin, seed)), pico_host(receiver))
    )
    spec = SPECS["lora"]
    module = Module(spec, home.host.fingerprint, random_matrices(home.host, spec, std=seed * 0.15), home.record)
    taught = taught_targets(module, home, prompts, Silent())
    [values] = predict_entries(home.host, home.readout, spec, [module.matrices], home.readout.encode(prompts))
    assert taught.tolist() == values["text"].tolist() and any(taught)
    made = distill(module, home, away, prompts, DistillOptions(steps=40, learning_rate=1e-2))
    lesson = away.readout.lesson(prompts, taught)
    before, after = (
        predict_entries(away.host, away.readout, spec, [own], lesson.rows)[0]["log_likelihood"].mean()
        for own in (away.fresh(spec, 0), made.matrices)
    )
    assert after > before + 1
    assert made.ports[-1].method == "distill" and made.host == away.host.fingerprint


@pytest.mark.parametrize("model_type", ["llama", "t5"])
def test_conversations_are_encoded_turn_by_turn(model_type: str) -> None:
    """Of a split as of prompts alone and of examples in the prompt: what the chat template renders, nothing else."""
    host = host_of(model_type, chat=True)
    chat = Chat([Turn("system", "this is"), Turn("user", "good film"), Turn("assistant", "bad"), Turn("user", "plot")])
    objective = objective_of(host)
    messages = [turn.message() for turn in chat.turns]
    ids = tuple(host.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
    [row] = objective.encode_split(split_of([chat], ["dull"])).rows
    assert tuple(row) == ids == tuple(objective.encode([chat])[0])
    shown = AnswerTokens(host, objective.task, 64, ((chat, "dull"),))
    both = [*messages, {"role": "assistant", "content": "dull"}, {"role": "user", "content": "a"}]
    expected = host.tokenizer.apply_chat_template(both[1:], add_generation_prompt=True, return_dict=False)
    assert tuple(shown.encode(["a"])[0]) == tuple(expected)


class Largest(TorchDispatchMode):
    """Notes how many rows of logits the largest result of an operation has."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.shape[-1:] == (self.vocabulary,):
            self.rows = max(self.rows, out.numel() // self.vocabulary)
        return out


@pytest.mark.parametrize("model_type", GENERATORS)
def test_logits_of_a_few_places_at_a_time(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss and its gradients are those of all logits at once, of which only the answers' places are computed."""
    capped = {"final_logit_softcapping": 2.0} if model_type == "gemma3_text" else {}
    host, spec = host_of(model_type, vocab_size=31, **capped), SPECS["lora"]
    if model_type == "bart":
        host.model.final_logits_bias = torch.linspace(-1, 1, 31, dtype=torch.float64)[None]
    objective, answers = objective_of(host), ["good bad . film film", "bad dull bad fine . it is a good film ."]
    rows = objective.encode_split(split_of(["the film was good", "a plot"], answers)).rows
    start = random_matrices(host, spec)
    matrices = {s: {n: t.double()[None].requires_grad_() for n, t in own.items()} for s, own in start.items()}
    leaves = [t for own in matrices.values() for t in own.values()]

    def loss_at(places: int) -> tuple[torch.Tensor, list[torch.Tensor], int]:
        monkeypatch.setattr(token_likelihood, "LOGITS_AT_ONCE", 31 * places)
        with Largest(31) as largest, attached(host, spec, matrices):
            loss = objective.loss(rows, torch.tensor([1, 1]), None, 0)
            gradients = torch.autograd.grad(loss @ torch.tensor([0.3, 2.0]).to(loss), leaves)
        return loss.detach(), list(gradients), largest.rows

    whole, wanted, most = loss_at(1000)
    with attached(host, spec, matrices), torch.no_grad():
        theirs = [float(library_loss(host, host.model, row)) for row in rows]
    assert whole.tolist() == pytest.approx(theirs, rel=1e-6)  # transformers takes losses in float32
    assert most >= sum(len(row.target) for row in rows) > 16  # type: ignore[attr-defined]
    for places in (1, 3):
        loss, gradients, most = loss_at(places)
        assert most <= max(places, 16)  # 16: the head's own matrix, turned, which is no result for a place
        torch.testing.assert_close(loss, whole, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradients, wanted, rtol=1e-9, atol=1e-12)
