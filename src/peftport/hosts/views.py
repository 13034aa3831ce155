"""The transformers class that loads each view of a host: its body, its language-model head or its trained head."""

from __future__ import annotations

from typing import Any

from peftport.core.libraries import transformers
from peftport.hosts.host import View
from peftport.hosts.layouts import HostKind, Layout

AUTO: dict[tuple[HostKind, View], str] = {
    ("encoder", "body"): "AutoModel",
    ("encoder", "language_model"): "AutoModelForMaskedLM",
    ("encoder", "sequence_classification"): "AutoModelForSequenceClassification",
    ("encoder_decoder", "body"): "AutoModelForSeq2SeqLM",
    ("encoder_decoder", "language_model"): "AutoModelForSeq2SeqLM",
    ("encoder_decoder", "sequence_classification"): "AutoModelForSequenceClassification",
    ("decoder", "body"): "AutoModel",
    ("decoder", "language_model"): "AutoModelForCausalLM",
    ("decoder", "sequence_classification"): "AutoModelForSequenceClassification",
}
HEADS: dict[View, str] = {
    "language_model": "a language-model head",
    "sequence_classification": "a trained head for labels",
}


def auto_class(layout: Layout, view: View) -> Any:
    """Return transformers' Auto class that loads a view of the hosts of a family."""
    name = AUTO[layout.kind, view]
    if view == "body" and (layout.body or not layout.reads_texts):
        name = layout.body or "AutoModel"
    return getattr(transformers, name)


def has_class(layout: Layout, view: View, config: Any) -> bool:
    """Return whether transformers has a class for a view of a model with this configuration."""
    return type(config) in auto_class(layout, view)._model_mapping
