"""gradfix: keep the entries of an update whose sign lowers the receiver's loss (GradFix, arXiv 2510.09658).

    vote = sum over examples of sign(g)        M' = M where M has the sign of -vote, else 0

From the paper: the mask, which is the sign of the gradient of the receiver's loss at its own weights, decided by
majority over a few labelled examples. The paper masks whole weight matrices. Ours: the mask is applied to the matrices
in which a module's update is linear (LoRA's B, an adapter's up, a Compacter's up_right), and the gradient is taken
where they are zero, that is, at the bare receiver. So the rank or the bottleneck does not change. A prefix has no such
matrices, since even keys and values of zero change the host. Where no loss reaches a slot, nothing is masked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from peftport.core.errors import BadRequest
from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.modules.module import HEAD, Module, stack
from peftport.porting.alignment.gradients import check_gradients
from peftport.porting.base import Fits, PortedMatrices, Porter, PortInputs
from peftport.techniques import technique_named
from peftport.techniques.attach import attached
from peftport.techniques.base import Parameters, Technique

if TYPE_CHECKING:
    from torch import Tensor


class GradFix(Porter):
    """The module, masked by the sign of the receiver's gradient."""

    name = "gradfix"
    title = "entries kept whose sign the receiver's gradient asks for"
    source = "GradFix, arXiv 2510.09658"
    needs = "labels"
    fits = Fits(width="same", depth="same")

    @override
    def cannot_carry(self, technique: Technique[Any]) -> str:
        return "" if technique.can_be_left_out else "its matrices change the host even where they are zero"

    @override
    def carry(self, module: Module, receiver: Host, rng: np.random.Generator, inputs: PortInputs) -> PortedMatrices:
        votes, examples = _votes(module, receiver, inputs)
        made: Parameters = {slot: dict(named) for slot, named in module.matrices.items()}
        notes = {slot: "copied" for slot in made}
        for slot, named in votes.items():
            if not named:
                notes[slot] = "copied: the loss does not reach it"
                continue
            kept = total = 0
            for name, vote in named.items():
                matrix = made[slot][name]
                mask = matrix.sign() == -vote.sign().to(matrix)
                made[slot][name] = torch.where(mask, matrix, 0.0)
                kept, total = kept + int((mask & (matrix != 0)).sum()), total + int((matrix != 0).sum())
            notes[slot] = f"masked: {kept} of {total} entries kept by {examples} examples"
        return PortedMatrices(made, notes)


def _votes(module: Module, receiver: Host, inputs: PortInputs) -> tuple[dict[str, dict[str, Tensor]], int]:
    """The sums of the signs of the gradient at zero output matrices, and the number of examples that voted.

    Raises:
        BadRequest: there is no example.
        NotFinite: a gradient is NaN or infinite.

    """
    assert inputs.labelled is not None  # checked: needs labels
    technique = technique_named(module.spec.kind)
    body = {slot: named for slot, named in module.matrices.items() if slot != HEAD}
    stacked = {slot: dict(named) for slot, named in stack([body], receiver.dtype).items()}
    outputs = [(s, n) for s, named in stacked.items() for n in named if n in technique.output_matrices]
    for slot, name in outputs:
        stacked[slot][name] = torch.zeros_like(stacked[slot][name]).requires_grad_()
    leaves = [stacked[slot][name] for slot, name in outputs]
    votes: dict[str, dict[str, Tensor]] = {slot: {} for slot, _ in outputs}
    examples = 0
    with attached(receiver, module.spec, stacked):
        for loss in inputs.labelled.losses():
            examples += 1
            gradients: tuple[Tensor | None, ...] = torch.autograd.grad(loss, leaves, allow_unused=True)
            for (slot, name), gradient in zip(outputs, gradients, strict=True):
                if gradient is None:
                    continue  # the loss does not reach it, such as a decoder's where only the encoder is read
                check_gradients(receiver, {slot: gradient})
                votes[slot][name] = votes[slot].get(name, torch.zeros(())) + gradient[0].sign()
    if not examples:
        raise BadRequest("gradfix: expected at least one labelled text, got none; give a task with training items")
    return votes, examples
