"""``peftport.json``, which lies beside another library's files: the history for which their format has no place.

It contains the fingerprint of the host, the task, the training, and every port with its method, both hosts and what was
done at each slot. The other library ignores the file. It contains the digest of the tensors that it was written with,
and is refused beside other tensors.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from peftport.core.environment import version_of
from peftport.core.errors import ModuleRefused
from peftport.hosts.fingerprint import Fingerprint
from peftport.modules.formats.native import what_is_wrong
from peftport.modules.formats.tensors import one_line, read_bytes, read_text
from peftport.modules.module import Module, PortRecord, TaskRecord, TrainingRecord
from peftport.modules.record import Closed

SIDECAR = "peftport.json"
MADE_WITH = ("peftport", "torch", "transformers", "safetensors")


class Sidecar(Closed):
    """The content of ``peftport.json``: the history of a module."""

    format: Literal["peftport-sidecar"] = "peftport-sidecar"
    version: Literal[1] = 1
    host: Fingerprint
    task: TaskRecord | None = None
    training: TrainingRecord | None = None
    ports: tuple[PortRecord, ...] = ()
    made_with: dict[str, str] = {}
    sha256: str


def write_sidecar(module: Module, tensors: Path) -> None:
    """Write the history of a module beside its tensors."""
    sidecar = Sidecar(
        host=module.host,
        task=module.task,
        training=module.training,
        ports=module.ports,
        made_with={name: version_of(name) for name in MADE_WITH},
        sha256=_digest(tensors),
    )
    (tensors.parent / SIDECAR).write_text(sidecar.model_dump_json(indent=2) + "\n", encoding="utf-8")


def with_history(module: Module, tensors: Path) -> Module:
    """Return the module with the history that lies beside its tensors, if there is one.

    Raises:
        ModuleRefused: the sidecar is broken, or was written with other tensors.

    """
    path = tensors.parent / SIDECAR
    if not path.exists():
        return module
    try:
        sidecar = Sidecar.model_validate_json(read_text(path))
    except ValidationError as error:
        raise ModuleRefused(f"{path}: {what_is_wrong(error)}; expected what this version of peftport writes") from error
    except (OSError, ValueError) as error:
        raise ModuleRefused(f"{path}: expected a readable history, got: {one_line(error)}; delete it") from error
    if sidecar.sha256 != _digest(tensors):
        raise ModuleRefused(
            f"{path}: expected the tensors whose sha256 it records, got others in {tensors.name}; if the module was "
            "trained further, delete this file"
        )
    return replace(
        module,
        host=sidecar.host,
        task=sidecar.task,
        training=sidecar.training,
        ports=(*sidecar.ports, *module.ports),
    )


def _digest(tensors: Path) -> str:
    return hashlib.sha256(read_bytes(tensors)).hexdigest()
