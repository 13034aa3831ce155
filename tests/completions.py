"""Predictions of a completion task: answers and references that a test names, with drawn likelihoods."""

from __future__ import annotations

import numpy as np

from peftport.metrics.base import ANSWER
from peftport.tasks.spec import Predictions


class Completions(Predictions):
    kind = "completion"


def completions(answers: list[str | None], references: list[tuple[str, ...]], seed: int = 0) -> Completions:
    rng = np.random.default_rng(seed)
    values, targets = np.empty(len(answers), ANSWER), np.empty(len(answers), object)
    values["log_likelihood"], values["tokens"] = -rng.gamma(2, 3, len(answers)), rng.integers(1, 9, len(answers))
    values["text"], targets[:] = answers, references
    return Completions(values, targets)
