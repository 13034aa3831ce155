"""answer_tokens: the likelihood of an answer's tokens after its prompt, and the answers that a host generates.

    loss = - sum_t log p(y_t | prompt, y_<t) / number of tokens, over all answers of a batch

The prompt's tokens are read and not learnt; the token that ends an answer is. That is the language-model loss of
supervised fine-tuning with the prompts masked.

Letters: as in `peftport.objectives.base`; S tokens of an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from peftport.core.errors import TaskRefused
from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.metrics.base import ANSWER
from peftport.objectives.base import Encoded, Head, Objective, Row, check_tokens, decoder_inputs, pad
from peftport.objectives.generation import generated
from peftport.objectives.templates import Shots, Template
from peftport.tasks.chats import Chat, prompt_of, turns_of
from peftport.tasks.kinds.completion import Completion, check_lengths
from peftport.tasks.spec import Example, TaskSpec
from peftport.tasks.task import Split

if TYPE_CHECKING:
    from torch import Tensor

BEYOND = 8  # tokens that a generated answer may have more than the longest reference of its split


class AnswerRow(tuple[int, ...]):
    """The tokens of a prompt, beside them those of its answer; ``most``: how many are generated at most, 0: none."""

    target: Row
    most: int

    def __new__(cls, prompt: Iterable[int], target: Row, most: int = 0) -> Self:
        """Of the prompt's tokens and the answer's."""
        row = super().__new__(cls, prompt)
        row.target, row.most = target, most
        return row


class TokenDistributions(NamedTuple):
    """What a teacher gives as the next token at S places: k tokens, (S, k), and log-probabilities, (S, k + 1).

    The last of these is that of all other tokens together.
    """

    tokens: npt.NDArray[np.int32]
    log_probabilities: npt.NDArray[Any]


class TaughtRow(AnswerRow):
    """A prompt and an answer, of whose places whole distributions are taught instead of the one token there."""

    taught: TokenDistributions

    @classmethod
    def of(cls, row: AnswerRow, taught: TokenDistributions) -> Self:
        """A row with what is taught at the places of its answer."""
        new = cls(row, row.target)
        new.taught = taught
        return new


class AnswerTokens(Objective):
    """The likelihood of answers, and greedy answers."""

    name = "answer_tokens"
    title = "log-probabilities of the answer's tokens"
    kinds = ("encoder_decoder", "decoder")
    serves = ("completion",)
    view = "language_model"
    certain = True
    task: Completion

    def __init__(self, host: Host, task: TaskSpec, max_tokens: int, shots: Shots = ()) -> None:
        """Bind to a host and a task. Prompts are cut to ``max_tokens`` tokens, answers never.

        ``shots``: prompts and their answers, which the host reads before each prompt; their prompts are cut as well.
        """
        super().__init__(host, task, max_tokens)
        self.longest_answer = 0
        self.template = Template.of(host, self.task, tuple((self._shortened(shot), answer) for shot, answer in shots))

    @property
    def prompt_name(self) -> str | None:
        """The one that is answered; a chat template words the user's turn by ``prompt``."""
        return "prompt" if self.template.chat is not None else self.answered_prompt

    def wording(self, example: Example) -> Example:
        """The prompt as the host reads it."""
        return self.template.prompt(prompt_of(example))

    def encode_split(self, split: Split, generate: int = 0) -> Encoded:
        """Prompts with the tokens of the first reference of each; the numbers of these are the targets, (N,)."""
        prompts = self._prompts(split.examples)
        firsts = [references[0] for references in split.targets]
        answers = [self.template.answer_tokens(prompt, answer) for prompt, answer in zip(prompts, firsts, strict=True)]
        lengths = np.array([len(answer) for answer in answers], dtype=np.int64)
        check_lengths(self.task.name, lengths, self.max_tokens)
        self.longest_answer = max(self.longest_answer, int(lengths.max(initial=0)))
        most = min(self.max_tokens, int(lengths.max(initial=0)) + BEYOND)
        rows: list[Row] = [
            AnswerRow(self.template.prompt_tokens(prompt), answer, most if place < generate else 0)
            for place, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        ]
        check_tokens(self.host, rows, split.examples)
        return Encoded(rows, lengths)

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """The prompts alone, for answers to learn from; an answer that does not end in ``max_tokens`` tokens is empty.

        It would teach to end where it was cut off.
        """
        prompts = self._prompts(examples)
        rows: list[Row] = [AnswerRow(self.template.prompt_tokens(each), (), self.max_tokens) for each in prompts]
        check_tokens(self.host, rows, examples)
        return rows

    def taught(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The generated texts, (N,)."""
        texts: npt.NDArray[Any] = values["text"]
        return texts

    def learnable(self, examples: Sequence[Example], taught: npt.NDArray[Any]) -> list[int]:
        """Those with an answer of 1 to ``max_tokens`` tokens."""
        return [
            place
            for place, (prompt, text) in enumerate(zip(self._prompts(examples), taught, strict=True))
            if text and len(self.template.answer_tokens(prompt, text)) <= self.max_tokens
        ]

    def certainty(self, values: npt.NDArray[Any], taught: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The mean log-probability of the tokens of each answer, (N,)."""
        mean: npt.NDArray[np.float64] = values["log_likelihood"] / values["tokens"]
        return mean

    def lesson(self, examples: Sequence[Example], taught: npt.NDArray[Any]) -> Encoded:
        """The prompts with the texts that the teacher answered; empty ones, and longer ones than ours, are left out.

        Raises:
            TaskRefused: none is left.

        """
        answered = self.learnable(examples, taught)
        if not answered:
            raise TaskRefused(
                f"{self.task.name}: expected answers to learn from, of {len(examples)} of the module's none has 1 to "
                f"{self.max_tokens} tokens; give other texts, or more --max-tokens"
            )
        targets = np.empty(len(answered), dtype=object)
        targets[:] = [(taught[place],) for place in answered]
        ids = tuple(map(str, answered))
        return self.encode_split(Split(ids, tuple(examples[place] for place in answered), targets))

    def most_tokens(self) -> int | None:
        """What is left beside the longest answer."""
        most = super().most_tokens()
        return None if most is None or self.host.kind == "encoder_decoder" else most - self.longest_answer

    def weights(self, rows: Sequence[Row]) -> Tensor:
        """An answer counts by its tokens, (N,)."""
        return torch.tensor([len(_target(row)) for row in rows])

    def loss(self, rows: Sequence[Row], targets: Tensor, head: Head, shift: int) -> Tensor:
        """Mean negative log-probability of the tokens of each answer, (N,).

        Of a `TaughtRow` it is the mean divergence from what is taught (`token_distributions`). Rows are of one sort.
        """
        taught = [row.taught for row in rows if isinstance(row, TaughtRow)]
        sums = self._divergences(rows, taught, shift) if taught else -self._log_likelihood(rows, shift)
        return sums / self.weights(rows).to(self.host.device)

    def predict(self, rows: Sequence[Row], head: Head, shift: int) -> npt.NDArray[Any]:
        """Log-likelihoods and generated texts, (N,) of `ANSWER`."""
        values = np.empty(len(rows), dtype=ANSWER)
        told = [place for place, row in enumerate(rows) if _target(row)]
        values["log_likelihood"] = 0.0
        if told:
            likelihoods = self._log_likelihood([rows[place] for place in told], shift)
            values["log_likelihood"][told] = likelihoods.double().cpu().numpy()
        values["tokens"] = [len(_target(row)) for row in rows]
        values["text"] = None
        asked = [place for place, row in enumerate(rows) if getattr(row, "most", 0)]
        if asked:
            most = max(getattr(rows[place], "most", 0) for place in asked)
            values["text"][asked] = self.texts([rows[place] for place in asked], most, shift)
        return values

    def texts(self, rows: Sequence[Row], most: int, shift: int) -> list[str]:
        """The text that the host answers to each prompt, of ``most`` tokens at most; to prompts alone see `encode`."""
        answers = generated(self.host, rows, self.ends, most, shift)
        kept = [
            () if len(answer) == most and isinstance(row, AnswerRow) and not row.target else answer
            for row, answer in zip(rows, answers, strict=True)
        ]
        return [self.host.tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in kept]

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        return self.template.ends

    def finite(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether the likelihoods are finite, (N,)."""
        finite: npt.NDArray[np.bool_] = np.isfinite(values["log_likelihood"])
        return finite

    def _log_likelihood(self, rows: Sequence[Row], shift: int) -> Tensor:
        """Log-probability of the tokens of each answer, (N,)."""
        from peftport.objectives.token_likelihood import token_log_likelihood  # it defines one of torch's functions

        inputs, tokens, counted = self._answered(rows, shift)
        return token_log_likelihood(self.host, inputs, tokens, counted)

    def _divergences(self, rows: Sequence[Row], taught: list[TokenDistributions], shift: int) -> Tensor:
        from peftport.objectives.token_distributions import divergences

        inputs, _, counted = self._answered(rows, shift)
        return divergences(self.host, inputs, counted, taught)

    def likeliest(self, rows: Sequence[Row], known: int, most: int, shift: int) -> list[TokenDistributions]:
        """The host's distributions at the places of each of N answers: see `token_distributions`."""
        from peftport.objectives.token_distributions import likeliest_tokens

        inputs, _, counted = self._answered(rows, shift)
        return likeliest_tokens(self.host, inputs, counted, known, most)

    def _answered(self, rows: Sequence[Row], shift: int) -> tuple[dict[str, Any], Tensor, Tensor]:
        """What the model takes, the answers' tokens (N, S), and which of these places count (N, S)."""
        targets = [_target(row) for row in rows]
        padded = pad(targets, 0, self.host.device, left=self.host.kind == "decoder")
        tokens, counted = padded["input_ids"], padded["attention_mask"]
        return self._inputs(rows, targets, tokens, shift), tokens, counted

    def _inputs(self, rows: Sequence[Row], targets: Sequence[Row], tokens: Tensor, shift: int) -> dict[str, Any]:
        """What the model takes to have logits for each token of the answers, (N, S), first among its places."""
        if self.host.kind == "encoder_decoder":
            inputs = pad(rows, self.host.tokenizer.pad_token_id, self.host.device)
            start = torch.full((len(rows), 1), int(self.host.config.decoder_start_token_id), device=self.host.device)
            return {**inputs, "decoder_input_ids": torch.cat([start, tokens[:, :-1]], dim=1), "use_cache": False}
        whole: list[Row] = [(*row, *target) for row, target in zip(rows, targets, strict=True)]
        return {**decoder_inputs(self.host, whole, shift), "logits_to_keep": tokens.shape[1] + 1}

    def _prompts(self, examples: Sequence[Example]) -> list[str]:
        """Prompts of at most ``max_tokens`` tokens: the oldest turns go first, then the end of the only one left."""
        return [self._shortened(prompt_of(example)) for example in examples]

    def _shortened(self, example: str) -> str:
        turns = list(turns_of(example))
        lengths = [len(self._spans(turn.content)) for turn in turns]
        tokens = sum(lengths)
        while sum(lengths) > self.max_tokens and len(turns) > 1:
            oldest = 1 if turns[0].role == "system" and len(turns) > 2 else 0
            del turns[oldest], lengths[oldest]
        last = turns[-1]
        self.cuts.add(str(example), tokens, min(sum(lengths), self.max_tokens))
        if lengths[-1] > self.max_tokens:
            last = last._replace(content=last.content[: self._spans(last.content)[self.max_tokens - 1][1]])
        if not isinstance(example, Chat):
            return last.content
        return Chat((*turns[:-1], last))

    def _spans(self, text: str) -> list[tuple[int, int]]:
        encoded = self.host.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans: list[tuple[int, int]] = encoded["offset_mapping"]
        return spans


def _target(row: Row) -> Row:
    target: Row | None = getattr(row, "target", None)
    if target is None:
        raise TaskRefused("expected rows with answers, got prompts alone; encode a split of the task")
    return target
