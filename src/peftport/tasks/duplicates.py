"""Which examples say the same: a normal form of texts for exact copies, shingle sets for near ones.

    J(a, b) = |a & b| / |a | b| >= 7/10

a, b: sets of 3-word shingles (Broder 1997, "On the resemblance and containment of documents"), or sets of words where
either text has fewer than 8 different words. Candidates come from prefix filtering (Chaudhuri et al. 2006, "A
primitive operator for similarity joins"): two sets can reach J >= t only if they meet in the ``n - ceil(t n) + 1``
rarest elements of each. No pair is lost: the result is exact.

Before that, texts that can be near none are left out by hashes: what a pair shares stands in two texts, so a text of
which more than 3/10 of the elements stand nowhere else has no partner. Of natural texts few remain. Equal hashes of
different elements only keep a text too many.

Shapes: N texts, F different elements, P candidate pairs.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy import sparse

SHINGLE_WORDS = 3
SHORT_WORDS = 8
SHARED, OUT_OF = 7, 10  # the threshold as a fraction of integers: no rounding decides

# A text near one of fewer than SHORT_WORDS words has at most this many itself.
_MOST_OF_SHORT = (SHORT_WORDS - 1) * OUT_OF // SHARED
_MIX = np.uint64(0x9E3779B97F4A7C15)  # an odd number without pattern (2^64 over the golden ratio)
_MOST_TABLE_BITS = 25  # 32 MiB
_ROWS_AT_ONCE = 1024
_PAIRS_AT_ONCE = 16384
_LARGEST = 2**62
_ONE_WORD_A_CHARACTER = ((0x0E00, 0x0EFF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))

Ints: TypeAlias = npt.NDArray[np.int64]
Hashes: TypeAlias = npt.NDArray[np.uint64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Key: TypeAlias = tuple[str, ...]  # an example's texts in normal form, a field each


class _Folding(dict[int, str]):
    """Punctuation, space and control become a space; Thai, Lao, kana and Han characters become words."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if unicodedata.category(character)[0] in "PZC" or character in "$+<=>^`|~":
            folded = " "
        elif any(low <= code <= high for low, high in _ONE_WORD_A_CHARACTER):
            folded = f" {character} "
        else:
            folded = character
        self[code] = folded
        return folded


_FOLDING = _Folding()
# Of ASCII text NFKC changes nothing and each character becomes one: the same folding, byte by byte.
_FOLDED_BYTES = bytes(ord(_FOLDING[ord(chr(code).casefold())]) if code < 128 else code for code in range(256))


def normalise(text: str) -> str:
    """The text as duplicates are told by: NFKC, case folded, punctuation and runs of space folded to one space.

    Emoji count. A text of punctuation only keeps it, so ``:)`` and ``:(`` stay apart.
    """
    if text.isascii() and (words := text.encode().translate(_FOLDED_BYTES).split()):
        return b" ".join(words).decode()
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(plain.translate(_FOLDING).split()) or " ".join(plain.split())


@dataclass(frozen=True, eq=False)
class _Sets:
    """One set a text, as rows of 0/1 matrices (N, F); the columns run from the rarest element to the commonest."""

    whole: sparse.csr_array  # (N, F)
    rarest: sparse.csr_array  # (N, F), the first n - ceil(t n) + 1 elements of each row
    sizes: Ints  # (N,)

    @classmethod
    def of(cls, rows: Ints, elements: Ints, n: int) -> _Sets:
        """From (row, element) pairs in any order, repeated or not."""
        from scipy import sparse

        _, columns = np.unique(elements, return_inverse=True)
        width = int(columns.max(initial=-1)) + 1
        rows, columns = np.divmod(_sorted_without_repeats(rows * width + columns), max(width, 1))
        rank = np.empty(width, dtype=np.int64)
        rank[np.argsort(np.bincount(columns, minlength=width), kind="stable")] = np.arange(width)
        rows, columns = np.divmod(np.sort(rows * width + rank[columns]), max(width, 1))
        sizes = np.bincount(rows, minlength=n)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        within = np.arange(len(rows)) - starts[rows] < (sizes + 1 + (-SHARED * sizes // OUT_OF))[rows]
        whole = sparse.csr_array((np.ones(len(rows), dtype=np.int32), columns, starts), shape=(n, width))
        kept = np.concatenate([[0], np.cumsum(np.bincount(rows[within], minlength=n))])
        ones = np.ones(int(within.sum()), dtype=np.int32)
        return cls(whole, sparse.csr_array((ones, columns[within], kept), shape=(n, width)), sizes)

    def near(self, rows: Ints, against: Ints, shortest_at_most: int | None = None) -> Iterator[tuple[Ints, Ints]]:
        """Pairs (P,), (P,) of ``rows`` and ``against`` with J >= t; those of two longer sets may be left out."""
        columns = self.rarest[against].T.tocsr()  # (F, M)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            block = rows[start : start + _ROWS_AT_ONCE]
            left, right = (self.rarest[block] @ columns).nonzero()
            for a, b in self._plausible(block[left], against[right], shortest_at_most):
                alike = self.alike(a, b)
                yield a[alike], b[alike]

    def alike(self, a: Ints, b: Ints) -> Bools:
        """Which of the pairs (P,), (P,) have J >= t; two empty sets are not alike."""
        shared = np.asarray(self.whole[a].multiply(self.whole[b]).sum(axis=1))  # (P,)
        union = self.sizes[a] + self.sizes[b] - shared
        similar: Bools = (OUT_OF * shared >= SHARED * union) & (shared > 0)
        return similar

    def _plausible(self, a: Ints, b: Ints, shortest_at_most: int | None) -> Iterator[tuple[Ints, Ints]]:
        """Candidate pairs (P,), (P,) whose sizes permit J >= t, a bounded number at a time."""
        small, large = np.minimum(self.sizes[a], self.sizes[b]), np.maximum(self.sizes[a], self.sizes[b])
        keep = OUT_OF * small >= SHARED * large
        if shortest_at_most is not None:
            keep &= small <= shortest_at_most
        a, b = a[keep], b[keep]
        for start in range(0, len(a), _PAIRS_AT_ONCE):
            yield a[start : start + _PAIRS_AT_ONCE], b[start : start + _PAIRS_AT_ONCE]


def _sorted_without_repeats(values: Ints) -> Ints:
    """What np.unique returns, whose hash table takes a hundred times as long on millions of large numbers."""
    ordered = np.sort(values)
    different: Bools = np.diff(ordered, prepend=-1) != 0  # values are not negative
    return ordered[different]


def _ngrams(tokens: Ints, owners: Ints, size: int) -> tuple[Ints, Ints]:
    """Each run of ``size`` tokens of one text, as (text, number of the n-gram); equal numbers are equal n-grams."""
    starts, grams = np.arange(len(tokens)), tokens
    width = int(tokens.max(initial=0)) + 1
    for ahead in range(1, size):
        inside = starts < len(tokens) - ahead
        starts, grams = starts[inside], grams[inside]
        together = owners[starts] == owners[starts + ahead]
        starts, grams = starts[together], grams[together]
        if int(grams.max(initial=0)) >= _LARGEST // width:  # the product would overflow: number from 0 again
            _, grams = np.unique(grams, return_inverse=True)
        grams = grams * width + tokens[starts + ahead]
    return owners[starts], grams


class Shingles:
    """The word and shingle sets of N normalised texts, ready to be compared."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Collect the sets of ``keys``, which ``normalise`` made."""
        vocabulary: defaultdict[str, int] = defaultdict()
        vocabulary.default_factory = vocabulary.__len__  # a new word gets the next number
        numbers, lengths, different = array("q"), [], []
        for key in keys:
            words = key.split(" ")
            numbers.extend(map(vocabulary.__getitem__, words))
            lengths.append(len(words))
            different.append(len(set(words)))
        tokens, distinct = np.array(numbers, dtype=np.int64), np.array(different, dtype=np.int64)
        owners = np.repeat(np.arange(len(keys)), lengths)
        few = (distinct <= _MOST_OF_SHORT)[owners]
        many = (distinct >= SHORT_WORDS)[owners]
        self._words = _Sets.of(owners[few], tokens[few], len(keys))
        self._shingles = _Sets.of(*_ngrams(tokens[many], owners[many], SHINGLE_WORDS), len(keys))

    def near(self, rows: Ints, against: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Pairs (P,), (P,) of the texts ``rows`` and the texts ``against`` that are near-duplicates."""
        yield from self._words.near(rows, against, SHORT_WORDS - 1)
        yield from self._shingles.near(rows, against)

    def alike(self, a: Ints, b: Ints) -> Bools:
        """Which of the pairs of texts (P,), (P,) are near-duplicates."""
        short = np.minimum(self._words.sizes[a], self._words.sizes[b]) < SHORT_WORDS
        return (short & self._words.alike(a, b)) | self._shingles.alike(a, b)


def may_be_near(keys: Sequence[str]) -> Bools:
    """Which of the texts may have a near-duplicate among the others, (N,): all that have one, and some more."""
    import polars

    split = polars.Series(keys, dtype=polars.String).str.split(" ")
    lengths = split.list.len().to_numpy().astype(np.int64)  # (N,)
    owners = np.repeat(np.arange(len(keys)), lengths)
    words = split.explode().hash().to_numpy()  # (words of all texts,)
    within = owners[:-2] == owners[2:]
    shingles = ((words[:-2] * _MIX + words[1:-1]) * _MIX + words[2:])[within]  # modulo 2^64
    near = _mostly_shared(shingles, owners[:-2][within], len(keys))
    few = split.list.head(2 * _MOST_OF_SHORT).list.n_unique().to_numpy() <= _MOST_OF_SHORT
    of_few = few[owners]
    return near | _mostly_shared(words[of_few], owners[of_few], len(keys))


def _mostly_shared(hashes: Hashes, owners: Ints, n: int) -> Bools:
    """Which of N texts have at most 3/10 elements that are found once among all, and have any.

    Asked again of those that are found, until they stay about as many: their partners are among them.
    """
    kept, before = n, 2 * n + 1
    while True:
        sizes = np.bincount(owners, minlength=n)
        ordered = np.sort(hashes)
        bits = min(len(hashes).bit_length() + 3, _MOST_TABLE_BITS)
        table, shift = np.zeros(2**bits, dtype=np.bool_), np.uint64(64 - bits)
        table[ordered[1:][ordered[1:] == ordered[:-1]] >> shift] = True
        alone = np.bincount(owners[~table[hashes >> shift]], minlength=n)
        shared: Bools = (OUT_OF * alone <= (OUT_OF - SHARED) * sizes) & (sizes > 0)
        before, kept = kept, int(shared.sum())
        if 10 * kept >= 9 * before:
            return shared
        still = shared[owners]
        hashes, owners = hashes[still], owners[still]


class Likeness:
    """Which of N examples say the same: all their fields do, each compared with the same field of the other."""

    def __init__(self, keys: Sequence[Key]) -> None:
        """Collect the word and shingle sets of every field, of the examples that may be near another."""
        fields = list(zip(*keys, strict=True)) or [()]
        rows = np.flatnonzero(np.logical_and.reduce([may_be_near(texts) for texts in fields]))
        self._number = np.full(len(keys), len(rows), dtype=np.int64)  # (N,), the last number is that of all others
        self._number[rows] = np.arange(len(rows))
        self._others_number = len(rows)
        # Candidates come from the field that tells the most apart: a premise may be that of many hypotheses.
        order = sorted(range(len(fields)), key=lambda field: -len(set(fields[field])))
        self._first, *self._others = [Shingles([fields[field][row] for row in rows]) for field in order]

    def near(self, rows: Ints, against: Ints) -> Bools:
        """Which of the examples ``rows`` (indices) are near-duplicates of one of ``against``; (len(rows),)."""
        duplicate = np.zeros(self._others_number + 1, dtype=np.bool_)
        mine, theirs = self._number[rows], self._number[against]
        kept = (each[each < self._others_number] for each in (mine, theirs))
        for a, b in self._first.near(*kept):
            for other in self._others:
                alike = other.alike(a, b)
                a, b = a[alike], b[alike]
            duplicate[a] = True
        return duplicate[mine]


def near_examples(keys: Sequence[Key], against: Sequence[Key]) -> Bools:
    """Which of N examples are near-duplicates of any of the other examples, all given in normal form; (N,)."""
    both = Likeness([*keys, *against])
    return both.near(np.arange(len(keys)), np.arange(len(keys), len(keys) + len(against)))
