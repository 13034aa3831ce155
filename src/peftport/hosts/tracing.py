"""Find where numbers stop being finite: repeat a forward pass and check the output of every module of the host."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from peftport.core.errors import NotFinite
from peftport.core.libraries import torch
from peftport.hosts.host import Host

if TYPE_CHECKING:
    from torch import Tensor, nn


def where_not_finite(host: Host, run: Callable[[], object]) -> str:
    """Name the place, such as ``first behind layers.3.ffn_out (encoder.layer.3.output.dense)``.

    ``run`` repeats the forward pass, with whatever is attached to the host at the time.
    """
    places: list[str] = []
    names = {module: name for name, module in host.model.named_modules() if name}
    names |= {module: name for name, module in host.base.named_modules() if name}
    slots = {slot.path: slot.name for slot in host.slots.values() if slot.kind == "linear"}
    handles = []
    for module, name in names.items():
        place = f"{slots[name]} ({name})" if name in slots else name
        handles.append(module.register_forward_pre_hook(partial(_look_before, places, place)))
        handles.append(module.register_forward_hook(partial(_look_behind, places, place)))
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return f"first {places[0]}" if places else "first in the scores that are read from its states"


def check_states(host: Host, states: dict[str, Tensor], run: Callable[[], object]) -> None:
    """Refuse activations that are not finite; ``states`` holds activations by the name of their slot.

    Raises:
        NotFinite: there are such activations; the message says where they begin.

    """
    if not all(bool(state.isfinite().all()) for state in states.values()):
        raise NotFinite(
            f"{host.name}: expected finite activations, got NaN or infinity, {where_not_finite(host, run)}; "
            "use another host, or other texts"
        )


def _look_before(places: list[str], place: str, module: nn.Module, args: tuple[Any, ...]) -> None:
    if args and _bad(args[0]):
        places.append(f"before {place}")


def _look_behind(places: list[str], place: str, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
    first = out[0] if isinstance(out, tuple) and out else out
    if _bad(first):
        places.append(f"behind {place}")


def _bad(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(value.isfinite().all())
