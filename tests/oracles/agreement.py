"""What the oracle tests share: batches, random matrices, a run of our side, and how far two runs are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peftport.hosts.host import Host
from peftport.modules.module import Module
from peftport.objectives.base import decoder_inputs, pad
from peftport.techniques import technique_named
from peftport.techniques.attach import attached
from peftport.techniques.base import Parameters, TechniqueSpec

ROWS = ((9, 5, 20, 7, 11, 1), (6, 14, 1), (8, 21, 10, 5, 1))
ANSWERS = ((0, 5, 17, 8), (0, 12, 6, 9), (0, 7, 22, 1))
# Relative to the largest entry of an output, or of the gradients of a slot: a bias's gradient is a sum in which most
# cancels, so that its own size says nothing about its rounding.
TOLERANCE = 1e-5
HIDDEN = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")


@dataclass(frozen=True)
class Run:
    """Outputs (logits and every hidden state) by name, and the loss's gradient by slot and matrix."""

    outputs: dict[str, Tensor]
    gradients: Parameters


def batch(host: Host, shift: int = 0) -> dict[str, Any]:
    """Three rows of unequal length, padded as the project pads them."""
    if host.kind == "decoder":
        return decoder_inputs(host, ROWS, shift)
    inputs = pad(ROWS, host.tokenizer.pad_token_id, host.device)
    if host.kind == "encoder_decoder":
        inputs["decoder_input_ids"] = torch.tensor(ANSWERS)
    return inputs


def loss_weight(host: Host, inputs: Mapping[str, Any], seed: int = 7) -> Tensor:
    """A fixed random weight for every logit, (B, T, V) or (B, T, D); zero at padded places."""
    rows = inputs.get("decoder_input_ids", inputs["input_ids"])
    width = host.model.lm_head.out_features if hasattr(host.model, "lm_head") else host.config.vocab_size
    weight = torch.randn(*rows.shape, width, generator=torch.Generator().manual_seed(seed))
    return weight if "decoder_input_ids" in inputs else weight * inputs["attention_mask"].unsqueeze(-1)


def random_matrices(host: Host, spec: TechniqueSpec, seed: int = 3) -> Parameters:
    """Trainable parameters as the technique starts them, every number replaced by one from N(0, 0.3^2)."""
    technique = technique_named(spec.kind)
    start = technique.start(spec, technique.slots(spec, host.slots), seed)
    generator = torch.Generator().manual_seed(seed)
    return {
        slot: {name: 0.3 * torch.randn(tensor.shape, generator=generator) for name, tensor in own.items()}
        for slot, own in start.items()
    }


def random_module(host: Host, spec: TechniqueSpec, seed: int = 3) -> Module:
    """A module of random matrices."""
    return Module(spec, host.fingerprint, random_matrices(host, spec, seed))


def run(host: Host, spec: TechniqueSpec | None, matrices: Parameters, inputs: Mapping[str, Any], weight: Tensor) -> Run:
    """Our side: attach the matrices as one entry, run forward, and differentiate sum(logits * weight)."""
    stacked = {
        slot: {name: t[None].clone().requires_grad_() for name, t in own.items()} for slot, own in matrices.items()
    }
    made: Any = stacked
    if spec is not None:
        technique = technique_named(spec.kind)
        made = technique.materialise(spec, technique.slots(spec, host.slots), stacked)
    with attached(host, spec, made):
        outputs = named_outputs(host.model(**inputs, output_hidden_states=True))
        if stacked:
            (outputs["logits"] * weight).sum().backward()
    gradients = {slot: {name: t.grad[0] for name, t in own.items()} for slot, own in stacked.items()}
    return Run({name: tensor.detach() for name, tensor in outputs.items()}, gradients)


def outputs_with(host: Host, module: Module | None, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Outputs of the host with a module, or of the bare host."""
    matrices = module.matrices if module is not None else {}
    stacked = {slot: {name: t[None] for name, t in own.items()} for slot, own in matrices.items()}
    with torch.no_grad(), attached(host, module.spec if module is not None else None, stacked):
        return named_outputs(host.model(**inputs, output_hidden_states=True))


def named_outputs(output: Any) -> dict[str, Tensor]:
    """``logits`` (the last hidden state of a model without a head) and ``hidden_states.2`` and so on."""
    logits = output.logits if "logits" in output else output.last_hidden_state
    named = {"logits": logits}
    for kind in HIDDEN:
        named.update({f"{kind}.{index}": state for index, state in enumerate(output.get(kind) or ())})
    return named


def worst_output(inputs: Mapping[str, Any], ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Largest difference of any output at places that hold text, relative to the output's largest entry."""
    assert ours.keys() == theirs.keys()
    mask = inputs["attention_mask"].bool()
    worst = 0.0
    for name, mine in ours.items():
        decoded = "decoder_input_ids" in inputs and not name.startswith("encoder")
        pair = (mine, theirs[name]) if decoded else (mine[mask], theirs[name][mask])
        worst = max(worst, difference(*pair))
    return worst


def worst_gradient(ours: Parameters, theirs: Parameters) -> float:
    """Largest difference of any gradient, relative to the largest entry of its slot's gradients."""
    assert ours.keys() == theirs.keys()
    worst = 0.0
    for slot, own in ours.items():
        assert own.keys() == theirs[slot].keys()
        scale = max(float(tensor.abs().max()) for tensor in theirs[slot].values())
        worst = max([worst, *(difference(gradient, theirs[slot][name], scale) for name, gradient in own.items())])
    return worst


def difference(ours: Tensor, theirs: Tensor, scale: float | None = None) -> float:
    """max |ours - theirs| / scale, by default max |theirs|. Zeros agree with nothing: they would prove nothing."""
    assert ours.shape == theirs.shape
    assert float(theirs.abs().max()) > 1e-6
    return float((ours - theirs).abs().max()) / (scale or float(theirs.abs().max()))
