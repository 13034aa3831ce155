"""What an unknown word may mean: one of the known words, spelt otherwise, or under another library's name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# What PEFT, adapters and transformers call it, by our word.
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "adapter": ("bottleneck", "houlsby", "pfeiffer", "double_seq_bn", "seq_bn"),
    "prefix": ("prefix_tuning", "prefixtuning"),
    "rank": ("r", "lora_r"),
    "alpha": ("lora_alpha", "scaling"),
    "sites": ("target_modules", "modules", "target"),
    "length": ("num_virtual_tokens", "prefix_length", "prefix_len"),
    "reduction_factor": ("reduction", "bottleneck_size"),
    "activation": ("non_linearity",),
    "learning_rate": ("lr", "rate"),
    "steps": ("max_steps", "num_steps", "epochs", "num_train_epochs"),
    "batch_size": ("bs", "batch", "per_device_train_batch_size"),
    "max_tokens": ("max_length", "max_seq_length"),
    "test_items": ("items", "max_eval_samples"),
    "out": ("output", "output_dir", "save_dir"),
    "to": ("receiver", "target_host", "base_model"),
    "seeds": ("seed",),
    "accuracy": ("acc",),
    "macro_f1": ("f1",),
    "auroc": ("auc", "roc_auc"),
    "matthews": ("mcc",),
}
# Names that a hub once had without an organisation, as it has them now.
HUB_NAMES: dict[str, tuple[str, ...]] = {
    "google-bert": (
        "bert-base-cased", "bert-base-chinese", "bert-base-german-cased", "bert-base-multilingual-cased",
        "bert-base-multilingual-uncased", "bert-base-uncased", "bert-large-cased", "bert-large-uncased",
    ),
    "FacebookAI": ("roberta-base", "roberta-large", "xlm-roberta-base", "xlm-roberta-large"),
    "distilbert": (
        "distilbert-base-cased", "distilbert-base-multilingual-cased", "distilbert-base-uncased", "distilgpt2",
        "distilroberta-base",
    ),
    "openai-community": ("gpt2", "gpt2-large", "gpt2-medium", "gpt2-xl"),
    "google-t5": ("t5-11b", "t5-3b", "t5-base", "t5-large", "t5-small"),
    "albert": ("albert-base-v1", "albert-base-v2", "albert-large-v2", "albert-xlarge-v2", "albert-xxlarge-v2"),
    "almanach": ("camembert-base",),
}  # fmt: skip
ON_A_HUB = {name: f"{organisation}/{name}" for organisation, names in HUB_NAMES.items() for name in names}
MEANT = {other: word for word, others in OTHER_NAMES.items() for other in others}


def guess(name: str, known: Iterable[str]) -> str | None:
    """Return the known word that ``name`` means: but for case and signs, by another name, or nearly so spelt."""
    plain = {_plain(word): word for word in sorted(known)}
    asked = _plain(name)
    meant = _plain(MEANT.get(asked, ""))
    near = [each for each in (asked, meant) if each in plain] or difflib.get_close_matches(asked, plain, n=1)
    return plain[near[0]] if near else None


def _plain(word: str) -> str:
    return word.casefold().replace("-", "_").strip("_ ")
