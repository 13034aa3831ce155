"""What a port is given besides module and receiver: the origin opened as little as the method needs, texts, labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from peftport.core.errors import BadRequest, UnknownName
from peftport.core.progress import Progress, Silent
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.hosts.opening import open_host
from peftport.modules.module import Module
from peftport.porting.base import PortCache, Porter, PortInputs
from peftport.tasks.load import load_task
from peftport.techniques.attach import prefix_length
from peftport.training.bound_task import BoundTask, check_task

MOST_TEXTS, MOST_LABELLED = 500, 32


@dataclass(frozen=True, eq=False)
class TaskLosses:
    """The first training items of a bench's task, as losses on its host."""

    bench: BoundTask
    module: Module
    items: int = MOST_LABELLED

    def losses(self) -> Iterator[Tensor]:
        """Each item's cross-entropy with whatever is attached; a linear readout reads with the module's own head."""
        check_task(self.module, self.bench.task.spec)
        encoded, host = self.bench.train_split, self.bench.host
        head = self.module.head if self.bench.readout.head_shapes() else None
        stacked = {name: t.to(host.device, host.dtype).unsqueeze(0) for name, t in head.items()} if head else None
        shift = prefix_length(self.module.spec, host)
        for row, target in list(zip(encoded.rows, encoded.targets, strict=True))[: self.items]:
            targets = torch.as_tensor(np.asarray(target)[None], device=host.device)
            yield self.bench.readout.loss([row], targets, stacked, shift)[0]


def open_port_inputs(
    porter: Porter,
    module: Module,
    receiver: Host,
    *,
    origin: str | Host | None = None,
    texts: str | None = None,
    bench: BoundTask | None = None,
    as_technique: Literal["adapter"] | None = None,
    progress: Progress | None = None,
    shared: PortCache | None = None,
) -> PortInputs:
    """Open and read what this port needs, and nothing else.

    ``origin``: its name, or the host itself, loaded if this port needs texts. ``bench``: a task on the receiver.
    ``shared``: what ports before this one found; the origin is loaded once for all.

    Raises:
        BadRequest: the origin is not to be found, or the texts are not readable.

    """
    needs = porter.needs_for(module, receiver)
    shared = shared or PortCache()
    host = _origin(porter, module, origin, shared) if needs in ("weights", "texts") else None
    if needs == "texts" and texts is None and bench is not None:
        read = bench.task.train.texts[:MOST_TEXTS]
    else:
        read = read_texts(texts) if texts is not None else ()
    labelled = TaskLosses(bench, module) if bench is not None else None
    return PortInputs(host, read, labelled, as_technique, progress or Silent(), shared)


def read_texts(ref: str, most: int = MOST_TEXTS) -> tuple[str, ...]:
    """Texts from a .txt file, one a line, or the training texts of a task, those of a pair joined; no labels.

    Raises:
        BadRequest: the file is not there or not UTF-8, or there is no such task.

    """
    if not ref.lower().endswith(".txt"):
        return tuple(load_task(ref).train.texts[:most])
    try:
        lines = Path(os.path.expanduser(ref)).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise BadRequest(f"--texts {ref}: expected a UTF-8 file with a text a line, got: {error}") from error
    return tuple(line for line in lines if line.strip())[:most]


def _origin(porter: Porter, module: Module, ref: str | Host | None, shared: PortCache) -> Host:
    """The origin, as it is given, by the name given, or by the one that the module records."""
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
