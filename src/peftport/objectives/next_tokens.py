"""What a teacher gives as the next token at every place of its answers, as the predictions of one more test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from peftport.hosts.host import Host
from peftport.objectives.answer_tokens import AnswerTokens
from peftport.objectives.base import Head, Row
from peftport.tasks.spec import TaskSpec

KEPT = 32  # tokens of a place that are told apart


class NextTokens(AnswerTokens):
    """The distributions at the places of answers; it trains nothing, and users cannot name it."""

    def __init__(self, host: Host, task: TaskSpec, max_tokens: int, known: int, kept: int = KEPT) -> None:
        """Bind to a host and a task; ``known`` are the ids, from 0, that the student has, too."""
        super().__init__(host, task, max_tokens)
        self.known, self.kept = known, kept

    def predict(self, rows: Sequence[Row], head: Head, shift: int) -> npt.NDArray[Any]:
        """`TokenDistributions` of each row, (N,)."""
        values = np.empty(len(rows), dtype=object)
        for place, each in enumerate(self.likeliest(rows, self.known, self.kept, shift)):
            values[place] = each
        return values

    def finite(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether no probability is NaN, (N,)."""
        return np.array([not np.isnan(each.log_probabilities).any() for each in values], dtype=np.bool_)
