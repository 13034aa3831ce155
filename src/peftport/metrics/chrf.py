"""chrf: chrF, the F-score of the character n-grams of an answer and its reference, by sacrebleu."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from peftport.metrics.texts import TextMetric


class Chrf(TextMetric):
    """chrF2 of each answer, as a share (Popović 2015, WMT): sacrebleu's sentence-level score over 100.

    n-grams of 1 to 6 characters without white space, recall weighing twice as much as precision. It needs no words, so
    it suits every language. All answers weigh the same, while in sacrebleu's corpus-level chrF long ones weigh more.
    """

    name, title = "chrf", "chrF"

    def score(self, answer: str, references: tuple[str, ...]) -> float:
        """The best score over the references, as sacrebleu takes it."""
        return float(self._chrf.sentence_score(answer, list(references)).score) / 100

    @cached_property
    def _chrf(self) -> Any:
        from sacrebleu.metrics.chrf import CHRF

        return CHRF()
