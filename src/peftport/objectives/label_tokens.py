"""label_tokens: a language model scores the label words as sequences of tokens.

    score_c = sum_s log p(w_cs | text, w_c,<s)

encoder-decoder   the decoder says the words                       "Is this review positive or negative? ..."
decoder           the words follow the prompt's last position      "Review: ... Sentiment:"
masked LM         the words fill masks, as many as they have tokens "... It was [MASK]."

Training minimises -score of the right label over the whole vocabulary, which is the language-model loss; distilling,
the cross-entropy among the labels. All labels are scored in one pass; nothing is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftport.core.errors import TaskRefused
from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.objectives.base import Head, LabelScorer, Row, decoder_inputs, pad
from peftport.tasks.kinds.classification import Classification
from peftport.tasks.spec import Example, TaskSpec, texts_of

if TYPE_CHECKING:
    from torch import Tensor


class LabelTokens(LabelScorer):
    """Log-probabilities of the label words."""

    name = "label_tokens"
    title = "log-probabilities of the label words"
    kinds = ("encoder", "encoder_decoder", "decoder")
    view = "language_model"

    def __init__(self, host: Host, task: TaskSpec, max_tokens: int) -> None:
        """Find the tokens of every label's words in this host's vocabulary."""
        super().__init__(host, task, max_tokens)
        self.labels = label_rows(host, self.task)
        longest = max(len(row) for row in self.labels)
        padded = [row + (0,) * (longest - len(row)) for row in self.labels]
        self.tokens = torch.tensor(padded, device=host.device)  # (C, S)
        counts = torch.tensor([len(row) for row in self.labels], device=host.device)
        self.counted = torch.arange(longest, device=host.device) < counts[:, None]  # (C, S)

    @property
    def prompt_name(self) -> str | None:
        """The prompt with a mask, or the one that is answered."""
        return "masked_prompt" if self.host.kind == "encoder" else self.answered_prompt

    def wording(self, example: Example) -> Example:
        """The task's prompt for this kind of host."""
        if self.host.kind != "encoder":
            return self.prompted(example)
        mask = self.host.tokenizer.mask_token
        # A mask that the text itself holds would be taken for one of the label's.
        texts = tuple(text.replace(mask, " ") for text in texts_of(example))
        return self.task.masked_prompt_for(texts if len(texts) > 1 else texts[0], mask * len(self.labels[0]))

    def scores(self, rows: Sequence[Row], head: Head, shift: int) -> Tensor:
        """Sequence log-probabilities, (N, C)."""
        said = list(self.labels) * len(rows) if self._branches() else None
        logits = self._logits(rows, said, shift)
        logits = logits.view(len(rows), -1, *logits.shape[1:]).expand(-1, len(self.labels), -1, -1)  # (N, C, S, V)
        return self._sequence_log_probability(logits, self.tokens, self.counted)

    def loss(self, rows: Sequence[Row], targets: Tensor, head: Head, shift: int) -> Tensor:
        """Negative log-probability of the right label's words, (N,).

        Where the targets are the probabilities of the labels, (N, C), it is the cross-entropy to these, among the
        labels alone: what else the host might say is no lesson.
        """
        if targets.is_floating_point():
            return super().loss(rows, targets, head, shift)
        said = [self.labels[int(label)] for label in targets]
        logits = self._logits(rows, said if self._branches() else None, shift)  # (N, S, V)
        return -self._sequence_log_probability(logits, self.tokens[targets], self.counted[targets])

    def _branches(self) -> bool:
        """Whether later tokens of a label depend on its earlier ones, so that every label needs its own input."""
        return self.host.kind != "encoder" and self.tokens.shape[1] > 1

    def _sequence_log_probability(self, logits: Tensor, tokens: Tensor, counted: Tensor) -> Tensor:
        """Logits (..., S, V), tokens and counted (..., S) -> (...)."""
        logits = logits.to(self.host.device, self.host.wide_dtype)
        chosen = logits.gather(-1, tokens.expand(logits.shape[:-1]).unsqueeze(-1)).squeeze(-1)
        return ((chosen - logits.logsumexp(-1)) * counted).sum(-1)

    def _logits(self, rows: Sequence[Row], said: Sequence[Row] | None, shift: int) -> Tensor:
        """Logits at the label positions, (N r, S, V), given the label words (said, N r of them) up to each position."""
        if self.host.kind == "encoder":
            return self._at_masks(rows)
        length = self.tokens.shape[1]
        before: list[Row] = [row[: length - 1] + (0,) * (length - 1 - len(row)) for row in said or [()] * len(rows)]
        repeats = len(before) // len(rows)
        if self.host.kind == "encoder_decoder":
            return self._seq2seq(rows, before, repeats)
        repeated = [row for row in rows for _ in range(repeats)]
        inputs = decoder_inputs(self.host, [row + tail for row, tail in zip(repeated, before, strict=True)], shift)
        return self.host.model(**inputs, logits_to_keep=length).logits  # type: ignore[no-any-return]

    def _seq2seq(self, rows: Sequence[Row], before: list[Row], repeats: int) -> Tensor:
        """Encode every row once, decode it once for each of its labels."""
        start = int(self.host.config.decoder_start_token_id)
        inputs = pad(rows, self.host.tokenizer.pad_token_id, self.host.device)
        encoded = self.host.model.get_encoder()(**inputs).last_hidden_state  # type: ignore[operator]
        return self.host.model(  # type: ignore[no-any-return]
            encoder_outputs=(encoded.repeat_interleave(repeats, 0),),
            attention_mask=inputs["attention_mask"].repeat_interleave(repeats, 0),
            decoder_input_ids=torch.tensor([(start, *tail) for tail in before], device=self.host.device),
            use_cache=False,
        ).logits

    def _at_masks(self, rows: Sequence[Row]) -> Tensor:
        inputs = pad(rows, self.host.tokenizer.pad_token_id, self.host.device)
        at = inputs["input_ids"] == self.host.tokenizer.mask_token_id
        logits = self.host.model(**inputs).logits  # (N, T, V)
        return logits[at].view(len(rows), self.tokens.shape[1], -1)  # type: ignore[no-any-return]


def label_rows(host: Host, task: Classification) -> tuple[Row, ...]:
    """Tokens of every label's words as they follow the prompt.

    Raises:
        TaskRefused: two labels share their tokens, a word is unknown to the host, or masked words differ in length.

    """
    words = task.masked_words if host.kind == "encoder" else task.words
    rows = tuple(_word_tokens(host, task, word) for word in words)
    for word, row in zip(words, rows, strict=True):
        if not row or host.tokenizer.unk_token_id in row:
            raise TaskRefused(
                f"{task.name}: expected label words that {host.name} can spell, got {word!r}; choose other words"
            )
    if len(set(rows)) < len(rows):
        raise TaskRefused(
            f"{task.name}: expected label words that differ in tokens on {host.name}, got {words}; choose other words"
        )
    if host.kind == "encoder" and len({len(row) for row in rows}) > 1:
        raise TaskRefused(
            f"{task.name}: expected masked words of one token count on {host.name}, "
            f"got {dict(zip(words, map(len, rows), strict=True))}; "
            "choose other words"
        )
    nested = any(a != b and b[: len(a)] == a for a in rows for b in rows)
    end = host.tokenizer.eos_token_id
    return tuple((*row, end) for row in rows) if nested and end is not None else rows


def _word_tokens(host: Host, task: Classification, word: str) -> Row:
    def tokens(text: str) -> Row:
        return tuple(host.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    if host.kind != "decoder":
        return tokens(word)
    prompt = task.causal_prompt_for("x" if len(task.fields) == 1 else ("x",) * len(task.fields)).rstrip()
    before, after = tokens(prompt), tokens(f"{prompt} {word}")
    return after[len(before) :] if after[: len(before)] == before else tokens(" " + word)
