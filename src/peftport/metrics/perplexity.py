"""perplexity: how many tokens the host hesitates between, on average, at each token of the reference answers."""

from __future__ import annotations

import math

import numpy as np

from peftport.metrics.base import Floats, Metric, Predicted


class Perplexity(Metric):
    """The exponential of the mean negative log-likelihood of a token, over all tokens of the test.

    Tokens, not items, weigh the same, as is usual in language modelling (Jelinek et al. 1977). It depends on the
    tokenizer: hosts with different ones are to be compared by the negative log-likelihood.
    """

    name, title, higher_is_better = "perplexity", "perplexity", False
    kinds, bounds = ("completion",), (1.0, float("inf"))

    def aggregate(self, predictions: Predicted) -> float | None:
        """None where there is no token, and where the value is beyond the range of floating-point numbers."""
        tokens = int(predictions.values["tokens"].sum())
        try:
            return math.exp(-float(predictions.values["log_likelihood"].sum()) / tokens) if tokens else None
        except OverflowError:
            return None

    def on_counts(self, predictions: Predicted, counts: Floats) -> Floats:
        """From the log-likelihoods and tokens of the items, (B,)."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            value = np.exp(-(counts @ predictions.values["log_likelihood"]) / (counts @ predictions.values["tokens"]))
        return np.where(np.isfinite(value), value, np.nan)
