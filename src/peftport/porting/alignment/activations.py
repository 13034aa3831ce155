"""The activations of two hosts at their slots for the same texts, batch by batch; no batch is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from peftport.core.errors import BadRequest, SlotMismatch
from peftport.core.libraries import torch, without_gradients
from peftport.hosts.host import Host
from peftport.hosts.layouts import check_reads_texts
from peftport.hosts.prefixes import Watched, watchers
from peftport.hosts.slots import Slot
from peftport.hosts.tracing import check_states
from peftport.modules.module import HEAD
from peftport.porting.alignment.words import Reading, Word, read, shared_words
from peftport.porting.base import PortInputs

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = 16
STATES = ("x", "y", "queries", "keys", "values")
FEWEST_WORDS = 2  # a batch with fewer shared words is left out


@dataclass(frozen=True, eq=False)
class Rows:
    """The activations of one slot, one row for each word, float64.

    Linear slots have inputs x (n, D_in) and outputs y (n, D_out); sums have the sum y and x, the sum after its layer
    norm. Attention blocks have queries (n, H D_head), keys and values (n, H_kv D_head), and ``scaling``, the factor of
    q k^T.
    """

    x: Tensor = field(default_factory=lambda: torch.zeros(0))
    y: Tensor = field(default_factory=lambda: torch.zeros(0))
    queries: Tensor = field(default_factory=lambda: torch.zeros(0))
    keys: Tensor = field(default_factory=lambda: torch.zeros(0))
    values: Tensor = field(default_factory=lambda: torch.zeros(0))
    scaling: float = 1.0


SlotRows = Mapping[str, Rows]  # by slot; under HEAD, y has the last hidden states


def paired_rows(
    origin: Host,
    receiver: Host,
    origin_slots: Sequence[str],
    receiver_slots: Sequence[str],
    inputs: PortInputs,
    title: str,
) -> Iterator[tuple[SlotRows, SlotRows]]:
    """Yield the rows of both hosts for each batch of the texts, with the same words in the same order in both.

    Raises:
        BadRequest: a host is opened but not loaded, or the hosts hardly read a word in common.

    """
    for ours, theirs, words in paired_readings(origin, receiver, inputs, title):
        yield observe(origin, origin_slots, ours, words), observe(receiver, receiver_slots, theirs, words)


def paired_readings(
    origin: Host, receiver: Host, inputs: PortInputs, title: str
) -> Iterator[tuple[Reading, Reading, list[Word]]]:
    """Yield each batch of the texts as both hosts read it, and the words that both read.

    Raises:
        BadRequest: a host is opened but not loaded, or the hosts hardly read a word in common.

    """
    for host in (origin, receiver):
        check_reads_texts(host.name, host.layout)
        if host.device.type == "meta":
            raise BadRequest(f"{host.name}: expected a loaded host, got one that is only opened; load it (load_host)")
    texts = list(dict.fromkeys(text for text in inputs.texts if text.strip()))
    size = min(BATCH, (len(texts) + 1) // 2)  # at least two batches, since every second one is held out
    advance = inputs.progress.stage(title, len(texts))
    seen = 0
    for begin in range(0, len(texts), max(size, 1)):
        batch = texts[begin : begin + size]
        ours, theirs = (read(host, batch, inputs.max_tokens) for host in (origin, receiver))
        for host, reading in ((origin, ours), (receiver, theirs)):
            inputs.shared.note(host, dict(zip(batch, reading.lengths, strict=True)))
        words = shared_words(ours, theirs)
        if len(words) >= FEWEST_WORDS:
            seen += 1
            yield ours, theirs, words
        advance(len(batch))
    if not seen:
        raise BadRequest(
            f"texts: expected some with words that {origin.name} and {receiver.name} both read, got "
            f"{len(inputs.texts)} texts without; give ordinary sentences"
        )


@without_gradients
def observe(host: Host, slots: Sequence[str], reading: Reading, words: Sequence[Word]) -> dict[str, Rows]:
    """Run the host once; return the activations at its slots as one row per word."""
    rows = reading.pooling(words)
    by_slot: dict[str, Rows] = {}
    with ExitStack() as stack:
        for name in slots:
            _watch(stack, host, host.slots[name], rows, by_slot)
        out = host.base(**reading.inputs)
    by_slot[HEAD] = Rows(y=rows(out.encoder_last_hidden_state if host.kind == "encoder_decoder" else out[0]))
    states = {f"{name} {part}": getattr(slot_rows, part) for name, slot_rows in by_slot.items() for part in STATES}
    check_states(host, states, partial(host.base, **reading.inputs))
    return by_slot


def _watch(
    stack: ExitStack, host: Host, slot: Slot, rows: Callable[[Tensor], Tensor], by_slot: dict[str, Rows]
) -> None:
    module = host.slot_module(slot)
    if not slot.in_order:
        raise SlotMismatch(
            f"{slot.name}: expected a slot of {host.name} whose activations can be told apart by text, got one that is "
            "not known to read the tokens of a batch text by text; use --method subspace or crosslora"
        )
    if slot.kind == "attention":
        watchers[module] = partial(_keep_attention, slot, rows, by_slot)
        stack.callback(watchers.pop, module)
    else:
        keep = {"linear": _keep_linear, "sum_into": _keep_norm, "sum_from": _keep_block}[slot.kind]
        stack.callback(module.register_forward_hook(partial(keep, slot, rows, by_slot)).remove)


def _keep_linear(
    slot: Slot, rows: Callable[[Tensor], Tensor], by_slot: dict[str, Rows], module: nn.Module, args: Any, y: Tensor
) -> None:
    by_slot[slot.name] = Rows(x=rows(args[0]), y=rows(y[..., slot.rows]))


def _keep_norm(
    slot: Slot, rows: Callable[[Tensor], Tensor], by_slot: dict[str, Rows], module: nn.Module, args: Any, y: Tensor
) -> None:
    by_slot[slot.name] = Rows(x=rows(y), y=rows(args[0]))


def _keep_block(
    slot: Slot, rows: Callable[[Tensor], Tensor], by_slot: dict[str, Rows], module: nn.Module, args: Any, out: Any
) -> None:
    total = rows(out[0] if isinstance(out, tuple) else out)
    by_slot[slot.name] = Rows(x=total, y=total)


def _keep_attention(slot: Slot, rows: Callable[[Tensor], Tensor], by_slot: dict[str, Rows], seen: Watched) -> None:
    flat = [rows(t.transpose(1, 2).flatten(2)) for t in (seen.queries, seen.keys, seen.values)]
    by_slot[slot.name] = Rows(queries=flat[0], keys=flat[1], values=flat[2], scaling=seen.scaling)
