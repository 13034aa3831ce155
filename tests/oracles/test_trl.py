"""Supervised fine-tuning as trl does it: the tokens that it reads and those that it learns are ours.

What is asked is the preparation of a data set by trl's own trainer, without a trainer around it: end tokens, chat
templates, tokens, completion masks, labels. By design ours differs in three places, each of which a test shows: plain
answers follow after a space, which trl leaves to the data; Qwen 3 is asked not to think, which trl is told by
``chat_template_kwargs``; where tokens merge across the end of the prompt, ours keeps the prompt that is read when
answers are generated, and trl's does not.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from trl.trainer.sft_trainer import SFTTrainer

from peftport.hosts.host import Host
from peftport.objectives.templates import Template
from peftport.tasks.chats import Chat, Turn
from peftport.tasks.columns import Columns, Wording
from peftport.tasks.kinds.completion import Completion
from pico import pico_host
from templates import TEMPLATES, byte_tokenizer, piece_tokenizer

TOKENIZERS = {"bytes": byte_tokenizer, "pieces": piece_tokenizer}
texts = st.text(alphabet="ab:.?\n é", min_size=1, max_size=8).filter(str.strip)


@cache
def host_of(kind: str, chat: str | None) -> Host:
    host = pico_host("llama")
    return Host(**{**vars(host), "tokenizer": TOKENIZERS[kind](chat)})


def template_of(host: Host, **wording: Any) -> Template:
    spec = Completion.read("answers", Columns("answers", {"text": ["a"]}, ["b"]), Wording(**wording)).spec
    assert isinstance(spec, Completion)
    return Template.of(host, spec)


def learnt_by_trl(host: Host, rows: list[dict[str, Any]]) -> list[tuple[list[int], list[int]]]:
    """The tokens and labels that trl's trainer makes of rows."""
    trainer: Any = SimpleNamespace(_tokenizer=host.tokenizer, chat_template=None, completion_only_loss=True)
    args: Any = SimpleNamespace(dataset_num_proc=None, dataset_text_field="text", assistant_only_loss=False,
                                max_length=None, shuffle_dataset=False)  # fmt: skip
    found = SFTTrainer._prepare_dataset(trainer, Dataset.from_list(rows), host.tokenizer, args, False, None, "train")
    return [(row["input_ids"], row["labels"]) for row in found]


def labels_of(prompt: tuple[int, ...], answer: tuple[int, ...]) -> tuple[list[int], list[int]]:
    return [*prompt, *answer], [-100] * len(prompt) + list(answer)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(pairs=st.lists(st.tuples(texts.map(str.strip), texts.map(str.strip)), min_size=3, max_size=6))
@settings(max_examples=3, deadline=None, phases=[Phase.generate])
def test_plain_prompts_and_answers(kind: str, pairs: list[tuple[str, str]]) -> None:
    """The end token is learnt; the space between prompt and answer is the answer's."""
    host = host_of(kind, None)
    template = template_of(host, prompt="Q {text} A")
    rows = [{"prompt": f"Q {asked} A", "completion": f" {answer}"} for asked, answer in pairs]
    ours = [labels_of(template.prompt_tokens(asked), template.answer_tokens(asked, answer)) for asked, answer in pairs]
    assert ours == learnt_by_trl(host, rows)
    assert all(labels[-1] == host.tokenizer.eos_token_id for _, labels in ours)


@pytest.mark.parametrize("chat", TEMPLATES)
@pytest.mark.parametrize("kind", TOKENIZERS)
@given(
    conversations=st.lists(
        st.tuples(st.lists(st.tuples(texts, texts), max_size=2), st.none() | texts, texts, texts),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=2, deadline=None, phases=[Phase.generate])
def test_conversations(kind: str, chat: str, conversations: list[Any]) -> None:
    """Whole turns before, with and without what a system says; the last turn is learnt with the token that ends it."""
    host = host_of(kind, chat)
    template, rows, ours = template_of(host), [], []
    for before, system, asked, answer in conversations:
        turns = [Turn("system", system)] if system and chat != "gemma" else []
        turns += [turn for one, other in before for turn in (Turn("user", one), Turn("assistant", other))]
        prompt = Chat([*turns, Turn("user", asked)])
        if chat not in ("gemma", "llama3"):  # which trim: what tokens merge with is not at the end of a prompt
            answer = answer.strip()
        rows.append({
            "prompt": [turn.message() for turn in prompt.turns],
            "completion": [{"role": "assistant", "content": answer}],
            "chat_template_kwargs": {"enable_thinking": False},
        })  # fmt: skip
        ours.append(labels_of(template.prompt_tokens(prompt), template.answer_tokens(prompt, answer)))
    assert ours == learnt_by_trl(host, rows)


def test_a_prompt_is_what_is_read_when_answers_are_generated() -> None:
    """An answer's first line end would merge with the prompt's last: trl then reads another prompt than it learns."""
    host = host_of("bytes", "chatml")
    template, prompt = template_of(host), [{"role": "user", "content": "a"}]
    asked = host.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    assert list(template.prompt_tokens("a")) == asked
    answer = template.answer_tokens("a", "\nb")
    [(tokens, labels)] = learnt_by_trl(
        host, [{"prompt": prompt, "completion": [{"role": "assistant", "content": "\nb"}]}]
    )
    assert tokens[: len(asked)] != asked and labels.count(-100) == len(asked) - 1
    assert host.tokenizer.decode([*asked, *answer]) == host.tokenizer.decode(tokens)
