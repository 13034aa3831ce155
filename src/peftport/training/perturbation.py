"""Disturb the FFNs of the frozen host while modules are trained, so that they lean less on this very host's weights.

    drop_ffn    the FFN of a layer adds nothing in a training step, with probability p
    mask_ffn    each inner unit of an FFN is zero in a training step, with probability p; the others are not scaled up

From Trans-PEFT (Gu et al. 2025, arXiv 2506.06844; its code is github.com/gccnlp/Trans-PEFT): updates of a base model
change what its FFNs hold more than what its attention does, so a module that is trained with parts of the FFNs missing
depends less on what the update changes. The paper calls the two cross-layer knowledge dropping and intra-layer
knowledge masking; its code leaves the kept units unscaled, and uses p = 0.1 for dropping in its example.

Ours: every entry of a stack has draws of its own, by its seed, the step and the layer, so a result depends neither on
the company nor on the padding. Its code draws a mask for each token; here the units of a mask are missing for the whole
batch of a step. Only the host is disturbed: what the module itself adds at an FFN stays, as the adapter does in its
code, and so does a LoRA on the FFN's last map, which its code drops; it reads the units that are left. A LoRA on the
maps before, or on experts, acts through the FFN and is left out with it. Tests run on the host as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from peftport.core.errors import BadRequest
from peftport.core.hashing import rng_for
from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot

if TYPE_CHECKING:
    from torch import Tensor, nn

FFN = "ffn_out"  # the site of the map out of an FFN, or of the FFN as a whole where its inner units cannot be reached


@dataclass(frozen=True)
class Perturbation:
    """The probabilities of leaving out a layer's FFN, and each inner unit of an FFN."""

    drop_ffn: float = 0.0
    mask_ffn: float = 0.0

    def __bool__(self) -> bool:
        """Whether anything is disturbed."""
        return bool(self.drop_ffn or self.mask_ffn)

    def check(self, host: Host) -> None:
        """Refuse a host whose FFNs cannot be disturbed like this.

        Raises:
            BadRequest: its layout names no FFN, or one whose inner units cannot be reached.

        """
        asked = "--drop-ffn" if self.drop_ffn else "--mask-ffn"
        slots = _ffns(host) if self else []
        if self and not slots:
            raise BadRequest(
                f"{asked}: {host.name}: expected a host whose layers have an FFN of a known place, got family "
                f"{host.layout.family}; leave the option out, or describe the host (--layout FILE)"
            )
        if self.mask_ffn and any(slot.kind != "linear" for slot in slots):
            raise BadRequest(
                f"--mask-ffn: {host.name}: expected FFNs whose inner units can be reached, its experts' cannot; "
                "use --drop-ffn, which leaves out whole FFNs"
            )


@contextmanager
def perturbed(host: Host, how: Perturbation, seeds: Sequence[int], step: int) -> Iterator[None]:
    """Disturb the host for one step of K entries with these seeds; enter it before modules are attached."""
    with ExitStack() as stack:
        for slot in _ffns(host) if how else ():
            module = host.slot_module(slot)
            if how.mask_ffn:
                kept = _kept(how.mask_ffn, seeds, ("ffn masking", step, slot.name), slot.in_width)
                stack.callback(module.register_forward_pre_hook(partial(_before, kept)).remove)
            if how.drop_ffn:
                kept = _kept(how.drop_ffn, seeds, ("ffn dropping", step, slot.name), 1)
                stack.callback(module.register_forward_hook(partial(_after, kept)).remove)
        yield


def _ffns(host: Host) -> list[Slot]:
    return [slot for slot in host.slots.values() if slot.site == FFN and slot.in_order]


def _kept(p: float, seeds: Sequence[int], role: tuple[str | int, ...], width: int) -> Tensor:
    """Ones, and zeros with probability p, (K, 1, width): each entry's by its seed."""
    draws = [torch.from_numpy(rng_for(seed, *role).random(width) >= p) for seed in seeds]
    return torch.stack(draws)[:, None]


def _times(kept: Tensor, x: Tensor) -> Tensor:
    rows = x.reshape(len(kept), -1, x.shape[-1])  # the rows of an entry follow one another
    return (rows * kept.to(x.device, x.dtype)).reshape(x.shape)


def _before(kept: Tensor, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (_times(kept, args[0]), *args[1:])


def _after(kept: Tensor, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if isinstance(output, tuple):
        return (_times(kept, output[0]), *output[1:])
    return _times(kept, output)
