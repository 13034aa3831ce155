"""What a host reads and is to answer, token by token, on tokenizers and chat templates as real models have them.

Byte-level tokenizers merge line ends and blanks; sentencepiece's put a blank before every text; some put an end after.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from peftport.core.errors import TaskRefused
from peftport.hosts.host import Host
from peftport.objectives.answer_tokens import AnswerTokens
from peftport.objectives.generation import generated
from peftport.objectives.templates import Template
from peftport.tasks.chats import Chat, Turn
from peftport.tasks.columns import Columns, Wording
from peftport.tasks.kinds.completion import Completion
from pico import pico_host
from templates import ENDS, TEMPLATES, byte_tokenizer, piece_tokenizer

TOKENIZERS = {"bytes": byte_tokenizer, "pieces": piece_tokenizer}
contents = st.text(alphabet="ab:. \n", min_size=1, max_size=6).filter(str.strip)
HOSTS = {model_type: pico_host(model_type, vocab_size=400) for model_type in ("llama", "t5", "bart")}


def host_of(tokenizer: Any, model_type: str = "llama") -> Host:
    return Host(**{**vars(HOSTS[model_type]), "tokenizer": tokenizer})


def template_of(host: Host, **wording: Any) -> Template:
    spec = Completion.read("answers", Columns("answers", {"text": ["a"]}, ["b"]), Wording(**wording)).spec
    assert isinstance(spec, Completion)
    return Template.of(host, spec)


def decoded(host: Host, ids: Any) -> str:
    found: str = host.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return found


@st.composite
def conversations(draw: st.DrawFn) -> list[Turn]:
    """Turns of user and assistant by turns, the user's first and last, at times after what a system says."""
    turns = [Turn(("user", "assistant")[n % 2], draw(contents)) for n in range(2 * draw(st.integers(0, 2)) + 1)]
    return [Turn("system", draw(contents)), *turns] if draw(st.booleans()) else turns


@pytest.mark.parametrize("chat", TEMPLATES)
@pytest.mark.parametrize("kind", TOKENIZERS)
@given(turns=conversations(), answer=contents)
@settings(max_examples=25, deadline=None, phases=[Phase.generate])
def test_a_conversation_is_rendered_as_transformers_renders_it(
    kind: str, chat: str, turns: list[Turn], answer: str
) -> None:
    """The prompt to the token, and with the answer's tokens the whole conversation to the letter."""
    host = host_of(TOKENIZERS[kind](chat))
    template, prompt = template_of(host), Chat(turns)
    if chat == "gemma" and turns[0].role == "system":
        with pytest.raises(TaskRefused, match="fails on turns of system, user.*System role not supported.*none or"):
            template.prompt_tokens(prompt)
        return
    messages, options = [turn.message() for turn in turns], {"enable_thinking": False, "return_dict": False}
    asked = host.tokenizer.apply_chat_template(messages, add_generation_prompt=True, **options)
    whole = host.tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": answer}], **options)
    read, said = template.prompt_tokens(prompt), template.answer_tokens(prompt, answer)
    assert list(read) == asked
    assert decoded(host, [*read, *said]) == decoded(host, whole)
    assert host.tokenizer.convert_tokens_to_ids(ENDS[chat]) in template.ends & set(said)
    assert template.ends.isdisjoint(said[: said.index(host.tokenizer.convert_tokens_to_ids(ENDS[chat]))])
    assert "think" not in decoded(host, said)


@pytest.mark.parametrize("prompt", ["{text}", "{text} ", "Q: {text}\n", "{text}\nA: "])
@pytest.mark.parametrize("kind", TOKENIZERS)
@given(asked=contents, answer=contents, around=st.booleans(), last=st.booleans())
@settings(max_examples=25, deadline=None, phases=[Phase.generate])
def test_plain_prompts_and_answers_are_one_text(
    kind: str, prompt: str, asked: str, answer: str, around: bool, last: bool
) -> None:
    """With the start token once, and the end once, at the end: whatever the tokenizer puts around a text."""
    host = host_of(TOKENIZERS[kind](around=around, last=last))
    template = template_of(host, prompt=prompt)
    read, said = template.prompt_tokens(asked), template.answer_tokens(asked, answer)
    text = template.prompt(asked)
    assert read == tuple(host.tokenizer(text, add_special_tokens=False)["input_ids"])[: len(read)] or around
    assert decoded(host, [*read, *said]) == decoded(
        host, [*[3] * around, *host.tokenizer(template.whole(asked, answer), add_special_tokens=False)["input_ids"], 1]
    )
    assert 1 not in read and [*said].count(1) == 1


def test_an_end_that_a_template_lacks_is_put_after_it() -> None:
    plain = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = plain + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    template = template_of(host_of(tokenizer))
    assert template.answer_tokens("a", "b")[-1] == tokenizer.eos_token_id and template.ends == {1}


def test_an_end_whose_name_has_the_letter_x_is_found() -> None:
    tokenizer = byte_tokenizer("chatml")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|text_end|>"]})
    tokenizer.chat_template = TEMPLATES["chatml"].replace("<|im_end|>", "<|text_end|>")
    assert tokenizer.convert_tokens_to_ids("<|text_end|>") in template_of(host_of(tokenizer)).ends


def test_the_default_of_several_chat_templates_is_used() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = {"default": TEMPLATES["chatml"], "tool_use": "none"}
    assert template_of(host_of(tokenizer)).chat == TEMPLATES["chatml"]


def test_a_tokenizer_without_an_end_uses_the_host_s_and_without_any_none() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    host = host_of(tokenizer)
    assert template_of(host).answer_tokens("a", "b")[-1] == host.config.eos_token_id == 1
    endless = pico_host("llama", vocab_size=400, eos_token_id=None)
    endless = Host(**{**vars(endless), "tokenizer": tokenizer})
    assert template_of(endless).ends == frozenset()
    assert [len(answer) for answer in generated(endless, [(5, 6), (7,)], template_of(endless).ends, 4, 0)] == [4, 4]
    assert generated(endless, [(5, 6)], (), 0, 0) == [()]


@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_an_encoder_decoder_says_what_labels_of_transformers_say(model_type: str) -> None:
    """With the tokens that its tokenizer puts around a text: BART's has a start token there."""
    tokenizer = piece_tokenizer(around=model_type == "bart", last=True)
    template = template_of(host_of(tokenizer, model_type))
    assert list(template.answer_tokens("a", "ab b")) == tokenizer(text_target="ab b")["input_ids"]
    assert list(template.prompt_tokens("ab")) == tokenizer("ab")["input_ids"]


def test_bart_begins_with_the_token_that_it_is_forced_to() -> None:
    host = pico_host("bart", vocab_size=400, dtype=torch.float64)
    host.model.generation_config.forced_bos_token_id = 4  # type: ignore[union-attr]
    rows = [(9, 10, 11), (12,), (13, 14)]
    found = generated(host, rows, {1}, 6, 0)
    for row, answer in zip(rows, found, strict=True):
        out = host.model.generate(  # type: ignore[operator]
            torch.tensor([row]),
            max_new_tokens=6,
            do_sample=False,
            num_beams=1,
            eos_token_id=1,
            forced_eos_token_id=None,
        )[0].tolist()[1:]
        assert answer[0] == 4 and list(answer) == out[: out.index(1) if 1 in out else None]


def test_texts_are_without_what_ends_and_starts_them() -> None:
    host = host_of(byte_tokenizer("llama3"))
    objective = AnswerTokens(host, template_of(host).task, 16)
    [text] = objective.texts(objective.encode(["ab"]), 5, 0)
    assert isinstance(text, str) and "<|" not in text
