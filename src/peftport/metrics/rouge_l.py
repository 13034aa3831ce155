"""rouge_l: ROUGE-L, the F1 of the longest common subsequence of the words of an answer and its reference.

Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, with the words of the package ``rouge-score`` without
its stemmer: the scores are equal to that package's, which the tests hold it to. It is not imported here, because it
imports all of nltk (seconds) for a stemmer that is not used, and is slow on long answers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar

from peftport.metrics.base import Floats, Predicted
from peftport.metrics.texts import ReferenceMetric, answered, f1_of

_WORD = re.compile("[a-z0-9]+")


class RougeL(ReferenceMetric):
    """ROUGE-L's F-measure of the whole texts; a word is a run of the letters a to z and digits, in lower case.

    Words of other scripts do not count, so that it is not defined where no reference has a word; `chrf` suits those.
    """

    name, title = "rouge_l", "ROUGE-L"
    needs: ClassVar[str] = "generated answers (--generate N) to references that have words of the letters a to z"

    def per_item(self, predictions: Predicted) -> Floats | None:
        """The score of each item that has an answer; None where no reference has a word."""
        has_words = any(_WORD.search(text.lower()) for _, texts in answered(predictions) for text in texts)
        return super().per_item(predictions) if has_words else None

    def against(self, answer: str, reference: str) -> float:
        """The F-measure against one reference."""
        ours, theirs = (_WORD.findall(text.lower()) for text in (answer, reference))
        return f1_of(longest_common_subsequence(ours, theirs), ours, theirs)


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length. A row of the usual table is the bits of one integer (Hyyrö 2004, Bit-parallel LCS)."""
    places = defaultdict[str, int](int)
    for at, word in enumerate(first):
        places[word] |= 1 << at
    full = (1 << len(first)) - 1
    row = full  # a bit is 0 where the table's row rises
    for word in second:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & full
    return len(first) - row.bit_count()
