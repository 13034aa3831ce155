"""How the peers read labels, the same as ours: cosine to label descriptions, or log-probabilities of label words.

Dropout of the frozen host is off for the peers too: it is off on our side, and would only cost them time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from work import Work

TEMPERATURE = 0.05
NO_DROPOUT = {
    "encoder": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "encoder_decoder": {"dropout_rate": 0.0},
}


def load_model(work: Work) -> nn.Module:
    """The bare host, float32, without dropout."""
    auto = transformers.AutoModel if work.kind == "encoder" else transformers.AutoModelForSeq2SeqLM
    return auto.from_pretrained(work.folder, local_files_only=True, **NO_DROPOUT[work.kind]).to(work.device)


def collate(rows: Sequence[Sequence[int]], labels: Sequence[int], pad_id: int) -> dict[str, Tensor]:
    """One batch padded to its longest row."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad_id)
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(labels)}


def on_device(batch: dict[str, Tensor], work: Work) -> dict[str, Tensor]:
    """A batch where the work is done."""
    return {name: tensor.to(work.device) for name, tensor in batch.items()}


class Classifier(nn.Module):
    """A host with somebody's PEFT module on it, and label scores read out of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Scores (N, C), and the mean loss where labels (N,) are given."""
        raise NotImplementedError


class Prototypes(Classifier):
    """Cosine of the mean hidden state to the bare host's embeddings of the label descriptions."""

    def __init__(self, model: nn.Module, prototypes: Tensor) -> None:
        super().__init__(model)
        self.register_buffer("prototypes", prototypes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Cosines over the temperature, cross-entropy over the labels."""
        states = mean_state(self.model, input_ids, attention_mask)
        logits = F.normalize(states, dim=-1) @ self.prototypes.T / TEMPERATURE
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Words(Classifier):
    """Log-odds of one-token label words as the first word that the decoder says."""

    def __init__(self, model: nn.Module, words: Tensor, start_id: int) -> None:
        super().__init__(model)
        self.register_buffer("words", words)
        self.start_id = start_id

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Logits of the label words; cross-entropy over the whole vocabulary."""
        start = torch.full((len(input_ids), 1), self.start_id, device=input_ids.device)
        out = self.model(
            input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=start, use_cache=False
        ).logits[:, 0]
        logits = out[:, self.words]
        if labels is None:
            return {"logits": logits}
        return {"loss": F.cross_entropy(out, self.words[labels]), "logits": logits}


def mean_state(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean of the last hidden states over each row's tokens, (N, D)."""
    hidden = model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)


def prototypes_of(model: nn.Module, work: Work) -> Tensor:
    """Embeddings of the label descriptions by the bare host, (C, D)."""
    batch = on_device(collate(work.label_rows, [0] * len(work.label_rows), work.pad_id), work)
    with torch.no_grad():
        return F.normalize(mean_state(model.eval(), batch["input_ids"], batch["attention_mask"]), dim=-1)


def words_of(work: Work) -> Tensor:
    """Tokens of the label words, (C,)."""
    assert all(len(row) == 1 for row in work.label_rows), "the peers read label words of one token"
    return torch.tensor([row[0] for row in work.label_rows], device=work.device)


def trainable(model: nn.Module) -> int:
    """How many parameters are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


class Items(torch.utils.data.Dataset[dict[str, Any]]):
    """Token rows as a data set; ``by_length``: sorted, so that test batches hold little padding."""

    def __init__(self, rows: list[list[int]], labels: list[int], *, by_length: bool) -> None:
        order = sorted(range(len(rows)), key=lambda i: len(rows[i])) if by_length else range(len(rows))
        self.items = [{"input_ids": rows[i], "labels": labels[i]} for i in order]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index]
