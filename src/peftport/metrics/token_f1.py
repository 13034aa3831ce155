"""token_f1: the F1 of the words that a generated answer shares with its reference, as SQuAD has it."""

from __future__ import annotations

import re
import string
from collections import Counter

from peftport.metrics.texts import ReferenceMetric, f1_of, normalised

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


class TokenF1(ReferenceMetric):
    """F1 of the words of an answer and its reference, each as often as it occurs (Rajpurkar et al. 2016).

    Words are those of SQuAD's normalisation. Of a reference that has none left, such as ``A`` or ``?``, the answer is
    either the whole (`exact_match`) or nothing; SQuAD's own script takes any two such texts for the same.
    """

    name, title = "token_f1", "token F1"

    def against(self, answer: str, reference: str) -> float:
        """The F1 against one reference."""
        ours, theirs = squad_words(answer), squad_words(reference)
        if not theirs:
            return float(normalised(answer) == normalised(reference))
        return f1_of((Counter(ours) & Counter(theirs)).total(), ours, theirs)


def squad_words(text: str) -> list[str]:
    """The words of a text in lower case, without ASCII punctuation and the articles a, an, the."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()
