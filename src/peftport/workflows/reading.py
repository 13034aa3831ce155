"""What a host reads of a task: the exact text of a few examples, with special tokens and cuts; no weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peftport.hosts.opening import open_host
from peftport.objectives import bind_objective
from peftport.tasks.task import Task

EXAMPLES = 3


@dataclass(frozen=True)
class ReadExample:
    """One example as a host reads it.

    Attributes:
        text: what is read, its tokens decoded one by one so that special tokens show.
        answer: what is learnt after it, of prompts that are answered; else None.
        tokens: how many tokens are read, the answer's included.

    """

    text: str
    answer: str | None
    tokens: int


@dataclass(frozen=True)
class HostReading:
    """How a host reads a task: by which readout, and a few training examples."""

    host: str
    readout: str
    examples: tuple[ReadExample, ...]


def reading_of(task: Task, host: str, readout: str | None, max_tokens: int) -> HostReading:
    """Encode the first training examples as training does. The host's weights are not read.

    Raises:
        UnknownName, HostRefused: there is no such host, or it is broken.
        BadRequest: the readout does not serve this task on this kind of host.
        TaskRefused: the host's chat template fails, or the host cannot spell the label words.

    """
    opened = open_host(host)
    objective = bind_objective(readout, opened, task.spec, max_tokens)
    rows = objective.encode_split(task.train.head(EXAMPLES)).rows
    return HostReading(opened.name, objective.name, tuple(_read(opened.tokenizer, row) for row in rows))


def _read(tokenizer: Any, row: Any) -> ReadExample:
    target = getattr(row, "target", ())
    answer = tokenizer.decode(target) if target else None
    return ReadExample(tokenizer.decode(row), answer, len(row) + len(target))
