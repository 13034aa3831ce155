"""Modules with a history, their folders, and how a folder is refused: what the tests of module files share."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from peftport.core.errors import BadRequest, ModuleRefused
from peftport.hosts.host import Host
from peftport.modules.folders import read_module
from peftport.modules.formats.native import CARD
from peftport.modules.module import HEAD, Module, TaskRecord, TrainingRecord
from peftport.porting import porter_named
from pico import SPECS, pico_host, random_matrices

HOST = pico_host("bert", view="body")
host_of = cache(pico_host)  # shared: nothing may change it
HEADED = {"weight": torch.tensor([[0.5] * 16, [-1.0] * 16]), "bias": torch.tensor([0.25, -0.5])}
TASK = TaskRecord(name="toy", labels=("négatif", "positif"), digest="d" * 64, readout="linear")
TRAINING = TrainingRecord(
    seed=3, steps=40, batch_size=16, learning_rate=1e-3, weight_decay=0.0, max_grad_norm=1.0, max_tokens=64,
    final_loss=0.1 + 0.2,
)  # fmt: skip


def a_module(technique: str = "lora", host: Host = HOST, head: bool = False) -> Module:
    """A module with a history: trained, and ported once."""
    matrices = random_matrices(host, SPECS[technique]) | ({HEAD: HEADED} if head else {})
    module = Module(SPECS[technique], host.fingerprint, matrices, TASK, TRAINING)
    return porter_named("copy").port(module, host, None)  # type: ignore[arg-type]


def refused(folder: Path, error: type[BadRequest] = ModuleRefused, origin: Host | None = None) -> str:
    """Why a folder is refused: one line, exit code 2."""
    with pytest.raises(error) as refusal:
        read_module(folder, origin)
    message = str(refusal.value)
    assert refusal.value.exit_code == 2
    assert len(message.splitlines()) == 1 and message.startswith(str(folder)), message
    return message


def card_of(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return card


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
