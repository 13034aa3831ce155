"""Texts aligned word by word, so that the activations of hosts with different tokenizers can be compared.

A word is a stretch of text between white space. Its row is the mean of the activations of its tokens. Means commute
with linear maps, so a map fitted on words holds for tokens, too. Words that one host cuts off at its maximal length are
left out for both; how many tokens are cut off is counted. Encoder-decoders read the text in the encoder, and again,
shifted right, in the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftport.core.errors import SlotMismatch
from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.porting.base import TextLength

if TYPE_CHECKING:
    from torch import Tensor

ROW_TOKENS = 96  # of a row, those around the text included, where no limit is named
Word = tuple[int, int]  # the number of a text in the batch, and of a word in that text


@dataclass(frozen=True, eq=False)
class Pooling:
    """The assignment of tokens to words: token ``tokens[i]`` of text ``texts[i]`` belongs to word ``rows[i]``.

    ``counts`` has the number of tokens of each word; the batch has ``shape`` (B, T).
    """

    texts: Tensor
    tokens: Tensor
    rows: Tensor
    counts: Tensor
    shape: tuple[int, int]

    def __call__(self, activations: Tensor) -> Tensor:
        """The mean of each word: (B, T, D), or (B T, D) as in some FFNs -> (number of words, D), float64."""
        flat = activations.detach().flatten(0, -2).cpu()
        length = len(flat) // self.shape[0]  # some hosts pad the texts to a multiple of their window
        if len(flat) % self.shape[0] or length < self.shape[1]:
            raise SlotMismatch(
                f"expected the activations of {self.shape[0]} x {self.shape[1]} tokens, got {len(flat)}: a map of this "
                "host reads only some of the tokens; use --method subspace or crosslora"
            )
        flat = flat[self.texts * length + self.tokens].double()
        sums = flat.new_zeros(len(self.counts), flat.shape[1]).index_add_(0, self.rows, flat)
        return sums / self.counts.unsqueeze(1)


@dataclass(frozen=True, eq=False)
class Reading:
    """One batch of texts for one host: the model's inputs, the positions of each word's tokens, how much is read."""

    inputs: dict[str, Any]
    tokens: dict[Word, list[int]]
    length: int  # T
    lengths: list[TextLength]

    def pooling(self, words: Sequence[Word]) -> Pooling:
        """The pooling of token activations into the means of these words."""
        places = [(row, text, t) for row, (text, w) in enumerate(words) for t in self.tokens[text, w]]
        counts = [len(self.tokens[word]) for word in words]
        rows, texts, tokens = map(torch.tensor, zip(*places, strict=True))
        shape = (len(self.inputs["input_ids"]), self.length)
        return Pooling(texts, tokens, rows, torch.tensor(counts, dtype=torch.float64), shape)


def tokens_around(host: Host) -> int:
    """How many tokens of a row are not the text's: special tokens, and those of a prefix."""
    prefix = host.tokenizer(host.text_prefix, add_special_tokens=False, verbose=False)["input_ids"]
    return int(host.tokenizer.num_special_tokens_to_add()) + len(prefix)


def read(host: Host, texts: Sequence[str], max_tokens: int | None = None) -> Reading:
    """Tokenise a batch, padded on the right.

    Of each text ``max_tokens`` tokens are read; if that is None, as many as go into a row of `ROW_TOKENS`. A host with
    a table of positions reads no more than that has.
    """
    longest = ROW_TOKENS if max_tokens is None else max_tokens + tokens_around(host)
    longest = longest if host.positions is None else min(longest, host.positions)
    prefixed = [host.text_prefix + text for text in texts]
    encoded = host.tokenizer(prefixed, return_offsets_mapping=True, verbose=False)
    whole = [sum(end > max(begin, len(host.text_prefix)) for begin, end in own) for own in encoded["offset_mapping"]]
    excess = [max(0, len(row) - longest) for row in encoded["input_ids"]]
    lengths = [TextLength(tokens, max(0, tokens - more)) for tokens, more in zip(whole, excess, strict=True)]
    if any(excess):
        encoded = host.tokenizer(
            prefixed, return_offsets_mapping=True, truncation=True, max_length=longest, verbose=False
        )
    rows, offsets = encoded["input_ids"], encoded["offset_mapping"]
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), host.tokenizer.pad_token_id or 0)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = torch.tensor(row), 1
    inputs: dict[str, Any] = {"input_ids": ids.to(host.device), "attention_mask": mask.to(host.device)}
    if host.kind != "encoder":
        inputs["use_cache"] = False
    if host.kind == "encoder_decoder":
        start = host.config.decoder_start_token_id
        shifted = torch.cat([torch.full((len(rows), 1), 0 if start is None else start), ids[:, :-1]], dim=1)
        inputs |= {"decoder_input_ids": shifted.to(host.device)}
    return Reading(inputs, _tokens_of_words(host.text_prefix, texts, offsets), length, lengths)


def shared_words(first: Reading, second: Reading) -> list[Word]:
    """The words that both hosts read, in order."""
    return sorted(first.tokens.keys() & second.tokens.keys())


def shared_tokens(origin: Host, receiver: Host) -> list[str]:
    """The tokens that both vocabularies contain, as the tokenizers spell them, in order."""
    return sorted(origin.tokenizer.get_vocab().keys() & receiver.tokenizer.get_vocab().keys())


def _tokens_of_words(prefix: str, texts: Sequence[str], offsets: list[list[tuple[int, int]]]) -> dict[Word, list[int]]:
    positions: dict[Word, list[int]] = {}
    for index, (text, spans) in enumerate(zip(texts, offsets, strict=True)):
        word_at = _word_at(text)
        for token, (begin, end) in enumerate(spans):
            last = end - 1 - len(prefix)  # some tokenizers count the space before a word as part of its first token
            if end > begin and 0 <= last < len(text) and word_at[last] >= 0:
                positions.setdefault((index, word_at[last]), []).append(token)
    return positions


def _word_at(text: str) -> list[int]:
    """The number of the word to which each character belongs, -1 for white space."""
    numbers, word, inside = [], -1, False
    for character in text:
        if character.isspace():
            inside = False
        elif not inside:
            inside, word = True, word + 1
        numbers.append(word if inside else -1)
    return numbers
