"""Conversations: turns of a role and a content, as one example of a task.

A `Chat` is a text, so that all that reads texts (duplicates, splits, digests, unlabelled texts) reads it as it is; what
puts a conversation to a host reads its turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from jinja2 import Environment, TemplateError

from peftport.core.errors import TaskRefused

if TYPE_CHECKING:
    from peftport.tasks.columns import Columns

ROLES = ("system", "user", "assistant")
AUTO, NONE = "auto", "none"
TEMPLATES = (AUTO, NONE)


class Turn(NamedTuple):
    """What one side says."""

    role: str
    content: str

    def message(self) -> dict[str, str]:
        """The turn as chat templates take it."""
        return {"role": self.role, "content": self.content}


class Chat(str):
    """A conversation; as a text, a line for each turn, with its role before it."""

    turns: tuple[Turn, ...]

    __slots__ = ("turns",)

    def __new__(cls, turns: Iterable[Turn]) -> Self:
        """Of turns, at least one."""
        turns = tuple(Turn(*turn) for turn in turns)
        chat = super().__new__(cls, "\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in turns))
        chat.turns = turns
        return chat

    def __getnewargs__(self) -> tuple[tuple[Turn, ...]]:  # type: ignore[override]
        """What a copy in another process is made of."""
        return (self.turns,)


def turns_of(example: str) -> tuple[Turn, ...]:
    """The turns of an example: those of a conversation; a plain text is what a user says."""
    return example.turns if isinstance(example, Chat) else (Turn("user", example),)


def as_prompt(turns: Sequence[Turn]) -> str:
    """Turns that ask something, as an example: one user's turn alone is a plain text."""
    return turns[0].content if len(turns) == 1 and turns[0].role == "user" else Chat(turns)


def read_template(asked: str | None) -> str | None:
    """What ``--template`` asks for: ``auto``, ``none`` or the text of the file that it names; None stays None.

    Raises:
        TaskRefused: there is no such file, it is not UTF-8, or it is no chat template.

    """
    if asked is None or asked in TEMPLATES:
        return asked
    expected = f"expected {', '.join(TEMPLATES)} or a file with a chat template (Jinja)"
    try:
        text = Path(asked).expanduser().read_text(encoding="utf-8")
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except (OSError, ValueError, RuntimeError) as error:
        raise TaskRefused(f"--template {asked}: {expected}, got: {error}; check the path") from error
    except TemplateError as error:
        raise TaskRefused(f"--template {asked}: {expected}, got: {error}; correct the file") from error
    if "messages" not in text:
        raise TaskRefused(f"--template {asked}: {expected}, which names messages, got none; correct the file")
    return text


def conversational(columns: Columns) -> bool:
    """Whether the texts are lists of messages, as chats come."""
    first = next((value for value in next(iter(columns.fields.values())) if value), None)
    return isinstance(first, list | tuple) and isinstance(next(iter(first), None), Mapping)


def prompt_of(example: object) -> str:
    """The prompt that an example is: a text or a conversation. Its turns would be lost by ``str(example)``."""
    assert isinstance(example, str), "an example of prompts and answers is one text"
    return example


def prompt_and_answer(where: str, row: int, messages: object) -> tuple[str, str]:
    """What a list of messages asks, and its last turn, which is the answer. One user's turn is a plain text.

    Raises:
        TaskRefused: what is no such list, naming the row.

    """
    turns = _turns(f"{where}, row {row}", messages)
    if turns[-1].role != "assistant":
        raise TaskRefused(
            f"{where}, row {row}: expected the assistant's turn at the end, which is the answer, got the turn of "
            f"{turns[-1].role}; drop the row or add the answer"
        )
    *before, answer = turns
    if not any(turn.role == "user" for turn in before):
        raise TaskRefused(f"{where}, row {row}: expected a user's turn before the answer, got none; drop the row")
    return as_prompt(before), answer.content


def _turns(where: str, messages: object) -> list[Turn]:
    if not isinstance(messages, list | tuple) or not messages:
        raise TaskRefused(f"{where}: expected a list of messages, got {_shown(messages)}; correct the row")
    return [_turn(where, number, message) for number, message in enumerate(messages, 1)]


def _turn(where: str, number: int, message: object) -> Turn:
    place = f"{where}, message {number}"
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise TaskRefused(f"{place}: expected a role and a content, got {_shown(message)}; correct the row")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise TaskRefused(f"{place}: expected a role of {', '.join(ROLES)}, got {_shown(role)}; correct the row")
    if not isinstance(content, str) or not content.strip():
        raise TaskRefused(f"{place}: expected a text as content, got {_shown(content)}; correct or drop the row")
    return Turn(role, content)


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
