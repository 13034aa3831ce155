"""The head that predicts masked tokens of an encoder which has none of its own, while its pretraining is continued."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedTokenHead(nn.Module):
    """A fresh masked-LM head as BERT's: logits = LN(gelu(h W^T + c)) E^T + b, where E are the word embeddings."""

    def __init__(self, width: int, embeddings: Tensor, rng: np.random.Generator) -> None:
        """Draw W (D_E, D) from normal(0, 0.02), LN the identity, biases zero; embeddings (V, D_E) are the host's."""
        super().__init__()
        tokens, narrow = embeddings.shape
        start = torch.from_numpy(rng.normal(0.0, 0.02, size=(narrow, width)))
        self.weight, self.bias = nn.Parameter(start.to(embeddings)), nn.Parameter(embeddings.new_zeros(narrow))
        self.scale, self.shift = nn.Parameter(embeddings.new_ones(narrow)), nn.Parameter(embeddings.new_zeros(narrow))
        self.token_bias = nn.Parameter(embeddings.new_zeros(tokens))

    def forward(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """Return the logits (N, V) of the hidden states (N, D)."""
        narrow = F.gelu(F.linear(hidden, self.weight, self.bias))  # (N, D_E)
        return F.linear(F.layer_norm(narrow, self.bias.shape, self.scale, self.shift), embeddings, self.token_bias)
