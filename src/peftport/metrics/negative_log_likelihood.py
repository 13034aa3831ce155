"""negative_log_likelihood: how improbable the reference answer is to the host, in nats for the whole answer."""

from __future__ import annotations

from peftport.metrics.base import Floats, Metric, Predicted


class NegativeLogLikelihood(Metric):
    """Mean over the items of minus the log-probability of the whole first reference, its end token included.

    It is of the whole text and not of a token, so hosts with different tokenizers can be compared by it: each spends
    its probability on the same text, in the tokens that its own tokenizer makes of it.
    """

    name, title, higher_is_better = "negative_log_likelihood", "negative log-likelihood", False
    kinds, bounds = ("completion",), (0.0, float("inf"))

    def per_item(self, predictions: Predicted) -> Floats:
        """Nats of each item's answer, (N,)."""
        nats: Floats = -predictions.values["log_likelihood"]
        return nats
