"""No work below the lowest slot: nothing before it is part of any gradient, everything behind it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from peftport.hosts.host import Host
from peftport.objectives import bind_objective
from peftport.techniques import TECHNIQUES, technique_named
from peftport.techniques.base import TechniqueSpec
from peftport.techniques.lora import LoraSpec
from peftport.training.loop import Entry, TrainSettings, entry_loss, train_entries
from pico import SPECS, TOY, pico_host

# The lowest place that a technique changes; what is computed before it needs no gradient.
LOWEST = {
    "bert": {"lora": "encoder.layer.0.attention.self.query", "adapter": "encoder.layer.0.attention.output.dense"},
    "llama": {"lora": "layers.0.self_attn.q_proj", "adapter": "layers.0.self_attn.o_proj"},
    "t5": {"lora": "encoder.block.0.layer.0.SelfAttention.q", "adapter": "encoder.block.0.layer.0.SelfAttention.o"},
}
ABOVE = {"bert": "encoder.layer.1.", "llama": "layers.1.", "t5": "encoder.block.1."}
READOUT = {"bert": "prototype", "llama": "label_tokens", "t5": "label_tokens"}


def an_entry(host: Host, spec: TechniqueSpec) -> Entry:
    made = technique_named(spec.kind)
    start = made.start(spec, made.slots(spec, host.slots), 0)
    return Entry(start, [(7, 9, 8)] * 4, np.array([0, 1, 0, 1]), 0, 1e-2)


def needs_gradient(host: Host, readout: Any, spec: TechniqueSpec) -> dict[str, bool]:
    """Every linear map and embedding that ran, in the order of running, and whether its input needs a gradient."""
    seen: dict[str, bool] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[name] = args[0].requires_grad

        return hook

    maps = {name: m for name, m in host.base.named_modules() if isinstance(m, nn.Linear | nn.Embedding)}
    handles = [module.register_forward_pre_hook(note(name)) for name, module in maps.items()]
    entry_loss(host, readout, spec, an_entry(host, spec), np.arange(4)).sum().backward()  # type: ignore[no-untyped-call]
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("model_type", LOWEST)
def test_nothing_before_the_lowest_slot_needs_a_gradient(model_type: str, technique: str) -> None:
    host = pico_host(model_type, view="language_model" if READOUT[model_type] == "label_tokens" else "body")
    seen = needs_gradient(host, bind_objective(READOUT[model_type], host, TOY), SPECS[technique])
    names = list(seen)
    by_slot = {"compacter": "adapter"}.get(technique, technique)
    lowest = LOWEST[model_type].get(by_slot)
    first = next(name for name in names if seen[name])
    if lowest is not None:
        assert not seen[lowest], "the input of the lowest slot itself comes from the bare host"
        assert names.index(first) > names.index(lowest)
    assert not any(seen[name] for name in names[: names.index(first)])
    above = [name for name in names if name.startswith(ABOVE[model_type])]
    assert above and all(seen[name] for name in above)


def test_a_module_in_the_decoder_leaves_the_encoder_alone() -> None:
    """Cross attention lies in the decoder: no layer of the encoder needs a gradient."""
    host = pico_host("t5")
    seen = needs_gradient(host, bind_objective("label_tokens", host, TOY), LoraSpec(rank=2, sites=("cross_v",)))
    encoder = [name for name in seen if name.startswith("encoder.")]
    assert len(encoder) > 10 and not any(seen[name] for name in encoder)
    assert any(seen[name] for name in seen if name.startswith("decoder.block.1"))


def test_frozen_weights_get_no_gradient_and_take_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step multiplies forward, and backward by weights: never activations by gradients for a frozen matrix."""
    from torch.utils.flop_counter import FlopCounterMode

    host = pico_host("llama", num_hidden_layers=2)
    readout, spec = bind_objective("label_tokens", host, TOY), LoraSpec(rank=1, sites=("attn_q",))
    entry = an_entry(host, spec)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        entry_loss(host, readout, spec, entry, np.arange(4))
    with FlopCounterMode(display=False) as step:
        train_entries(host, readout, spec, [entry], [1], TrainSettings(batch_size=4))
    assert forward.get_total_flops() > 0
    assert step.get_total_flops() < 2.2 * forward.get_total_flops()  # with the weights' own gradients it would be 3
