"""What is remembered of hosts: the same as what is found out, never of a file that changed, and never needed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from peftport.core.errors import HostRefused
from peftport.hosts import opening, remembered
from peftport.hosts.load import load_host
from peftport.hosts.opening import open_host
from pico import pico_model, word_tokenizer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("PEFTPORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / remembered.FOLDER


@pytest.fixture
def host(tmp_path: Path, cache: Path) -> Path:
    """A small host, which was never opened."""
    pico_model("bert", view="language_model").save_pretrained(tmp_path / "host")
    word_tokenizer().save_pretrained(tmp_path / "host")
    return tmp_path / "host"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were made since."""
    found: list[str] = []
    before = opening._without_storage

    def make(auto: Any, settings: Any) -> Any:
        found.append(auto.__name__)
        return before(auto, settings)

    monkeypatch.setattr(opening, "_without_storage", make)
    return found


def _config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _other_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def _fewer_tensors(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if "predictions" not in n}, path, metadata={"format": "pt"})


def test_what_is_remembered_is_what_a_loaded_host_has(host: Path, made: list[str]) -> None:
    loaded, first = load_host(str(host)), open_host(str(host))
    assert made == ["AutoModel"]
    again = open_host(str(host))
    assert made == ["AutoModel"] and "model" not in vars(again) and "tokenizer" not in vars(again)
    for opened in (first, again):
        assert (opened.slots, opened.width, opened.fingerprint) == (loaded.slots, loaded.width, loaded.fingerprint)
        assert (opened.name, opened.kind, opened.layout) == (loaded.name, loaded.kind, loaded.layout)
    assert first.heads == again.heads == ("language_model",)
    assert again.tokenizer.get_vocab() == loaded.tokenizer.get_vocab()
    assert {n: p.shape for n, p in again.base.named_parameters() if "pooler" not in n} == {
        n: p.shape for n, p in loaded.base.named_parameters() if "pooler" not in n
    }
    assert next(again.base.parameters()).device == torch.device("meta")


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        (lambda folder: _config(folder, layer_norm_eps=0.5), True),
        (lambda folder: _config(folder, is_decoder=True), True),
        (_fewer_tensors, True),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{}"), True),
        (_other_weights, False),
    ],
    ids=["settings", "another model", "fewer tensors", "tokenizer", "weights"],
)
def test_a_file_that_changed_is_read_anew(
    change: Callable[[Path], object], anew: bool, host: Path, made: list[str]
) -> None:
    """What weights are is in the fingerprint, which is computed each time; where they are is all that is remembered."""
    before = open_host(str(host))
    change(host)
    after, count = open_host(str(host)), len(made)
    assert (count > 1) is anew
    assert after.fingerprint != before.fingerprint
    assert after.fingerprint == load_host(str(host)).fingerprint


def test_a_host_that_was_broken_since_is_refused(host: Path, made: list[str]) -> None:
    open_host(str(host))
    _config(host, num_hidden_layers=1)
    for _ in range(2):  # a refusal is not remembered either
        with pytest.raises(HostRefused, match="expected the layers that config.json describes"):
            open_host(str(host))
    _config(host, num_hidden_layers=2)
    path = host / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(HostRefused, match="truncated or corrupt"):
        open_host(str(host))


def test_a_copy_of_a_host_is_known(host: Path, made: list[str], tmp_path: Path) -> None:
    open_host(str(host))
    copy = open_host(str(shutil.copytree(host, tmp_path / "copy")))
    assert made == ["AutoModel"] and copy.name == "copy"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"width": 16}'])
def test_a_cache_that_is_damaged_or_cannot_be_written_costs_time_alone(
    content: bytes, host: Path, cache: Path, made: list[str]
) -> None:
    first = open_host(str(host))
    kept = {path: path.read_bytes() for path in cache.iterdir()}
    assert {path.name.split("-")[0] for path in kept} == {"settings", "outline"}
    [outline] = cache.glob("outline-*")
    outline.write_bytes(content)
    assert open_host(str(host)).slots == first.slots
    assert {path: path.read_bytes() for path in cache.iterdir()} == kept and len(made) == 2
    shutil.rmtree(cache)
    cache.write_text("no folder")
    assert open_host(str(host)).slots == first.slots and len(made) == 3


def test_the_cache_is_bounded(host: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST", 3)
    for eps in (0.1, 0.2, 0.3):
        _config(host, layer_norm_eps=eps)
        open_host(str(host))
    assert len(list(cache.iterdir())) == 3
