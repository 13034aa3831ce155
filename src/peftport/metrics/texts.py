"""What metrics of generated answers share: which items have an answer, how texts are normalised, the best reference.

A metric of texts never computes an answer's score twice: it keeps the scores of the pairs that it saw last, as arms and
seeds often give the same answer and several tables ask for the same test.
"""

from __future__ import annotations

import unicodedata
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np

from peftport.metrics.base import Floats, Metric, Predicted

KEPT = 2**15  # scores of pairs of an answer and its references that a metric remembers
FULL_STOPS = (".", "\N{IDEOGRAPHIC FULL STOP}")


class TextMetric(Metric):
    """A metric of generated answers: the mean of a score of each answer against its references.

    Items for which nothing was generated are left out; where nothing was generated at all, it is not defined.
    """

    kinds = ("completion",)
    needs: ClassVar[str] = "generated answers (--generate N)"

    def __init__(self) -> None:
        """Begin with no score known."""
        self._score = lru_cache(maxsize=KEPT)(self.score)

    @abstractmethod
    def score(self, answer: str, references: tuple[str, ...]) -> float:
        """The score of an answer against one or more references."""

    def per_item(self, predictions: Predicted) -> Floats | None:
        """The score of each item that has an answer, in the order of the items; None where none has."""
        answers = answered(predictions)
        return np.array([self._score(*each) for each in answers], dtype=np.float64) if answers else None


class ReferenceMetric(TextMetric):
    """A metric that compares an answer with one reference; of several the best counts."""

    def score(self, answer: str, references: tuple[str, ...]) -> float:
        """The best score over the references."""
        return max(self.against(answer, reference) for reference in references)

    @abstractmethod
    def against(self, answer: str, reference: str) -> float:
        """The score of an answer against one reference."""


def answered(predictions: Predicted) -> list[tuple[str, tuple[str, ...]]]:
    """The answer and the references of each item for which an answer was generated, in the order of the items."""
    pairs = zip(predictions.values["text"], predictions.targets, strict=True)
    return [(answer, tuple(references)) for answer, references in pairs if answer is not None]


def normalised(text: str) -> str:
    """A text as answers are compared: what does not make another answer of it is taken away, and nothing else.

    Unicode's composed form (NFC), cases folded, each run of white space one space, none at the ends, and without one
    full stop at the end. Other punctuation, articles and signs stay: ``-5`` is not ``5``, ``3.5`` is not ``35``,
    ``x[0]`` is not ``x0``, and ``A`` may be the answer. NFC and not NFKC, which makes ``102`` of ten squared.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    plain = " ".join(folded.split())
    return plain[:-1].rstrip() if len(plain) > 1 and plain.endswith(FULL_STOPS) else plain


def f1_of(common: int, answer: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of an answer's tokens of which ``common`` are also the reference's; 0 where none is."""
    return 2 * common / (len(answer) + len(reference)) if common else 0.0
