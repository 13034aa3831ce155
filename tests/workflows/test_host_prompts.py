"""Prompts that a host makes itself: sampled as plain forward passes say, by the seed, from where a user would begin."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peftport.core.errors import BadRequest, TaskRefused
from peftport.core.progress import Silent
from peftport.hosts.host import Host
from peftport.modules.module import Module, stack
from peftport.objectives import bind_objective
from peftport.objectives.answer_tokens import AnswerTokens
from peftport.objectives.generation import generated
from peftport.techniques.attach import attached, prefix_length
from peftport.training.bound_task import BoundTask
from peftport.training.loop import TrainSettings
from peftport.workflows import host_prompts
from peftport.workflows.host_prompts import answers_task, beginning, made_prompts, prompt_end
from pico import SPECS, pico_host, random_matrices

CHATML = (
    "{% for message in messages %}{{ '<mask>' + message['role'] + ' . ' + message['content'] + ' </s> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<mask>assistant . ' }}{% endif %}"
)


def bound_to(host: Host, module: Module) -> BoundTask:
    task = answers_task(module)
    return BoundTask(host, task, bind_objective(None, host, task.spec, 8), TrainSettings(max_tokens=8))


def module_on(host: Host, technique: str = "lora") -> Module:
    matrices = random_matrices(host, SPECS[technique])
    own = {slot: {name: t.to(host.dtype) for name, t in some.items()} for slot, some in matrices.items()}
    return Module(SPECS[technique], host.fingerprint, own)


@pytest.mark.parametrize("technique", ["lora", "prefix"])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_tokens_are_sampled_by_the_distributions_of_plain_passes(model_type: str, technique: str) -> None:
    """Each row by its own numbers, whoever is in its batch; the whole text is read again for every token."""
    host = pico_host(model_type, dtype=torch.float64)
    module, draws = module_on(host, technique), np.random.default_rng(5).random((6, 5))
    shift = prefix_length(module.spec, host)
    with attached(host, module.spec, stack([module.matrices], torch.float64)), torch.no_grad():
        together = generated(host, [(4,)] * 6, {1}, 5, shift, draws)
        for row, own in zip(together, draws, strict=True):
            expected: list[int] = []
            for u in own:
                ids = torch.tensor([[4, *expected]])
                positions = {"position_ids": torch.arange(ids.shape[1])[None] + shift} if host.takes_positions else {}
                mask = torch.ones_like(ids)
                logits = host.model(input_ids=ids, attention_mask=mask, use_cache=False, **positions).logits[0, -1]
                token = int(np.searchsorted(np.cumsum(logits.softmax(-1).numpy()), u, side="right"))
                if token == 1:
                    break
                expected.append(token)
            assert list(row) == expected
    assert len(set(together)) > 1


def test_samples_follow_the_distribution() -> None:
    """The first tokens of many samples have the shares that the host gives them, within four standard errors."""
    host, count = pico_host("llama", dtype=torch.float64), 4000
    draws = np.random.default_rng(0).random((count, 1))
    found = [row[0] if row else 1 for row in generated(host, [(4,)] * count, {1}, 1, 0, draws)]
    with torch.no_grad():
        shares = host.model(input_ids=torch.tensor([[4]]), use_cache=False).logits[0, -1].softmax(-1).numpy()
    seen = np.bincount(found, minlength=len(shares)) / count
    assert (np.abs(seen - shares) <= 4 * np.sqrt(shares * (1 - shares) / count) + 1e-9).all()


def test_prompts_are_different_and_decided_by_the_seed() -> None:
    host = pico_host("llama")
    module = module_on(host)
    home = bound_to(host, module)
    once, again, other = (made_prompts(module, home, 20, seed, Silent()) for seed in (0, 0, 1))
    assert once == again != other and len(set(once)) == len(once) == 20
    assert made_prompts(module, home, 5, 0, Silent()) == once[:5]
    assert all(text == text.strip() and text for text in once)


def test_a_prompt_begins_where_a_user_would() -> None:
    host = pico_host("llama", dtype=torch.float64)
    plain = bound_to(host, module_on(host)).readout
    assert isinstance(plain, AnswerTokens)
    assert beginning(plain.template) == (4,) and prompt_end(plain.template) == "Answer:"
    host.tokenizer.chat_template = CHATML
    chat = bound_to(host, module_on(host)).readout
    assert isinstance(chat, AnswerTokens)
    rendered = host.tokenizer.apply_chat_template([{"role": "user", "content": "@"}], tokenize=False)
    expected = host.tokenizer(rendered.partition("@")[0], add_special_tokens=False)["input_ids"]
    assert beginning(chat.template) == tuple(expected) and prompt_end(chat.template) == ""


def test_a_prompt_stops_where_its_answer_would_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    host = pico_host("llama")
    module = module_on(host)
    said = ["good film Answer: bad", " Answer: bad", "good film Answer: dull", " dull plot "]
    monkeypatch.setattr(host_prompts, "generated", lambda *_: list(range(len(said))))
    monkeypatch.setattr(host.tokenizer, "decode", lambda row, **_: said[row])
    assert made_prompts(module, bound_to(host, module), 3, 0, Silent()) == ("good film", "dull plot")
    said[:] = ["", " "]
    with pytest.raises(TaskRefused, match="--prompts host:3: expected prompts, got none"):
        made_prompts(module, bound_to(host, module), 3, 0, Silent())


def test_only_decoders_make_prompts() -> None:
    host = pico_host("t5")
    module = module_on(host)
    says = "--prompts host:3: expected a decoder that answers prompts, got pico-t5, of kind encoder_decoder, .* --texts"
    with pytest.raises(BadRequest, match=says):
        made_prompts(module, bound_to(host, module), 3, 0, Silent())
