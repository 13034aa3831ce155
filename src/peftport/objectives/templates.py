"""What a host reads of a prompt, and what it is to answer, token by token.

    tokens of the prompt | tokens of the answer, and what ends it

A host with a chat template reads a conversation as that renders it (`apply_chat_template` of transformers, up to where
the assistant's turn begins, with ``enable_thinking=False``: models that can think first are asked for the answer); the
rest of the rendered conversation is the answer and its end. Other decoders read the task's plain prompt, the answer
follows after a space, and the tokenizer's end token ends it, as it does after a chat template that puts none. An
encoder-decoder reads the prompt in its encoder; its decoder says the answer with the tokens that the tokenizer puts
around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from peftport.core.errors import TaskRefused
from peftport.hosts.host import Host
from peftport.tasks.chats import AUTO, NONE, Turn, turns_of
from peftport.tasks.kinds.completion import Completion

PROBE = "0123456789"  # an answer that no template's own text is part of
MARKS = ("\n", ".", "0")  # texts that an answer hardly merges with
Shots: TypeAlias = tuple[tuple[str, str], ...]  # prompts and their answers


@dataclass(frozen=True)
class Template:
    """How one task's prompts and answers are put to one host.

    Attributes:
        host: the host.
        task: the task, which says the prompt and which template is asked for.
        chat: the chat template, or None where the plain prompt is used.
        shots: examples and their answers, which the host reads before each prompt.

    """

    host: Host
    task: Completion
    chat: str | None
    shots: Shots = ()

    @classmethod
    def of(cls, host: Host, task: Completion, shots: Shots = ()) -> Template:
        """The template that the task asks for on this host."""
        if task.template == NONE:
            return cls(host, task, None, shots)
        chat = host.tokenizer.chat_template if task.template == AUTO else task.template
        if isinstance(chat, dict):  # several by name, as `apply_chat_template` chooses among them
            chat = chat.get("default")
        return cls(host, task, chat if isinstance(chat, str) else None, shots)

    def prompt(self, example: str) -> str:
        """The text that the host reads before its answer."""
        if self.chat is not None:
            return self._rendered(self._turns(example), True)
        before = [_answered(self._plain(shot), answer) for shot, answer in self.shots]
        return "\n\n".join([*before, self._plain(example)])

    def whole(self, example: str, answer: str) -> str:
        """The text of prompt, answer and end together; of an encoder-decoder, of the answer alone."""
        if self.chat is not None:
            return self._rendered((*self._turns(example), Turn("assistant", answer)), False)
        return answer if self._encoder_decoder else _answered(self.prompt(example), answer)

    def prompt_tokens(self, example: str) -> tuple[int, ...]:
        """The tokens of the prompt, with those that the tokenizer puts around a text."""
        ids = self._tokens(self.prompt(example), around=self.chat is None)
        end = self.host.tokenizer.eos_token_id
        return ids[:-1] if not self._encoder_decoder and self.chat is None and ids and ids[-1] == end else ids

    def answer_tokens(self, example: str, answer: str) -> tuple[int, ...]:
        """The tokens of an answer as they follow the prompt, its end included.

        Raises:
            TaskRefused: the chat template renders the prompt differently once the answer follows.

        """
        if self._encoder_decoder and self.chat is None:
            return self._ended(self._tokens(answer, around=True))
        before, whole = self.prompt(example), self.whole(example, answer)
        if not whole.startswith(before):
            raise TaskRefused(
                f"{self.task.name}: expected a chat template that renders a prompt as it begins the answered "
                f"conversation, that of {self.host.name} does not; give --template none, or a template of your own"
            )
        rest = whole[len(before) :]
        if self._encoder_decoder:
            return self._ended(self._tokens(rest, around=True))
        start, ids = self.prompt_tokens(example), self._tokens(whole, around=self.chat is None)
        return self._ended(ids[len(start) :] if ids[: len(start)] == start else self._after(start, rest, ids))

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer: the host's own, and the one that the chat template puts after it."""
        after = self.whole(PROBE, PROBE).rpartition(PROBE)[2] if self.chat is not None else ""
        special = {token for token, added in self.host.tokenizer.added_tokens_decoder.items() if added.special}
        special |= set(self.host.tokenizer.all_special_ids)
        return frozenset([*self._own_ends, *[end for end in self._tokens(after, around=False) if end in special][:1]])

    @property
    def _own_ends(self) -> list[int]:
        """The tokens that end what the host says, the tokenizer's own first."""
        config = getattr(self.host.model, "generation_config", None)
        known = [
            self.host.tokenizer.eos_token_id,
            getattr(config, "eos_token_id", None),
            getattr(self.host.config, "eos_token_id", None),
        ]
        return [int(end) for each in known for end in (each if isinstance(each, list) else [each]) if end is not None]

    @property
    def _encoder_decoder(self) -> bool:
        return self.host.kind == "encoder_decoder"

    def _plain(self, example: str) -> str:
        return self.task.prompt_for(example) if self._encoder_decoder else self.task.causal_prompt_for(example)

    def _turns(self, example: str) -> tuple[Turn, ...]:
        """The conversation, whose last turn is worded by the task's prompt; shots come after what the system says."""
        *before, last = turns_of(example)
        start = 1 if before and before[0].role == "system" else 0
        shown = [
            turn
            for shot, answer in self.shots
            for turn in (*_worded(self.task, turns_of(shot)), Turn("assistant", answer))
            if turn.role != "system"
        ]
        return (*before[:start], *shown, *before[start:], *_worded(self.task, (last,)))

    def _rendered(self, turns: tuple[Turn, ...], answer_follows: bool) -> str:
        """A conversation as the chat template renders it. Raises TaskRefused where it fails."""
        try:
            rendered: str = self.host.tokenizer.apply_chat_template(
                [turn.message() for turn in turns],
                chat_template=self.chat,
                add_generation_prompt=answer_follows,
                tokenize=False,
                enable_thinking=False,
            )
        except Exception as error:  # a template may raise anything
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            roles = ", ".join(turn.role for turn in turns)
            raise TaskRefused(
                f"{self.task.name}: the chat template fails on turns of {roles} on {self.host.name} ({first}); correct "
                "the conversations, or give --template none or a template of your own"
            ) from error
        return rendered

    def _tokens(self, text: str, *, around: bool) -> tuple[int, ...]:
        encoded: dict[str, Any] = self.host.tokenizer(text, add_special_tokens=around, verbose=False)
        return tuple(encoded["input_ids"])

    def _after(self, start: tuple[int, ...], rest: str, whole: tuple[int, ...]) -> tuple[int, ...]:
        """The tokens of a text as they follow those of a prompt that would merge with it.

        Some tokenizers put a blank before every text, which is none of the answer's: then it is read after a mark.
        """
        end = self.host.tokenizer.eos_token_id
        said = self._text(whole[:-1] if self.chat is None and whole[-1:] == (end,) else whole)
        candidates = [alone := self._tokens(rest, around=False)]
        for mark in MARKS:
            before, both = self._tokens(mark, around=False), self._tokens(mark + rest, around=False)
            if both[: len(before)] == before:
                candidates.append(both[len(before) :])
        return next((ids for ids in candidates if self._text((*start, *ids)) == said), alone)

    def _text(self, ids: tuple[int, ...]) -> str:
        text: str = self.host.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _ended(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """An answer's tokens with the one that ends it, where they have none."""
        end = self._own_ends[:1]
        if self.chat is not None and not self._encoder_decoder:
            return ids if not self.ends.isdisjoint(ids) else (*ids, *end)
        return ids if [*ids[-1:]] == end else (*ids, *end)


def _answered(prompt: str, answer: str) -> str:
    return f"{prompt}{'' if prompt[-1:].isspace() else ' '}{answer}"


def _worded(task: Completion, turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Turns, the last of which is worded by the task's prompt."""
    *before, last = turns
    return (*before, Turn(last.role, task.prompt_for(last.content)))
