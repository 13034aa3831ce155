"""The one training loop: K entries at once on one frozen host.

The entries' batches are put one after the other, the host's matrices are multiplied once for all rows, and each
entry's own matrices act on its own rows (techniques.attach). An entry's loss touches only its own parameters, and
clipping and AdamW work entry by entry, so an entry's result does not depend on its company.

    Adam, decoupled weight decay: Loshchilov & Hutter 2017, arXiv 1711.05101. Constant learning rate, no warm-up:
    the first b steps of a longer training are the training of b steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from peftport.core.errors import BadRequest, TrainingFailed
from peftport.core.hashing import rng_for
from peftport.hosts.host import Host
from peftport.hosts.tracing import where_not_finite
from peftport.modules.module import HEAD, check_finite, in_host_dtype, unstack
from peftport.objectives.base import Objective, Row
from peftport.tasks.spec import Targets
from peftport.techniques import technique_named
from peftport.techniques.attach import attached, prefix_length
from peftport.techniques.base import Parameters, StackedMatrices, TechniqueSpec

POOL = 16  # batches that are sorted by length together
Advance = Callable[[int], None]


class TrainSettings(BaseModel):
    """Settings that all entries of one call share."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    batch_size: PositiveInt = 16
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    max_tokens: PositiveInt = 128


@dataclass(frozen=True, eq=False)
class Entry:
    """One training: where its parameters start, its data, the seed of its data order, its learning rate."""

    start: Parameters
    rows: Sequence[Row]
    targets: Targets  # (number of rows, ...); of classification the classes, or their probabilities (number of rows, C)
    seed: int
    learning_rate: float


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One entry's matrices after some steps, and its mean loss over the last steps before (None at step 0)."""

    step: int
    matrices: Parameters
    loss: float | None


def train_entries(
    host: Host,
    objective: Objective,
    spec: TechniqueSpec,
    entries: Sequence[Entry],
    budgets: Sequence[int],
    settings: TrainSettings,
    advance: Advance = lambda steps: None,
) -> list[dict[int, Checkpoint]]:
    """Train K entries together and keep each one's matrices at every budget.

    Args:
        host: the frozen host.
        objective: what is trained for, bound to this host.
        spec: the technique of all entries; their parameters must have equal shapes.
        entries: the K entries.
        budgets: steps at which matrices are kept; 0 is the start. The largest is how long training goes on.
        settings: batch size, weight decay, clipping.
        advance: called with the number of entry-steps done, for a progress bar.

    Returns:
        For each entry, its checkpoints by budget.

    Raises:
        BadRequest: entries whose batches differ in size; they cannot go in one stack.
        TrainingFailed: a loss or a matrix became NaN or infinite.

    """
    _check_equal_batches(entries, settings.batch_size)
    technique = technique_named(spec.kind)
    slots = technique.slots(spec, host.slots)
    vectors = [flatten(entry.start, host.wide_dtype, host.device) for entry in entries]
    optimiser = torch.optim.AdamW(
        [{"params": [v], "lr": e.learning_rate} for v, e in zip(vectors, entries, strict=True)],
        weight_decay=settings.weight_decay,
        fused=True,
    )
    orders = [batches(entry.rows, settings.batch_size, entry.seed) for entry in entries]
    kept: list[dict[int, Checkpoint]] = [{} for _ in entries]
    losses: list[Tensor] = []
    shift = prefix_length(spec, host)

    def matrices() -> StackedMatrices:
        return technique.materialise(spec, slots, unflatten(torch.stack(vectors), entries[0].start))

    for begin, end in pairwise([0, 0, *sorted(set(budgets) - {0})]):
        for _ in range(begin, end):
            picks = [next(order) for order in orders]
            losses.append(_step(host, objective, spec, entries, in_host_dtype(host, matrices()), picks, shift))
            for vector in vectors:
                torch.nn.utils.clip_grad_norm_([vector], settings.max_grad_norm)
            optimiser.step()
            optimiser.zero_grad()
            advance(len(entries))
        if end in budgets:
            _check_losses(host, objective, spec, entries, losses[begin:], begin, settings)
            _keep(kept, end, matrices(), losses[begin:])
    return kept


def entry_loss(
    host: Host, objective: Objective, spec: TechniqueSpec, entry: Entry, pick: npt.NDArray[np.int64]
) -> Tensor:
    """The loss of one entry's start on the rows ``pick``, (B,), with its graph: a forward pass as training does it."""
    technique = technique_named(spec.kind)
    stacked = unflatten(flatten(entry.start, host.wide_dtype, host.device)[None], entry.start)
    matrices = in_host_dtype(host, technique.materialise(spec, technique.slots(spec, host.slots), stacked))
    with attached(host, spec, matrices):
        return _losses(host, objective, [entry], matrices, [pick], prefix_length(spec, host))


def _check_equal_batches(entries: Sequence[Entry], batch_size: int) -> None:
    sizes = sorted({min(batch_size, len(entry.rows)) for entry in entries})
    if len(sizes) > 1:
        raise BadRequest(
            f"train: expected entries with batches of one size, got {sizes[0]} and {sizes[-1]} texts in batches of "
            f"up to {batch_size}; give every entry at least {batch_size} texts, or train them one by one"
        )


def _step(
    host: Host,
    objective: Objective,
    spec: TechniqueSpec,
    entries: Sequence[Entry],
    matrices: StackedMatrices,
    picks: list[npt.NDArray[np.int64]],
    shift: int,
) -> Tensor:
    """Forward and backward for one batch of every entry. Returns the entries' mean losses, (K,)."""
    with attached(host, spec, matrices):  # the backward pass too: checkpointed layers run again in it
        loss = _losses(host, objective, entries, matrices, picks, shift)
        by_entry = loss.view(len(entries), -1).mean(1)  # (K B,) -> (K,)
        by_entry.sum().backward()  # type: ignore[no-untyped-call]
    return by_entry.detach()


def _losses(
    host: Host,
    objective: Objective,
    entries: Sequence[Entry],
    matrices: StackedMatrices,
    picks: list[npt.NDArray[np.int64]],
    shift: int,
) -> Tensor:
    """Every entry's rows one after the other, read at once. Returns the loss of each row, (K B,)."""
    rows = [entry.rows[i] for entry, pick in zip(entries, picks, strict=True) for i in pick]
    targets = np.concatenate([entry.targets[pick] for entry, pick in zip(entries, picks, strict=True)])
    return objective.loss(rows, torch.from_numpy(targets).to(host.device), matrices.get(HEAD), shift)


def _check_losses(
    host: Host,
    objective: Objective,
    spec: TechniqueSpec,
    entries: Sequence[Entry],
    losses: list[Tensor],
    begin: int,
    settings: TrainSettings,
) -> None:
    """Refuse a diverged training with the step; where the start gives no finite loss either, the host's place."""
    wrong = (~torch.stack(losses).isfinite()).nonzero() if losses else torch.zeros(0, 2)  # (steps, K) -> (some, 2)
    if not len(wrong):
        return
    step, index = begin + int(wrong[0, 0]) + 1, int(wrong[0, 1])
    entry = entries[index]
    *_, pick = islice(batches(entry.rows, settings.batch_size, entry.seed), step)
    run = partial(entry_loss, host, objective, spec, entry, pick)
    with torch.no_grad():
        began = bool(run().isfinite().all())
    if began:
        raise TrainingFailed(f"entry {index}: the loss is no longer finite at step {step}; lower the learning rate")
    raise TrainingFailed(
        f"entry {index}: the loss at step {step} is not finite before any training either, "
        f"{where_not_finite(host, run)}; use another host than {host.name}, or another start"
    )


def _keep(kept: list[dict[int, Checkpoint]], step: int, matrices: StackedMatrices, losses: list[Tensor]) -> None:
    means = torch.stack(losses).mean(0).tolist() if losses else [None] * len(kept)
    for index, (checkpoints, loss) in enumerate(zip(kept, means, strict=True)):
        own = unstack(matrices, index)
        check_finite(own, f"entry {index}, step {step}")
        checkpoints[step] = Checkpoint(step, own, loss)


def batches(rows: Sequence[Row], size: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of batch after batch, for ever: each epoch shuffled, then sorted by length within pools of batches.

    Depends on the seed and on the rows' lengths only. Which batch of which pool comes when is the same for every seed,
    so that entries stacked on one host have batches of like length, with little padding, at every step. A last batch
    that is not full is left out of its epoch.
    """
    lengths = np.array([len(row) for row in rows])
    rng, pace = rng_for(seed, "order"), rng_for(0, "pace")
    size = min(size, len(rows))
    while True:
        order = rng.permutation(len(rows))
        pools = [pool[np.argsort(lengths[pool], kind="stable")] for pool in _pieces(order, size * POOL)]
        full = [batch for pool in pools for batch in _pieces(pool, size) if len(batch) == size]
        for index in pace.permutation(len(full)):
            yield full[index]


def _pieces(values: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def flatten(parameters: Parameters, dtype: torch.dtype, device: torch.device) -> Tensor:
    """One entry's parameters as one trainable vector: the optimiser then works entry by entry."""
    parts = [tensor.reshape(-1) for _, _, tensor in _by_name(parameters)]
    return torch.cat(parts).to(device, dtype).clone().requires_grad_()


def unflatten(vectors: Tensor, like: Parameters) -> dict[str, dict[str, Tensor]]:
    """(K, number of parameters) -> matrices stacked over K, shaped as ``like``; views, so gradients flow back."""
    shapes = [(slot, name, tensor.shape) for slot, name, tensor in _by_name(like)]
    pieces = torch.split(vectors, [shape.numel() for _, _, shape in shapes], dim=1)
    matrices: dict[str, dict[str, Tensor]] = {slot: {} for slot in like}
    for (slot, name, shape), piece in zip(shapes, pieces, strict=True):
        matrices[slot][name] = piece.view(len(vectors), *shape)
    return matrices


def same_structure(one: Parameters, other: Parameters) -> bool:
    """Whether two entries can be trained in one stack."""
    return [(s, n, t.shape) for s, n, t in _by_name(one)] == [(s, n, t.shape) for s, n, t in _by_name(other)]


def _by_name(parameters: Parameters) -> list[tuple[str, str, Tensor]]:
    """Slot, name and tensor in the order of names: a fresh module's slots come in another order than a loaded one's."""
    return [(slot, name, own[name]) for slot, own in sorted(parameters.items()) for name in sorted(own)]
