"""Update a base model: continue a host's pretraining on unlabelled text by the objective of its kind.

    masked_lm         encoders: 15 % of the tokens are predicted; 80 % of these are masked, 10 % replaced, 10 % kept.
                      Devlin et al. 2018, arXiv 1810.04805, sec. 3.1
    span_corruption   encoder-decoders: 15 % of the tokens, in spans of mean length 3, become sentinels; the target
                      is the sentinels and the tokens that they hide. Raffel et al. 2019, arXiv 1910.10683, sec. 3.1.4
    next_token        decoders: every token is predicted from the tokens before it.

All weights are trained by AdamW at a constant rate, without weight decay and without dropout. An encoder without a
masked-LM head (a sentence encoder) gets a fresh one on its word embeddings, which is trained alone first, then with
the body, and is not saved. A checkpoint has the tensors of the original host with the same names, shapes and dtypes;
its configuration and tokenizer files are copied byte for byte.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError
from safetensors import safe_open

from peftport.core.errors import BadRequest, HostRefused, TaskRefused, TrainingFailed
from peftport.core.hashing import rng_for
from peftport.core.libraries import F, nn, safetensors_torch, torch, without_gradients
from peftport.core.progress import current
from peftport.hosts.fingerprint import Fingerprint, weight_files
from peftport.hosts.host import Host
from peftport.hosts.layouts import HostKind
from peftport.hosts.load import HARMLESS, load_host
from peftport.modules.module import Closed
from peftport.objectives.base import Row, mean_pooled, pad
from peftport.store.artifacts import new_folder
from peftport.training.loop import Advance, batches
from peftport.workflows.named import check_names
from peftport.workflows.requests import HostUpdateRequest

if TYPE_CHECKING:
    from torch import Tensor

    from peftport.workflows.masked_head import MaskedTokenHead

Objective = Literal["masked_lm", "span_corruption", "next_token"]
Inputs: TypeAlias = "dict[str, Tensor]"  # what a model reads: input_ids, attention_mask, labels
Rng = np.random.Generator
Hide = Callable[[Sequence[Row], Rng], Inputs]
OBJECTIVES: dict[HostKind, Objective] = {
    "encoder": "masked_lm", "encoder_decoder": "span_corruption", "decoder": "next_token",
}  # fmt: skip
RECORD = "update.json"
COPIED, NOT_COPIED = (".json", ".txt", ".model", ".jinja"), (RECORD, "SOURCE.json")
FEWEST_LINES = 8
HIDDEN, MEAN_SPAN = 0.15, 3  # share of the tokens that are hidden; tokens a span
HEAD_RATE, MAX_GRAD_NORM = 1e-3, 1.0
NOT_ASKED = -100  # the label that transformers' losses leave out


class Distance(Closed):
    """How far an updated host is from the original one, over all weights that both have."""

    weights: float  # ||W' - W|| / ||W||, all tensors together: large embeddings dominate it
    tensor: str  # the tensor that moved most relative to its own norm; tensors that were zero do not count
    tensor_distance: float  # how far it moved
    tensor_median: float  # how far half of the tensors moved at most
    function: float  # 1 - cos of the mean-pooled last hidden states, mean over the held-out lines


class UpdateSettings(Closed):
    """The settings that, together with the host and the text, make an update reproducible."""

    steps: PositiveInt
    seed: int
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    batch_size: PositiveInt
    max_tokens: Annotated[int, Field(ge=8)]
    head_warm_up_steps: NonNegativeInt  # 0 for a host with a head of its own


class UpdateRecord(UpdateSettings):
    """How an update was made and how far it moved the host; saved as ``update.json`` in its folder."""

    version: Literal[1] = 1
    origin: Fingerprint
    text_sha256: str
    text_lines: int
    held_out_lines: int
    objective: Objective
    loss: float  # mean over the steps since the checkpoint before, nats a token
    distance: Distance


@dataclass(frozen=True)
class HostUpdate:
    """One checkpoint: a host in ``folder``, which can be loaded by its path, and the record of how it was made."""

    folder: Path
    record: UpdateRecord


def update_host(request: HostUpdateRequest) -> list[HostUpdate]:
    """Continue a host's pretraining on a text file, one text a line; save it at ``save_at`` and at the end.

    Empty lines are ignored; the others get the host's text prefix and are cut to ``max_tokens``, special tokens
    included. The last 5 % of the lines, at most 64, are held out. ``learning_rate`` applies to the host; a fresh head
    has a rate of its own, 1e-3, and is trained alone for ``head_warm_up_steps`` before the ``steps``. ``seed``
    determines the order of the texts, the hidden tokens and the fresh head, so the first b steps of a longer update
    equal an update of b steps. Each checkpoint becomes ``out/step-<n>``; ``out`` is written whole or not at all.

    Raises:
        BadRequest: a number makes no sense.
        OutputRefused: ``out`` exists already.
        TaskRefused: the text file is missing, not UTF-8 or too short.
        HostRefused, UnknownName: the host is unknown or broken, or its tokenizer lacks what the objective needs.
        TrainingFailed: a loss or a weight is no longer finite.

    """
    settings, steps, save_at = _settings(request), request.steps, request.save_at
    ref, text, out = str(request.host), Path(request.text), Path(request.out)
    check_names(request)
    lines, sha256 = _read_lines(text)
    host, head = _load(ref, settings.seed)
    names = _tensor_names(host)
    run = _Run(host, head, _encode(host, lines, settings.max_tokens, text), settings)
    settings = settings.model_copy(update={"head_warm_up_steps": run.warm_up()})
    advance = (request.progress or current()).stage(f"updating {ref}", steps)
    updates: list[HostUpdate] = []
    with new_folder(out) as folder:
        for begin, end in pairwise([0, *sorted({*save_at, steps})]):
            loss = fmean([run.step(advance) for _ in range(begin, end)])
            home = folder / f"step-{end}"
            record = UpdateRecord(
                **{**settings.model_dump(), "steps": end}, origin=host.fingerprint, text_sha256=sha256,
                text_lines=len(lines), held_out_lines=len(run.held_out), objective=OBJECTIVES[host.kind], loss=loss,
                distance=_save(host, names, home, run.moved()),
            )  # fmt: skip
            (home / RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
            updates.append(HostUpdate(out / home.name, record))
    return updates


def _settings(request: HostUpdateRequest) -> UpdateSettings:
    try:
        settings = UpdateSettings(**{name: getattr(request, name) for name in UpdateSettings.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        rule = first["msg"].removeprefix("Input should be ")
        request.refuse(str(first["loc"][0]), f"expected {rule}, got {first['input']}")
    if wrong := [step for step in request.save_at if not 1 <= step <= settings.steps]:
        request.refuse("save_at", f"expected steps from 1 to {settings.steps}, got {wrong[0]}")
    return settings


def _read_lines(path: Path) -> tuple[list[str], str]:
    """Read the lines of a file that are not empty, and the sha256 of the file."""
    try:
        raw = path.read_bytes()
        lines = [line.strip() for line in raw.decode("utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        wanted = "expected a UTF-8 text file, one text a line; check the path, or convert the file to UTF-8"
        raise TaskRefused(f"{path}: cannot be read ({error}), {wanted}") from error
    if len(lines) < FEWEST_LINES:
        raise TaskRefused(f"{path}: {len(lines)} lines with text, expected {FEWEST_LINES} or more; add lines")
    return lines, hashlib.sha256(raw).hexdigest()


def _load(ref: str, seed: int) -> tuple[Host, MaskedTokenHead | None]:
    """Load the host with its own language-model head, or else its body with a fresh head."""
    try:
        return load_host(ref, "language_model"), None
    except HostRefused:
        host = load_host(ref, "body")  # any fault other than the missing head is raised again here
        if host.kind != "encoder":
            raise
        from peftport.workflows.masked_head import MaskedTokenHead  # a class of torch's

        return host, MaskedTokenHead(host.width, _embeddings(host), rng_for(seed, "masked-LM head"))


def _embeddings(host: Host) -> Tensor:
    return host.model.get_input_embeddings().weight  # type: ignore[operator, no-any-return]


def _special(host: Host) -> frozenset[int]:
    return frozenset(host.tokenizer.all_special_ids) - {host.tokenizer.unk_token_id}


def _encode(host: Host, lines: list[str], max_tokens: int, path: Path) -> list[Row]:
    """Tokenise the lines; lines with fewer than two tokens that could be hidden are left out."""
    limit = min(getattr(host.config, "max_position_embeddings", None) or max_tokens, host.tokenizer.model_max_length)
    if max_tokens > limit:
        raise BadRequest(f"max_tokens: {host.name} reads {limit} tokens at most, got {max_tokens}; lower it")
    texts = [host.text_prefix + line for line in lines]
    encoded = host.tokenizer(texts, truncation=True, max_length=max_tokens, verbose=False)["input_ids"]
    special = _special(host)
    rows = [tuple(ids) for ids in encoded if sum(i not in special for i in ids) >= 2]
    if len(rows) < FEWEST_LINES:
        raise TaskRefused(f"{path}: {len(rows)} lines of two tokens or more, expected {FEWEST_LINES}; add lines")
    return rows


class _Run:
    """One training: the model, its optimiser and the random streams."""

    def __init__(self, host: Host, head: MaskedTokenHead | None, rows: list[Row], settings: UpdateSettings) -> None:
        split, seed = len(rows) - max(1, min(64, len(rows) // 20)), settings.seed
        self.host, self.head, self.settings = host, head, settings
        self.rows, self.held_out = rows[:split], rows[split:]
        self.order, self.rng = batches(self.rows, settings.batch_size, seed), rng_for(seed, "hidden tokens")
        self.hide = _hiding(host, max(map(len, rows)))
        groups: list[dict[str, Any]] = [{"params": list(host.model.parameters()), "lr": settings.learning_rate}]
        if head is not None:
            groups.append({"params": list(head.parameters()), "lr": HEAD_RATE})
        self.optimiser = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        self.start = self.pooled()

    def warm_up(self) -> int:
        """Train a fresh head alone, then unfreeze everything. Returns the number of steps, 0 without a fresh head."""
        steps = 0 if self.head is None else self.settings.head_warm_up_steps
        advance = current().stage(f"training a fresh head on {self.host.name}", steps)
        for _ in range(steps):
            self.step(advance)
        self.host.model.requires_grad_(True)
        return steps

    def step(self, advance: Advance) -> float:
        """Run the forward and backward pass of one batch and update the weights. Returns the loss."""
        loss = self.loss(self.hide([self.rows[i] for i in next(self.order)], self.rng))
        if not math.isfinite(value := float(loss.detach())):
            raise TrainingFailed(f"{self.host.name}: the loss is no longer finite; lower the learning rate")
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self.optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], MAX_GRAD_NORM)
        self.optimiser.step()
        self.optimiser.zero_grad()
        advance(1)
        return value

    def loss(self, inputs: Inputs) -> Tensor:
        """Return the mean cross-entropy of the labels. A fresh head is applied to the predicted positions only."""
        if self.head is None:
            options = {} if self.host.kind == "encoder" else {"use_cache": False}
            loss: Tensor = self.host.model(**inputs, **options).loss
            return loss
        asked = inputs["labels"] != NOT_ASKED  # (B, T)
        body = self.host.base(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        logits = self.head(body.last_hidden_state[asked], _embeddings(self.host))  # (B, T, D) -> (N, D) -> (N, V)
        return F.cross_entropy(logits, inputs["labels"][asked])

    @without_gradients
    def pooled(self) -> Tensor:
        """Return the mean-pooled hidden states of the held-out lines, (N, D)."""
        return torch.cat([mean_pooled(self.host, [row], 0) for row in self.held_out]).double()

    def moved(self) -> float:
        """Return the mean of 1 - cos between the pooled states of the held-out lines at the start and now."""
        return float((1 - F.cosine_similarity(self.pooled(), self.start)).mean().clamp(min=0))


def _hiding(host: Host, longest: int) -> Hide:
    """Return the function that makes a training batch of token rows, by the objective of the host's kind."""
    special, mask = _special(host), host.tokenizer.mask_token_id
    if host.kind == "decoder":
        return lambda rows, rng: _batch(host, [(row, row) for row in rows])
    if host.kind == "encoder_decoder":
        sentinels = _sentinels(host, max(1, round(round(longest * HIDDEN) / MEAN_SPAN)))
        return lambda rows, rng: _batch(host, [corrupt_spans(row, special, sentinels, rng) for row in rows])
    if mask is None:
        raise HostRefused(f"{host.name}: expected a tokenizer with a mask token, found none; add a mask_token")
    size = min(len(_embeddings(host)), len(host.tokenizer))
    return lambda rows, rng: _batch(host, [mask_tokens(row, special, mask, size, rng) for row in rows])


def _batch(host: Host, pairs: Sequence[tuple[Row, Row]]) -> Inputs:
    """Pad inputs and labels to (B, T) each; where the labels are a second sequence, they have a T of their own."""
    rows, labels = zip(*pairs, strict=True)
    padded = pad(labels, 0, host.device)
    asked = padded["input_ids"].masked_fill(padded["attention_mask"] == 0, NOT_ASKED)
    return {**pad(rows, host.tokenizer.pad_token_id, host.device), "labels": asked}


def mask_tokens(row: Row, special: frozenset[int], mask: int, size: int, rng: Rng) -> tuple[Row, Row]:
    """Hide 15 % of a row's tokens, at least one. Returns the input row and its labels (-100 elsewhere).

    Of the hidden tokens 80 % become ``mask``, 10 % any of the ``size`` ids, 10 % stay (arXiv 1810.04805, sec. 3.1).
    """
    places = [i for i, token in enumerate(row) if token not in special]
    read, labels = list(row), [NOT_ASKED] * len(row)
    for place in rng.choice(places, size=max(1, round(len(places) * HIDDEN)), replace=False).tolist():
        labels[place], fate = row[place], rng.random()
        if fate < 0.9:
            read[place] = mask if fate < 0.8 else int(rng.integers(size))
    return tuple(read), tuple(labels)


def corrupt_spans(row: Row, special: frozenset[int], sentinels: Sequence[int], rng: Rng) -> tuple[Row, Row]:
    """Replace spans (15 % of the tokens, mean length 3) by sentinels. Returns the input row and the target row.

    Special tokens at the ends of the row are kept, and end the target row too (arXiv 1910.10683, sec. 3.1.4).
    """
    places = [i for i, token in enumerate(row) if token not in special]
    lead, tokens, tail = row[: places[0]], row[places[0] : places[-1] + 1], row[places[-1] + 1 :]
    hidden = min(max(1, round(len(tokens) * HIDDEN)), len(tokens) - 1)
    spans = max(1, round(hidden / MEAN_SPAN))
    lengths = zip(_split(len(tokens) - hidden, spans, rng), _split(hidden, spans, rng), strict=True)
    read, told, at = [*lead], [*lead], 0
    for sentinel, (kept, gone) in zip(sentinels[:spans], lengths, strict=True):
        read += [*tokens[at : at + kept], sentinel]
        told += [sentinel, *tokens[at + kept : at + kept + gone]]
        at += kept + gone
    return (*read, *tail), (*told, *tail)


def _split(total: int, parts: int, rng: Rng) -> list[int]:
    """Split ``total`` at random into ``parts`` positive numbers."""
    cuts = sorted((rng.choice(total - 1, size=parts - 1, replace=False) + 1).tolist())
    return [end - begin for begin, end in pairwise([0, *cuts, total])]


def _sentinels(host: Host, count: int) -> list[int]:
    """Return the ids of <extra_id_0>, <extra_id_1>, ...; without such tokens, the highest ids, descending, as mT5."""
    known, rows, special = host.tokenizer.get_vocab(), len(_embeddings(host)), _special(host)
    named = [known[name] for k in range(count) if (name := f"<extra_id_{k}>") in known]
    free = [i for i in range(min(rows, len(known)) - 1, -1, -1) if i not in special]
    sentinels = named or free[: len(free) // 2]
    if len(sentinels) < count or max(sentinels) >= rows:
        raise HostRefused(
            f"{host.name}: expected {count} sentinel tokens <extra_id_n> or a vocabulary with room for them, "
            f"found {len(named)}, and {len(free)} other tokens; lower max_tokens, or use a host with sentinel tokens"
        )
    return sentinels[:count]


def _tensor_names(host: Host) -> dict[str, str]:
    """Map the tensor names in the host's files to the names in the model, leaving out tensors that it does not use."""
    state, prefix = host.model.state_dict(), f"{getattr(host.model, 'base_model_prefix', '')}."
    names: dict[str, str] = {}
    for file in weight_files(host.folder or Path()):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                modern = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
                for known in (modern, prefix + modern, modern.removeprefix(prefix)):
                    if known in state and list(state[known].shape) == tensors.get_slice(name).get_shape():
                        names.setdefault(name, known)
    reached = {state[known].data_ptr() for known in names.values()}
    for known, weight in host.model.named_parameters():
        if weight.data_ptr() not in reached and not any(part in known for part in HARMLESS):
            fault = f"expected {known} in its weight files, found no tensor of that name and shape"
            raise HostRefused(f"{host.name}: {fault}; save the host anew with this version of transformers")
    return names


def _save(host: Host, names: dict[str, str], home: Path, function: float) -> Distance:
    """Write the trained host into a new folder with the same files as the original, and measure their distance."""
    folder = host.folder or Path()
    home.mkdir()
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix in COPIED and file.name not in NOT_COPIED:
            shutil.copyfile(file, home / file.name)
    state = host.model.state_dict()
    moves: dict[str, tuple[float, float]] = {}  # for each tensor: ||W' - W||, ||W||
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            written = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        for name, old in [(name, old) for name, old in written.items() if name in names]:
            new = written[name] = state[names[name]].to("cpu", old.dtype).contiguous().clone()  # also unties
            moves[name] = float((new.double() - old.double()).norm()), float(old.double().norm())
        safetensors_torch.save_file(written, home / file.name, metadata={"format": "pt"})
    change, norm = (math.hypot(*column) for column in zip(*moves.values(), strict=True))
    if not math.isfinite(change + function):
        raise TrainingFailed(f"{host.name}: a weight is no longer finite; lower the learning rate")
    far = {name: moved / size for name, (moved, size) in moves.items() if size > 0}
    most = max(far, key=far.__getitem__)
    return Distance(
        weights=change / norm, tensor=most, tensor_distance=far[most], tensor_median=median(far.values()),
        function=function,
    )  # fmt: skip
