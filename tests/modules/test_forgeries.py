"""Folders that are whole and consistent, and not a module of their technique."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modules.made import HOST, a_module
from peftport.core.errors import ModuleRefused, SlotMismatch
from peftport.modules.folders import read_module, write_module
from peftport.modules.module import Module, check_fits
from peftport.techniques.base import SHARED
from pico import SPECS


def without(technique: str, slot: str, name: str) -> Module:
    module = a_module(technique)
    own = {n: t for n, t in module.matrices[slot].items() if n != name}
    return module.with_matrices(
        {**module.matrices, slot: own} if own else {s: m for s, m in module.matrices.items() if s != slot}
    )


def plus(technique: str, slot: str, name: str) -> Module:
    module = a_module(technique)
    return module.with_matrices({**module.matrices, slot: {**module.matrices.get(slot, {}), name: torch.ones(4, 4)}})


FORGERIES: dict[str, tuple[Module, str]] = {
    "a matrix less": (without("lora", "layers.1.attn_q", "B"), "layers.1.attn_q"),
    "a bias less": (without("adapter", "layers.1.ffn_out", "up_bias"), "layers.1.ffn_out"),
    "no rule": (without("compacter", SHARED, "rule"), SHARED),
    "a rule of another size": (plus("compacter", SHARED, "rule").with_matrices(
        {**a_module("compacter").matrices, SHARED: {"rule": torch.ones(2, 2, 2)}}), SHARED),
    "a matrix more": (plus("lora", "layers.1.attn_q", "C"), "layers.1.attn_q"),
    "a rule where none belongs": (plus("lora", SHARED, "rule"), SHARED),
    "a slot more": (plus("lora", "layers.7.attn_q", "A"), "layers.7.attn_q"),
    "a spec of another rank": (
        replace(a_module("lora"), spec=SPECS["lora"].model_copy(update={"rank": 3})), "layers.0.attn_q"),
    "matrices of another technique": (replace(a_module("adapter"), spec=SPECS["compacter"]), "layers.0.attn_o"),
    "matrices of a third": (replace(a_module("lora"), spec=SPECS["prefix"]), "layers.0.attn"),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_matrices_that_are_not_the_technique_s_are_refused(forgery: str, tmp_path: Path) -> None:
    """When read or, at the latest, when put on a host: in one line that names the slot."""
    module, slot = FORGERIES[forgery]
    write_module(module, HOST, tmp_path / "forged")
    with pytest.raises((ModuleRefused, SlotMismatch), match=slot.replace(".", r"\.")) as refusal:
        check_fits(read_module(tmp_path / "forged"), HOST)
    assert refusal.value.exit_code == 2 and "\n" not in str(refusal.value)
