"""A fresh `peft` module on a host, with the settings that the work asks for."""

from __future__ import annotations

from classify import Classifier, Prototypes, Words, load_model, prototypes_of, words_of
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from peft.config import PeftConfig
from work import Work

TARGETS = {"encoder": ["query", "value"], "encoder_decoder": ["q", "v"]}


def fresh_classifier(work: Work) -> Classifier:
    """Load the host and put a fresh module on it."""
    model = load_model(work)
    if work.kind == "encoder":
        prototypes = prototypes_of(model, work)
        return Prototypes(get_peft_model(model, _config(work)), prototypes)
    return Words(get_peft_model(model, _config(work)), words_of(work), work.start_id)


def _config(work: Work) -> PeftConfig:
    settings = work.settings
    if work.technique == "lora":
        return LoraConfig(r=settings["rank"], lora_alpha=settings["alpha"], target_modules=TARGETS[work.kind])
    assert (work.technique, work.kind) == ("prefix", "encoder"), "peft has no such technique on such a host"
    return PrefixTuningConfig(
        task_type="FEATURE_EXTRACTION",
        num_virtual_tokens=settings["length"],
        prefix_projection=True,
        encoder_hidden_size=settings["hidden"],
    )
