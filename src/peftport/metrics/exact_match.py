"""exact_match: the share of generated answers that are one of their references, after `texts.normalised`."""

from __future__ import annotations

from peftport.metrics.texts import ReferenceMetric, normalised


class ExactMatch(ReferenceMetric):
    """1 for an answer that is the reference but for case, white space and a full stop at its end, else 0.

    SQuAD's exact match (Rajpurkar et al. 2016, arXiv 1606.05250) takes away all punctuation and the articles too. That
    is not done here, since it takes ``-5`` for ``5`` and the choice ``A`` for nothing; `token_f1` does as SQuAD does.
    """

    name, title = "exact_match", "exact match"

    def against(self, answer: str, reference: str) -> float:
        """Whether the two are equal after normalisation."""
        return float(normalised(answer) == normalised(reference))
