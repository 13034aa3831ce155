"""What a student learns from a module when it is distilled: which texts, and of each text what.

keep   the texts with the largest  mean_t log p_module(y_t) - log p_origin(y_t)          y: the module's own answer
teach  of each answer its tokens (sequence-level distillation), or the module's distribution at each of its places
       (token-level distillation), for which one id must mean one token on both hosts
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from peftport.core.errors import BadRequest, TaskRefused
from peftport.core.progress import Progress
from peftport.modules.module import Module
from peftport.objectives.answer_tokens import AnswerRow, AnswerTokens, TaughtRow
from peftport.objectives.base import Encoded, Row
from peftport.objectives.next_tokens import NextTokens
from peftport.tasks.spec import Example
from peftport.training.bound_task import BoundTask
from peftport.training.evaluation import predict_entries

Teaching = Literal["auto", "tokens", "sequences"]
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


class Lesson(NamedTuple):
    """What is learnt, and what was chosen for it, as a port's record has it."""

    encoded: Encoded
    settings: dict[str, str | int | float | bool]


class AskedModule(NamedTuple):
    """The module with its task on both hosts, N texts, and what the module says to them, (N, ...)."""

    module: Module
    home: BoundTask
    away: BoundTask
    texts: Sequence[Example]
    taught: npt.NDArray[Any]

    def only(self, places: Sequence[int]) -> AskedModule:
        """The same of some of the texts."""
        return self._replace(texts=[self.texts[place] for place in places], taught=self.taught[list(places)])


def check_lesson(home: BoundTask, away: BoundTask, teach: Teaching, keep: float) -> None:
    """Refuse what cannot be taught or chosen, before the module is asked.

    Raises:
        BadRequest: the task has no probabilities to choose by; or tokens are to be taught, and it has no answers, or
            the hosts have different tokens.

    """
    task = home.task.spec
    if keep < 1 and not home.readout.certain:
        raise BadRequest(
            f"--keep {keep:g}: {task.name} is a task of kind {task.kind}, expected classification or completion, where "
            "what the module says has a probability; leave it out"
        )
    if teach == "tokens" and (obstacle := unlike_tokens(home, away)):
        raise BadRequest(_no_tokens(obstacle))


def lesson_of(asked: AskedModule, teach: Teaching, keep: float, progress: Progress) -> Lesson:
    """Choose the texts and what of each is taught. Answers that cannot be learnt are left out, and counted.

    Raises:
        BadRequest: tokens are to be taught, and the hosts read the answers as different ones.
        TaskRefused: there is no answer to learn from.

    """
    texts = len(asked.texts)
    asked = asked.only(both_can_read(asked))
    if not asked.texts:
        raise TaskRefused(
            f"{asked.away.task.spec.name}: expected answers to learn from, of {texts} of the module's none has 1 to "
            f"{asked.away.readout.max_tokens} tokens and an end on both hosts; give other texts, or more --max-tokens"
        )
    left_out = texts - len(asked.texts)
    settings: dict[str, str | int | float | bool] = {"left_out": left_out} if left_out else {}
    if keep < 1:
        asked = asked.only(largest_share(gains(asked, progress), keep))
        settings |= {"keep": keep, "kept": len(asked.texts)}
    encoded = asked.away.readout.lesson(asked.texts, asked.taught)
    if teach == "sequences":
        return Lesson(encoded, settings)
    obstacle = unlike_tokens(asked.home, asked.away) or unlike_answers(asked, encoded)
    if not obstacle:
        return Lesson(_by_tokens(asked, encoded, progress), settings | {"teach": "tokens"})
    if teach == "tokens":
        raise BadRequest(_no_tokens(obstacle))
    return Lesson(encoded, settings | {"teach": "sequences"})


def both_can_read(asked: AskedModule) -> list[int]:
    """The places of the texts whose answers can be read by the module's host and learnt on the other."""
    ours, theirs = (bound.readout.learnable(asked.texts, asked.taught) for bound in (asked.home, asked.away))
    shared = set(ours)
    return [place for place in theirs if place in shared]


def gains(asked: AskedModule, progress: Progress) -> npt.NDArray[np.float64]:
    """How much likelier the module makes what it says than its bare host does, (N,): a difference of logarithms."""
    home, module = asked.home, asked.module
    rows = home.readout.lesson(asked.texts, asked.taught).rows
    advance = progress.stage(f"choosing texts on {home.host.name}", 2 * len(rows))
    [own] = predict_entries(home.host, home.readout, module.spec, [home.startable(module)], rows, advance)
    [bare] = predict_entries(home.host, home.readout, None, [], rows, advance)
    return home.readout.certainty(own, asked.taught) - home.readout.certainty(bare, asked.taught)


def largest_share(values: npt.NDArray[np.float64], share: float) -> list[int]:
    """The places of the largest values, in their order: a share of N, rounded up; among equals the first are taken."""
    count = max(1, math.ceil(round(share * len(values), 9)))  # rounded, since 0.1 * 30 is a little more than 3
    order = np.argsort(-values, kind="stable")[:count]
    return sorted(int(place) for place in order)


def unlike_tokens(home: BoundTask, away: BoundTask) -> str:
    """Why the distributions of one host's tokens mean nothing on the other; empty where they do."""
    if not isinstance(home.readout, AnswerTokens) or not isinstance(away.readout, AnswerTokens):
        return f"{home.task.spec.name} is a task of kind {home.task.spec.kind}, whose answers are not texts"
    names, tokenizers = (home.host.name, away.host.name), (home.host.tokenizer, away.host.tokenizer)
    ours, theirs = (tokenizer.get_vocab() for tokenizer in tokenizers)
    if ours != theirs:
        alike = sum(theirs.get(token) == index for token, index in ours.items())
        return (
            f"expected one vocabulary on both hosts, got {len(ours):,} tokens on {names[0]} and {len(theirs):,} on "
            f"{names[1]}, of which {alike:,} have one id"
        )
    for special in SPECIAL:
        one, other = (getattr(tokenizer, special) for tokenizer in tokenizers)
        if one != other:
            return f"expected the same {special} on both hosts, got {one!r} on {names[0]} and {other!r} on {names[1]}"
    return ""


def unlike_answers(asked: AskedModule, learnt: Encoded) -> str:
    """Why the answers are not of the same tokens on both hosts, as chat templates decide it; empty where they are."""
    for ours, theirs in zip(_home_rows(asked), learnt.rows, strict=True):
        if ours.target != _answer(theirs).target:
            return (
                f"expected the answers to have the same tokens on both hosts, they do not ({asked.home.host.name} and "
                f"{asked.away.host.name} put other tokens around an answer)"
            )
    return ""


def _home_rows(asked: AskedModule) -> list[AnswerRow]:
    """The answers as the module's own host reads them, which can read them all."""
    return [_answer(row) for row in asked.home.readout.lesson(asked.texts, asked.taught).rows]


def _by_tokens(asked: AskedModule, learnt: Encoded, progress: Progress) -> Encoded:
    """The same rows, with the module's distributions at the places of its answers."""
    home, away = asked.home, asked.away
    rows = _home_rows(asked)
    known = min(int(bound.host.config.vocab_size) for bound in (home, away))
    objective = NextTokens(home.host, home.task.spec, home.readout.max_tokens, known)
    advance = progress.stage(f"asking the module on {home.host.name} for every token", len(rows))
    [taught] = predict_entries(home.host, objective, asked.module.spec, [home.startable(asked.module)], rows, advance)
    with_tokens: list[Row] = [TaughtRow.of(_answer(row), own) for row, own in zip(learnt.rows, taught, strict=True)]
    return Encoded(with_tokens, learnt.targets)


def _answer(row: Row) -> AnswerRow:
    assert isinstance(row, AnswerRow), "the readout of answers makes rows with answers"
    return row


def _no_tokens(obstacle: str) -> str:
    return f"--teach tokens: {obstacle}; give --teach sequences, which teaches the answers as texts"
