"""Gather what a port needs besides the module and the receiver: the origin, texts and labels.

The origin is only opened where a method needs its weights, and loaded where it needs activations.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from peftport.core.errors import BadRequest, UnknownName
from peftport.core.libraries import torch
from peftport.core.progress import Progress, Silent
from peftport.core.request import Place
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.hosts.opening import open_host
from peftport.modules.module import Module
from peftport.objectives import objective_for
from peftport.objectives.cuts import CutTexts
from peftport.porting import PORTERS
from peftport.porting.alignment.words import tokens_around
from peftport.porting.base import Anchor, PortCache, Porter, PortInputs
from peftport.tasks.load import check_task_name, load_task
from peftport.techniques.attach import prefix_length
from peftport.training.bound_task import BoundTask, bind_task, check_task
from peftport.workflows.job_inputs import own_readout

if TYPE_CHECKING:
    from torch import Tensor

MOST_TEXTS, MOST_LABELLED, MOST_ON_BOTH = 500, 32, 128


@dataclass(frozen=True, eq=False)
class TaskLosses:
    """The losses of the first training items of a bound task on its host."""

    bound_task: BoundTask
    module: Module
    items: int = MOST_LABELLED

    def losses(self) -> Iterator[Tensor]:
        """Yield the loss of each item with the matrices now attached; a linear readout uses the head of the module."""
        check_task(self.module, self.bound_task.task.spec)
        encoded, host = self.bound_task.train_split, self.bound_task.host
        head = self.bound_task.head_of(self.module) if self.bound_task.readout.head_shapes() else None
        stacked = {name: t.to(host.device, host.dtype).unsqueeze(0) for name, t in head.items()} if head else None
        shift = prefix_length(self.module.spec, host)
        for row, target in list(zip(encoded.rows, encoded.targets, strict=True))[: self.items]:
            targets = torch.as_tensor(np.asarray(target)[None], device=host.device)
            yield self.bound_task.readout.loss([row], targets, stacked, shift)[0]

    def reads_as(self, other: TaskLosses) -> bool:
        """Whether two hosts read each of these items as the same tokens of one vocabulary."""
        ours, theirs = self.bound_task, other.bound_task
        if ours.host.tokenizer.get_vocab() != theirs.host.tokenizer.get_vocab():
            return False
        return ours.train_split.rows[: self.items] == theirs.train_split.rows[: other.items]


def open_port_inputs(
    porter: Porter,
    module: Module[Any],
    receiver: Host,
    *,
    origin: str | Host | None = None,
    texts: str | None = None,
    bound_task: BoundTask | None = None,
    as_technique: Literal["adapter"] | None = None,
    progress: Progress | None = None,
    shared: PortCache | None = None,
    max_tokens: int | None = None,
    anchors: Sequence[Anchor] = (),
    readout: str | None = None,
) -> PortInputs:
    """Open and read what this port needs, and nothing else.

    ``origin`` is the name of the origin or the host itself, which must be loaded if this port needs texts.
    ``bound_task`` is a task bound to the receiver. A method that takes labels on both hosts gets it on the origin, too,
    where no texts are named and the module has no head of its own: by the ``readout`` that the user names for both
    hosts, or else the one that the module was trained with. ``shared`` caches what earlier ports computed, so that the
    origin is loaded only once. ``max_tokens`` is how much is read of each text of which activations are compared.

    Raises:
        BadRequest: the origin cannot be found, or the texts cannot be read.

    """
    needs = porter.needs_for(module, receiver)
    shared = shared or PortCache()
    host = _origin(porter, module, origin, shared) if needs in ("weights", "texts") else None
    if needs == "texts" and texts is None and bound_task is not None:
        read = bound_task.learnt.texts[:MOST_TEXTS]
    else:
        read = read_texts(texts) if texts is not None else ()
    labelled = TaskLosses(bound_task, module) if bound_task is not None else None
    at_home, same_tokens = None, False
    headless = bound_task is not None and module.head is None and not bound_task.readout.head_shapes()
    if porter.takes_labels and bound_task is not None and host is not None and texts is None and headless:
        labelled = TaskLosses(bound_task, module, MOST_ON_BOTH)
        at_home = _at_home(host, bound_task, module, shared, readout)
        host, same_tokens = at_home.bound_task.host, at_home.reads_as(labelled)
    return PortInputs(
        host, read, labelled, as_technique, progress or Silent(), shared, max_tokens, anchors, at_home, same_tokens
    )


def _at_home(origin: Host, away: BoundTask, module: Module, shared: PortCache, named: str | None) -> TaskLosses:
    """The losses of the same items on the origin, which is loaded again if it lacks the head that the readout needs."""

    def bind() -> BoundTask:
        readout = objective_for(own_readout(module, named), origin.kind, away.task.spec)
        if readout.view == "body" or origin.folder is None:
            bound = readout(origin, away.task.spec, away.settings.max_tokens)
            return BoundTask(origin, away.task, bound, away.settings, trained_on=away.trained_on)
        home = bind_task(str(origin.folder), away.task, readout.name, away.settings)
        return replace(home, trained_on=away.trained_on)

    return TaskLosses(shared.cached(("at home", origin, away), bind), module, MOST_ON_BOTH)


def cut_in_ports(shared: PortCache) -> dict[Host, CutTexts]:
    """What was cut off the texts of which activations were compared, by the host that reads them."""
    found = {host: CutTexts.of(lengths.values()) for host, lengths in shared.read.items()}
    return {host: cut for host, cut in found.items() if cut.cut}


def cut_remarks(shared: PortCache, max_tokens: int) -> tuple[str, ...]:
    """What was cut off the texts of which activations were compared, a sentence for each host."""
    return tuple(
        f"{host.name}, where activations are compared: {cut.sentence(max_tokens, most=_most_tokens(host))}"
        for host, cut in cut_in_ports(shared).items()
    )


def _most_tokens(host: Host) -> int | None:
    return None if host.positions is None else host.positions - tokens_around(host)


def unused_remarks(
    methods: Sequence[str],
    module: Module[Any],
    receiver: Host,
    texts: Place | None,
    anchors: Mapping[Place, Place] | None,
) -> tuple[str, ...]:
    """Say which of the texts and anchors that are given none of these methods uses for this port, in sentences."""
    given = {"texts": texts is not None, "anchors": bool(anchors)}
    used = {_used(name, module, receiver) for name in methods} if any(given.values()) else set()
    return tuple(
        f"--{name} is not used by {' or '.join(methods)}" for name, there in given.items() if there and name not in used
    )


def _used(method: str, module: Module[Any], receiver: Host) -> str:
    """What a method needs for this port; the method that trains, which is no porter, reads texts."""
    if method not in PORTERS:
        return "texts"
    porter = PORTERS[method]
    return porter.needs if porter.refusal(module, receiver) else porter.needs_for(module, receiver)


def read_texts(ref: str, most: int = MOST_TEXTS) -> tuple[str, ...]:
    """Read texts from a .txt file, one a line, or the training texts of a task without their labels; pairs are joined.

    Raises:
        BadRequest: the file is missing or not UTF-8, or there is no such task.

    """
    if not _is_file(ref):
        return tuple(load_task(ref).train.texts[:most])
    return tuple(line for line in _lines(ref) if line.strip())[:most]


def check_texts(ref: str) -> None:
    """Refuse what names neither a file of texts nor a task, without reading a task.

    Raises:
        BadRequest: the file is missing or not UTF-8, or there is no such task.

    """
    if _is_file(ref):
        _lines(ref)
    else:
        check_task_name(ref)


def _is_file(ref: str) -> bool:
    return ref.lower().endswith(".txt")


def _lines(ref: str) -> list[str]:
    try:
        return Path(os.path.expanduser(ref)).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise BadRequest(f"--texts {ref}: expected a UTF-8 file with a text a line, got: {error}") from error


def _origin(porter: Porter, module: Module[Any], ref: str | Host | None, shared: PortCache) -> Host:
    """Return the origin: the given host, or else the host of the given name, or of the name that the module records."""
    if isinstance(ref, Host):
        return ref
    name, take = ref or module.host.name, load_host if porter.needs == "texts" else open_host
    try:
        return shared.cached((take, name), lambda: take(name))
    except UnknownName as error:
        if ref is not None:
            raise
        raise BadRequest(
            f"{porter.name}: needs the origin host, the module records {module.host.name!r}, which is not found here; "
            "name its folder with --from HOST"
        ) from error
