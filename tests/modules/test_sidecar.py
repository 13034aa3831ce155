"""peftport.json beside another library's files: the history comes back, and belongs to these tensors only."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.made import HOST, TASK, TRAINING, a_module, host_of, refused
from peftport.core.errors import ModuleRefused, SlotMismatch
from peftport.modules.folders import FOREIGN, format_of, read_module, write_module
from peftport.modules.formats.sidecar import SIDECAR
from peftport.modules.module import Module
from peftport.modules.origin import check_origin, trust_origin
from peftport.porting import porter_named
from pico import pico_host

WRITTEN = [("peft", "lora"), ("adapters", "adapter"), ("adapters", "compacter"), ("adapters", "prefix")]
everywhere = pytest.mark.parametrize(("file_format", "technique"), WRITTEN)


def written(module: Module, folder: Path, file_format: str) -> Path:
    write_module(module, HOST, folder, file_format)  # type: ignore[arg-type]
    return folder


@everywhere
def test_the_history_comes_back_with_the_module(file_format: str, technique: str, tmp_path: Path) -> None:
    module = a_module(technique)
    folder = written(module, tmp_path / "module", file_format)
    assert format_of(folder) == file_format
    read = read_module(folder, HOST)
    assert (read.host, read.task, read.training, read.ports) == (module.host, TASK, TRAINING, module.ports)
    said = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
    assert said["ports"][0]["method"] == "copy" and said["ports"][0]["slots"]
    assert said["ports"][0]["origin"]["weights"] and said["ports"][0]["receiver"] == module.host.model_dump()
    assert said["made_with"]["torch"] == torch.__version__


@everywhere
def test_read_written_and_read_again_is_the_same_bytes(file_format: str, technique: str, tmp_path: Path) -> None:
    one = written(a_module(technique), tmp_path / "one", file_format)
    two = written(read_module(one, HOST), tmp_path / "two", file_format)
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in two.iterdir()
    }


@everywhere
def test_every_port_adds_to_the_history(file_format: str, technique: str, tmp_path: Path) -> None:
    folder = written(a_module(technique), tmp_path / "module", file_format)
    (folder / SIDECAR).unlink()
    module = read_module(folder, HOST)
    assert (module.ports, module.task, module.host) == ((), None, HOST.fingerprint)
    update = pico_host("bert", seed=1, view="body")
    ported = porter_named("copy").port(module, update, None)  # type: ignore[arg-type]
    write_module(ported, update, tmp_path / "ported", file_format)  # type: ignore[arg-type]
    again = read_module(tmp_path / "ported", update)
    assert again.host == update.fingerprint
    [port] = again.ports
    assert (port.origin, port.receiver) == (HOST.fingerprint, update.fingerprint)


SPOILED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown key": (lambda s: s.update(colour="red"), "colour: Extra inputs"),
    "unknown version": (lambda s: s.update(version=2), "version: Input should be 1"),
    "no host": (lambda s: s.pop("host"), "host: Field required"),
    "other tensors": (lambda s: s.update(sha256="0" * 64), "expected the tensors whose sha256 it records"),
}


@everywhere
@pytest.mark.parametrize("name", SPOILED)
def test_a_history_that_is_not_ours_is_refused(name: str, file_format: str, technique: str, tmp_path: Path) -> None:
    folder = written(a_module(technique), tmp_path / "module", file_format)
    change, says = SPOILED[name]
    sidecar = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
    change(sidecar)
    (folder / SIDECAR).write_text(json.dumps(sidecar), encoding="utf-8")
    assert says in refused(folder, origin=HOST)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_history_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    folder = written(a_module(), tmp_path / "module", "peft")
    (folder / SIDECAR).write_bytes(content)
    assert SIDECAR in refused(folder, origin=HOST)


def test_a_module_trained_further_elsewhere_no_longer_has_that_history(tmp_path: Path) -> None:
    folder = written(a_module(), tmp_path / "module", "peft")
    tensors = folder / FOREIGN["peft"].tensors
    save_file({name: tensor + 1 for name, tensor in load_file(tensors).items()}, tensors)
    assert "trained further, delete this file" in refused(folder, origin=HOST)
    (folder / SIDECAR).unlink()
    assert read_module(folder, HOST).ports == ()


# --- origins ---------------------------------------------------------------------------------------------------------


def test_another_origin_is_refused_unless_it_is_trusted() -> None:
    module, other = a_module(), pico_host("bert", seed=1, view="body")
    check_origin(module, HOST, "module")
    with pytest.raises(ModuleRefused, match="another fingerprint.*--trust-origin pico-bert"):
        check_origin(module, other, "module")
    trusted = trust_origin(module, other)
    check_origin(trusted, other, "module")
    assert trusted.matrices is module.matrices
    assert [port.method for port in trusted.ports] == ["copy", "trusted origin"]
    assert (trusted.ports[-1].origin, trusted.ports[-1].receiver) == (HOST.fingerprint, other.fingerprint)


def test_trust_changes_nothing_where_none_is_needed() -> None:
    module = a_module()
    renamed = replace(HOST, fingerprint=HOST.fingerprint.model_copy(update={"name": "another name"}))
    assert trust_origin(module, renamed) is module


def test_trust_does_not_make_a_module_fit() -> None:
    with pytest.raises(SlotMismatch, match="family"):
        trust_origin(a_module(), host_of("llama"))
