"""Attach the matrices of K entries to one host within a `with` block.

Entries are modules that run together on one host. A batch of the host must hold their rows one entry after the other:
first all rows of entry 0, then all rows of entry 1, and so on. Each entry has as many rows as the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.hosts.prefixes import Prefix, prefixes
from peftport.hosts.slots import Slot
from peftport.techniques import technique_named
from peftport.techniques.base import (
    SHARED,
    AttentionTechnique,
    Matrices,
    MatrixTechnique,
    StackedMatrices,
    TechniqueSpec,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

Change: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"  # (x, y) -> changed y, rows of all entries together


@contextmanager
def attached(host: Host, spec: TechniqueSpec | None, matrices: StackedMatrices) -> Iterator[None]:
    """Attach the matrices of a spec, each stacked (K, ...), to the slots that they name; without a spec, nothing."""
    with ExitStack() as stack:
        if spec is not None:
            technique = technique_named(spec.kind)
            _check_alone(host, spec, matrices)
            for name, slot in technique.slots(spec, host.slots).items():
                own, module = matrices[name], host.slot_module(slot)
                if isinstance(technique, AttentionTechnique):
                    stack.enter_context(_prefixed(module, Prefix(*technique.keys_values(spec, slot, own))))
                elif slot.kind == "parameter":
                    stack.enter_context(_reweighted(module, slot, technique.effective(spec, slot, own, {})[0]))
                elif isinstance(technique, MatrixTechnique):
                    change = partial(_by_entry, technique, spec, slot, own, matrices.get(SHARED, {}))
                    handle = changed_at(module, slot, change)
                    stack.callback(handle.remove)
        yield


def at_once(host: Host, spec: TechniqueSpec | None) -> int | None:
    """How many modules of a spec can run on a host at the same time: 1, or None for any number.

    Several can where every map that they attach to reads the tokens of a batch text by text.
    """
    if spec is None:
        return None
    slots = technique_named(spec.kind).slots(spec, host.slots).values()
    return None if all(slot.in_order for slot in slots) else 1


def _check_alone(host: Host, spec: TechniqueSpec, matrices: StackedMatrices) -> None:
    entries = next((len(tensor) for own in matrices.values() for tensor in own.values()), 1)
    assert entries == 1 or at_once(host, spec) is None, f"{host.name} runs modules at these slots one at a time"


def prefix_length(spec: TechniqueSpec | None, host: Host) -> int:
    """The number of positions that a prefix takes before the text: its length on decoder-only hosts, otherwise 0."""
    if spec is None or host.kind != "decoder":
        return 0
    return technique_named(spec.kind).prefix_length(spec)


@contextmanager
def _prefixed(module: nn.Module, prefix: Prefix) -> Iterator[None]:
    prefixes[module] = prefix
    try:
        yield
    finally:
        del prefixes[module]


@contextmanager
def _reweighted(module: nn.Module, slot: Slot, update: Tensor) -> Iterator[None]:
    """Let a module compute with a parameter plus an update (E, D_out, D_in), or (D_out, D_in), of one entry."""
    turned = update.mT if slot.turned else update

    def before(module: nn.Module, args: Any) -> None:
        weight = module.get_parameter(slot.parameter)
        # An attribute of the object goes before its parameter, which stays as it is.
        module.__dict__[slot.parameter] = weight + turned.to(weight)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        del module.__dict__[slot.parameter]

    handles = (module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _by_entry(
    technique: MatrixTechnique[Any], spec: Any, slot: Slot, own: Matrices, shared: Matrices, x: Tensor, y: Tensor
) -> Tensor:
    entries = next(iter(own.values())).shape[0]
    x, own, shared = x.to(y.device), _moved(own, y.device), _moved(shared, y.device)  # hosts on several devices
    dtype = next(iter(own.values())).dtype  # that of a host's wide numbers, where some outputs are narrow (hosts.mixed)
    x_rows = x.to(dtype).reshape(entries, -1, x.shape[-1])  # (K, N, D_in)
    y_rows = y.to(dtype).reshape(entries, -1, y.shape[-1])  # (K, N, D_out)
    return technique.apply(spec, slot, x_rows, y_rows, own, shared).reshape(y.shape)


def _moved(matrices: Matrices, device: torch.device) -> Matrices:
    return {name: tensor.to(device) for name, tensor in matrices.items()}


def changed_at(module: nn.Module, slot: Slot, change: Change) -> torch.utils.hooks.RemovableHandle:
    """Let a module give changed outputs at a slot that is no attention block, until the handle is removed."""
    if slot.kind == "linear":
        return module.register_forward_hook(partial(_after_linear, slot, change))
    if slot.kind == "sum_into":
        return module.register_forward_pre_hook(partial(_before_norm, change))
    return module.register_forward_hook(partial(_after_block, change))


def _after_linear(slot: Slot, change: Change, module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
    if slot.out_width == y.shape[-1]:
        return change(args[0], y)
    rows = slot.rows
    part = change(args[0], y[..., rows])
    if isinstance(rows, slice):
        return torch.cat([y[..., : rows.start], part, y[..., rows.stop :]], dim=-1)
    return y.index_copy(-1, rows.to(y.device), part)


def _before_norm(change: Change, norm: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    total = args[0]
    return (change(norm.forward(total), total), *args[1:])  # .forward: the norm without this hook


def _after_block(change: Change, block: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if isinstance(output, tuple):
        return (change(output[0], output[0]), *output[1:])
    return change(output, output)
