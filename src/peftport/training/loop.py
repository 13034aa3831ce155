"""The training loop: it trains K entries (modules) at once on one frozen host.

The batches of the entries are concatenated, the host's matrices are multiplied once for all rows, and the matrices of
each entry act on its own rows only (techniques.attach). The loss of an entry depends on its own parameters alone, and
clipping and AdamW work entry by entry, so the result of an entry does not depend on the others in its stack.

The optimiser is Adam with decoupled weight decay (Loshchilov & Hutter 2017, arXiv 1711.05101). The learning rate is
constant, without warm-up, so that the first b steps of a longer training equal a training of b steps.

Three settings are off unless they are asked for. They are meant for modules that shall go to other hosts: ``drop_ffn``
and ``mask_ffn`` disturb the host (training.perturbation), and ``norm_penalty`` keeps the module's update small,

    loss + c sum over slots ||dW||_F^2          dW: the whole update, such as LoRA's alpha/r B A, and not its factors

which is ours. Losses on record are without the penalty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from peftport.core import stopping
from peftport.core.errors import BadRequest, TrainingFailed
from peftport.core.hashing import rng_for
from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.hosts.tracing import where_not_finite
from peftport.modules.module import HEAD, check_finite, in_host_dtype, unstack
from peftport.objectives.base import Objective, Row, row_length
from peftport.tasks.spec import Targets
from peftport.techniques import technique_named
from peftport.techniques.attach import attached, prefix_length
from peftport.techniques.base import SHARED, Parameters, StackedMatrices, TechniqueSpec
from peftport.training.perturbation import Perturbation, perturbed

if TYPE_CHECKING:
    from torch import Tensor

GENERATED = 100  # test items for which texts are generated, unless a user says otherwise
POOL = 16  # number of batches whose rows are sorted by length together
Advance = Callable[[int], None]
Probability = Annotated[float, Field(ge=0, lt=1)]
LATER = ("norm_penalty", "drop_ffn", "mask_ffn")  # settings that are not on record where they are off


class TrainSettings(BaseModel):
    """Settings that all entries of one training share. The last three are off by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    batch_size: PositiveInt = 16
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    max_tokens: PositiveInt = 128
    norm_penalty: NonNegativeFloat = 0.0
    drop_ffn: Probability = 0.0
    mask_ffn: Probability = 0.0

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the later settings where they are off: ids of jobs and files are then what they were before."""
        values: dict[str, Any] = written(self)
        return {key: value for key, value in values.items() if key not in LATER or value}

    @property
    def perturbation(self) -> Perturbation:
        """How the host is disturbed."""
        return Perturbation(self.drop_ffn, self.mask_ffn)

    @property
    def later(self) -> dict[str, float]:
        """Those of the later settings that are on."""
        return {name: getattr(self, name) for name in LATER if getattr(self, name)}


@dataclass(frozen=True, eq=False)
class Entry:
    """One of the trainings in a stack: its initial parameters, data, seed of the data order, and learning rate."""

    start: Parameters
    rows: Sequence[Row]
    targets: Targets  # (number of rows, ...); for classification the classes, or probabilities (number of rows, C)
    seed: int
    learning_rate: float


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The matrices of one entry after some steps, and its mean loss since the last checkpoint (None at step 0)."""

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
        objective: the objective of the training, bound to this host.
        spec: the technique of all entries; their parameters must have equal shapes.
        entries: the K entries.
        budgets: numbers of steps after which matrices are kept; 0 keeps the start, the largest ends the training.
        settings: batch size, weight decay, clipping.
        advance: called with the number of entry-steps done, for a progress bar.

    Returns:
        For each entry, its checkpoints by budget.

    Raises:
        BadRequest: the batches of the entries differ in size, so they cannot be stacked.
        TrainingFailed: a loss or a matrix became NaN or infinite.

    """
    _check_equal_batches(entries, settings.batch_size)
    settings.perturbation.check(host)
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

    def matrices() -> StackedMatrices:
        return technique.materialise(spec, slots, unflatten(torch.stack(vectors), entries[0].start))

    for begin, end in pairwise([0, 0, *sorted(set(budgets) - {0})]):
        for step in range(begin, end):
            picks = [next(order) for order in orders]
            with perturbed(host, settings.perturbation, [entry.seed for entry in entries], step):
                losses.append(_step(host, objective, spec, entries, matrices(), picks, settings.norm_penalty))
            for vector in vectors:
                torch.nn.utils.clip_grad_norm_([vector], settings.max_grad_norm)
            optimiser.step()
            optimiser.zero_grad()
            advance(len(entries))
            stopping.check()
        if end in budgets:
            _check_losses(host, objective, spec, entries, losses[begin:], begin, settings)
            _keep(kept, end, matrices(), losses[begin:])
    return kept


def entry_loss(
    host: Host, objective: Objective, spec: TechniqueSpec, entry: Entry, pick: npt.NDArray[np.int64]
) -> Tensor:
    """Return the mean loss of an untrained entry on the rows ``pick``, (1,), with its graph: one forward pass."""
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
    norm_penalty: float,
) -> Tensor:
    """Run the forward and backward pass for one batch of every entry. Returns the mean loss of each entry, (K,)."""
    own = in_host_dtype(host, matrices)
    with attached(host, spec, own):  # also during the backward pass, in which checkpointed layers run again
        by_entry = _losses(host, objective, entries, own, picks, prefix_length(spec, host))
        total = by_entry.sum()
        if norm_penalty:
            total = total + norm_penalty * squared_norm(host, spec, matrices).sum()
        total.backward()  # type: ignore[no-untyped-call]
    return by_entry.detach()


def squared_norm(host: Host, spec: TechniqueSpec, matrices: StackedMatrices) -> Tensor:
    """Return the squared Frobenius norm of the whole update of each entry, summed over slots, (K,)."""
    technique = technique_named(spec.kind)
    shared = matrices.get(SHARED, {})
    slots = technique.slots(spec, host.slots)
    return torch.stack(
        [technique.squared_norm(spec, slot, matrices[name], shared) for name, slot in slots.items()]
    ).sum(0)


def _losses(
    host: Host,
    objective: Objective,
    entries: Sequence[Entry],
    matrices: StackedMatrices,
    picks: list[npt.NDArray[np.int64]],
    shift: int,
) -> Tensor:
    """Run the concatenated rows of all entries through the host. Returns the mean loss of each entry, (K,)."""
    rows = [entry.rows[i] for entry, pick in zip(entries, picks, strict=True) for i in pick]
    targets = np.concatenate([entry.targets[pick] for entry, pick in zip(entries, picks, strict=True)])
    loss = objective.loss(rows, torch.from_numpy(targets).to(host.device), matrices.get(HEAD), shift)  # (K B,)
    loss, weights = loss.view(len(entries), -1), objective.weights(rows)
    if weights is None:
        return loss.mean(1)
    weights = weights.to(loss).view(loss.shape)
    return (loss * weights).sum(1) / weights.sum(1)


def _check_losses(
    host: Host,
    objective: Objective,
    spec: TechniqueSpec,
    entries: Sequence[Entry],
    losses: list[Tensor],
    begin: int,
    settings: TrainSettings,
) -> None:
    """Refuse a training whose loss diverged, naming the step.

    Where the loss is not finite before training either, name the place in the host where that begins.
    """
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
        raise TrainingFailed(
            f"entry {index}: the loss is no longer finite at step {step}; lower the learning rate "
            f"({entry.learning_rate:g})"
        )
    raise TrainingFailed(
        f"entry {index}: the loss at step {step} is not finite before any training either, "
        f"{where_not_finite(host, run)}; use another host than {host.name}, or another start"
    )


def _keep(kept: list[dict[int, Checkpoint]], step: int, matrices: StackedMatrices, losses: list[Tensor]) -> None:
    means = torch.stack(losses).mean(0).tolist() if losses else [None] * len(kept)
    for index, (checkpoints, loss) in enumerate(zip(kept, means, strict=True)):
        of_entry = unstack(matrices, index)
        check_finite(of_entry, f"entry {index}, step {step}")
        checkpoints[step] = Checkpoint(step, of_entry, loss)


def batches(rows: Sequence[Row], size: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the indices of batches without end: epochs are shuffled, then sorted by length within pools of batches.

    The batches depend only on the seed and on the lengths of the rows. The order of the batches of a pool is the same
    for every seed, so that entries stacked on one host have batches of similar length, with little padding, at every
    step. A last batch that is not full is left out of its epoch.
    """
    lengths = np.array([row_length(row) for row in rows])
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
    """Return the parameters of one entry as one trainable vector, so that the optimiser works entry by entry."""
    parts = [tensor.reshape(-1) for _, _, tensor in _by_name(parameters)]
    return torch.cat(parts).to(device, dtype).clone().requires_grad_()


def unflatten(vectors: Tensor, like: Parameters) -> dict[str, dict[str, Tensor]]:
    """Split vectors (K, number of parameters) into matrices stacked over K with the shapes in ``like``.

    The matrices are views, so gradients flow back to the vectors.
    """
    shapes = [(slot, name, tensor.shape) for slot, name, tensor in _by_name(like)]
    pieces = torch.split(vectors, [shape.numel() for _, _, shape in shapes], dim=1)
    matrices: dict[str, dict[str, Tensor]] = {slot: {} for slot in like}
    for (slot, name, shape), piece in zip(shapes, pieces, strict=True):
        matrices[slot][name] = piece.view(len(vectors), *shape)
    return matrices


def same_structure(first: Parameters, second: Parameters) -> bool:
    """Return whether two entries can be trained in one stack."""
    return [(s, n, t.shape) for s, n, t in _by_name(first)] == [(s, n, t.shape) for s, n, t in _by_name(second)]


def _by_name(parameters: Parameters) -> list[tuple[str, str, Tensor]]:
    """List slot, name and tensor, sorted by name: fresh and loaded modules have their slots in different orders."""
    return [(slot, name, matrices[name]) for slot, matrices in sorted(parameters.items()) for name in sorted(matrices)]
