"""Peer (c): the `adapters` library and its AdapterTrainer, in the environment that `make oracle` makes.

.oracle-venv/bin/python adapters_trainer.py WORK.json RESULT.json
"""

from __future__ import annotations

from typing import Any

import adapters
from adapters import AdapterTrainer
from classify import Classifier, Prototypes, Words, load_model, prototypes_of, words_of
from hf_loop import all_runs
from torch import nn
from work import Work, read_work, write_done

NAME = "module"


class TrainerOfOneModule(AdapterTrainer):
    """AdapterTrainer finds this out for transformers' own classes only."""

    train_adapter_fusion = False


def fresh_classifier(work: Work) -> Classifier:
    """Load the host and put a fresh module on it."""
    model: Any = load_model(work)
    prototypes = prototypes_of(model, work) if work.kind == "encoder" else None
    adapters.init(model)
    model.add_adapter(NAME, config=_config(work))
    model.train_adapter(NAME)
    if prototypes is not None:
        return _told_by_host(Prototypes(model, prototypes), model)
    return _told_by_host(Words(model, words_of(work), work.start_id), model)


def _told_by_host(classifier: Classifier, model: nn.Module) -> Classifier:
    """AdapterTrainer asks its model for these two; the classifier around the host passes them on."""
    classifier.active_adapters = model.active_adapters
    classifier.base_model = model.base_model
    return classifier


def _config(work: Work) -> adapters.AdapterConfig:
    s: dict[str, Any] = work.settings
    if work.technique == "adapter":
        assert s["placement"] == "houlsby"
        return adapters.DoubleSeqBnConfig(reduction_factor=s["reduction_factor"], non_linearity=s["activation"])
    if work.technique == "compacter":
        return adapters.CompacterConfig(
            phm_dim=s["phm_dim"],
            phm_rank=s["phm_rank"],
            reduction_factor=s["reduction_factor"],
            non_linearity=s["activation"],
        )
    if work.technique == "prefix":
        return adapters.PrefixTuningConfig(prefix_length=s["length"], bottleneck_size=s["hidden"], dropout=0.0)
    assert work.technique == "lora"
    return adapters.LoRAConfig(r=s["rank"], alpha=s["alpha"])


if __name__ == "__main__":
    write_done(all_runs(read_work(), fresh_classifier, TrainerOfOneModule))
