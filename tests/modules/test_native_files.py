"""Module folders: the same bytes again, and a refusal in one line for everything that is not quite a module."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from modules.made import HOST, a_module, card_of, files_of, host_of, refused
from peftport.core.errors import ModuleRefused
from peftport.modules.folders import format_of, read_module, write_module
from peftport.modules.formats.native import CARD, TENSORS
from peftport.modules.module import check_fits
from peftport.techniques import TECHNIQUES

# --- the same again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [False, True], ids=["", "with-head"])
@pytest.mark.parametrize("model_type", ["bert", "t5", "gpt2"])
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_saved_loaded_and_saved_again_is_the_same_bytes(
    technique: str, model_type: str, head: bool, tmp_path: Path
) -> None:
    host = host_of(model_type)
    module = a_module(technique, host, head)
    write_module(module, host, tmp_path / "one")
    loaded = read_module(tmp_path / "one")
    write_module(loaded, host, tmp_path / "two")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert files_of(tmp_path / "one").keys() == {CARD, TENSORS}
    assert loaded.matrices.keys() == module.matrices.keys()
    for slot, own in module.matrices.items():
        assert own.keys() == loaded.matrices[slot].keys()
        assert all(torch.equal(loaded.matrices[slot][name], t) for name, t in own.items())
    assert (loaded.spec, loaded.host, loaded.task, loaded.training, loaded.ports) == (
        module.spec, module.host, module.task, module.training, module.ports,
    )  # fmt: skip
    assert (loaded.head is not None) is head
    assert loaded.parameters == module.parameters
    check_fits(loaded, host)


def test_bytes_do_not_depend_on_the_order_of_slots(folder: Path, tmp_path: Path) -> None:
    module = a_module()
    turned = {slot: dict(reversed(own.items())) for slot, own in reversed(module.matrices.items())}
    write_module(module.with_matrices(turned), HOST, tmp_path / "turned")
    assert files_of(tmp_path / "turned") == files_of(folder)


def test_matrices_that_are_views_are_saved_as_they_look(tmp_path: Path) -> None:
    """Transposed or shared memory: safetensors would refuse the one and lay out the other wrongly."""
    module = a_module()
    views = {slot: {name: t.T.contiguous().T for name, t in own.items()} for slot, own in module.matrices.items()}
    write_module(module.with_matrices(views), HOST, tmp_path / "views")
    write_module(module, HOST, tmp_path / "plain")
    assert files_of(tmp_path / "views") == files_of(tmp_path / "plain")


# --- refused ---------------------------------------------------------------------------------------------------------


def change_tensors(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Save the tensors anew with a change; the card stays."""

    def spoil(folder: Path) -> None:
        flat = load_file(folder / TENSORS)
        change(flat)
        save_file(flat, folder / TENSORS)

    return spoil


def change_card(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        card = card_of(folder)
        change(card)
        (folder / CARD).write_text(json.dumps(card), encoding="utf-8")

    return spoil


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: None if (folder / name).write_bytes(change((folder / name).read_bytes())) else None


def renamed(flat: dict[str, Any]) -> None:
    flat["layers.9.attn_q/A"] = flat.pop(ONE)


def forged(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the tensors and make the card agree, sha256 and all."""

    def spoil(folder: Path) -> None:
        change_tensors(change)(folder)
        flat, raw = load_file(folder / TENSORS), (folder / TENSORS).read_bytes()
        shapes = {name: list(tensor.shape) for name, tensor in flat.items()}
        change_card(lambda c: c.update(tensors=shapes, sha256=hashlib.sha256(raw).hexdigest()))(folder)

    return spoil


ONE = "layers.1.attn_q/A"
CORRUPTIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing tensor": (change_tensors(lambda t: t.pop(ONE)), f"expected the tensor {ONE}"),
    "extra tensor": (change_tensors(lambda t: t.update(more=torch.ones(1))), "tensor more is not listed"),
    "renamed tensor": (change_tensors(renamed), f"expected the tensor {ONE}"),
    "nan": (change_tensors(lambda t: t[ONE][0].fill_(torch.nan)), f"{ONE}: expected finite numbers"),
    "infinity": (change_tensors(lambda t: t[ONE][0].fill_(torch.inf)), f"{ONE}: expected finite numbers"),
    "nan, card agrees": (forged(lambda t: t[ONE][0].fill_(torch.nan)), f"{ONE}: expected finite numbers"),
    "wrong shape": (change_tensors(lambda t: t.update({ONE: torch.ones(2, 15)})), r"expected shape (2, 16)"),
    "other numbers": (change_tensors(lambda t: t[ONE].mul_(2)), "expected the bytes whose sha256"),
    "truncated": (rewrite(TENSORS, lambda raw: raw[:-100]), "truncated or corrupt"),
    "header only": (rewrite(TENSORS, lambda raw: raw[:40]), "truncated or corrupt"),
    "empty": (rewrite(TENSORS, lambda raw: b""), "truncated or corrupt"),
    "longer": (rewrite(TENSORS, lambda raw: raw + b"\0" * 8), ""),
    "flipped byte": (rewrite(TENSORS, lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])), "expected the bytes whose sha256"),
    "no tensors": (lambda folder: (folder / TENSORS).unlink(), f"expected {TENSORS}, found none"),
    "no card": (lambda folder: (folder / CARD).unlink(), f"expected {CARD}"),
    "card not JSON": (rewrite(CARD, lambda raw: raw[:-20]), "JSON"),
    "card not UTF-8": (rewrite(CARD, lambda raw: b"\xff" + raw), "expected a readable module card"),
    "card of another kind": (rewrite(CARD, lambda raw: b"[]"), "the file: Input should be an object"),
    "unknown key": (change_card(lambda c: c.update(colour="red")), "colour: Extra inputs are not permitted"),
    "unknown setting": (change_card(lambda c: c["technique"].update(dora=True)), "dora: Extra inputs"),
    "unknown key of the host": (change_card(lambda c: c["host"].update(colour="red")), "host.colour: Extra"),
    "unknown technique": (change_card(lambda c: c["technique"].update(kind="ia3")), "technique: Input tag 'ia3'"),
    "rank of zero": (change_card(lambda c: c["technique"].update(rank=0)), "rank: Input should be greater than 0"),
    "no host": (change_card(lambda c: c.pop("host")), "host: Field required"),
    "no spec": (change_card(lambda c: c.pop("technique")), "technique: Field required"),
    "unknown version": (change_card(lambda c: c.update(version=2)), "version: Input should be 1"),
    "another format": (change_card(lambda c: c.update(format="other")), "format: Input should be 'peftport-module'"),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_folder_that_is_not_whole_is_refused(corruption: str, folder: Path) -> None:
    spoil, message = CORRUPTIONS[corruption]
    read_module(folder)
    spoil(folder)
    assert message in refused(folder)


HEAVY = settings(max_examples=150, deadline=None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("modules") / "whole"
    write_module(a_module("compacter", head=True), HOST, path)
    return path


@given(data=st.data())
@HEAVY
def test_no_single_byte_of_the_tensors_may_differ(whole: Path, data: st.DataObject) -> None:
    """Header or numbers, whatever safetensors makes of it."""
    raw = (whole / TENSORS).read_bytes()
    header = 8 + struct.unpack("<Q", raw[:8])[0]
    place = data.draw(st.one_of(st.integers(0, header - 1), st.integers(0, len(raw) - 1)), label="place")
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != raw[place]), label="byte")
    spoiled(whole, TENSORS, raw[:place] + bytes([byte]) + raw[place + 1 :])


@given(data=st.data())
@HEAVY
def test_no_beginning_of_the_tensors_is_a_module(whole: Path, data: st.DataObject) -> None:
    raw = (whole / TENSORS).read_bytes()
    spoiled(whole, TENSORS, raw[: data.draw(st.integers(0, len(raw) - 1))])


@pytest.mark.parametrize("dtype", ["U32", "I32", "F16", "F64", "BOOL"])
def test_another_type_of_numbers_is_refused(whole: Path, dtype: str) -> None:
    raw = (whole / TENSORS).read_bytes()
    assert b'"F32"' in raw
    spoiled(whole, TENSORS, raw.replace(b'"F32"', f'"{dtype}"'.encode(), 1))


def spoiled(whole: Path, name: str, content: bytes) -> None:
    """With these bytes in that file the folder is refused; afterwards it is whole again."""
    before = (whole / name).read_bytes()
    (whole / name).write_bytes(content)
    try:
        refused(whole)
    finally:
        (whole / name).write_bytes(before)


@given(data=st.data())
@HEAVY
def test_a_card_is_read_or_refused_never_a_crash(whole: Path, data: st.DataObject) -> None:
    raw = (whole / CARD).read_bytes()
    place, byte = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(0, 255))
    (whole / CARD).write_bytes(raw[:place] + bytes([byte]) + raw[place + 1 :])
    try:
        read_module(whole)
    except ModuleRefused as refusal:
        assert len(str(refusal).splitlines()) == 1
    finally:
        (whole / CARD).write_bytes(raw)


def test_places_that_are_no_module_folder_are_refused(tmp_path: Path) -> None:
    assert "found nothing" in refused(tmp_path / "absent")
    (tmp_path / "file").touch()
    assert "found a file" in refused(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert f"expected {CARD} (native) or adapter_config.json (PEFT, adapters), found neither" in refused(
        tmp_path / "empty"
    )


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["adapter_model.bin", "module.pt", "model.pth", "last.ckpt", "matrices.pkl"])
@pytest.mark.parametrize("beside", [None, CARD, "adapter_config.json"])
def test_pickles_are_never_loaded(name: str, beside: str | None, folder: Path, tmp_path: Path) -> None:
    """Alone, beside a card whose tensors are gone, or where PEFT kept its weights of old."""
    marker, place = tmp_path / "exploded", tmp_path / "pickled"
    place.mkdir()
    (place / name).write_bytes(pickle.dumps(Bomb(marker)))
    if beside == CARD:
        (place / CARD).write_bytes((folder / CARD).read_bytes())
    elif beside:
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["query"]}
        (place / beside).write_text(json.dumps(config), encoding="utf-8")
    message = refused(place, origin=HOST)
    if beside is None or (beside, name) == ("adapter_config.json", "adapter_model.bin"):
        assert "pickled weights, which are never loaded" in message
    assert not marker.exists()
    pickle.loads((place / name).read_bytes())
    assert marker.exists()  # the bomb was live


def test_tensors_that_are_a_pickle_are_refused(folder: Path, tmp_path: Path) -> None:
    """Also under the right name."""
    torch.save({"A": torch.ones(2)}, folder / TENSORS)
    assert "truncated or corrupt" in refused(folder)
    (folder / TENSORS).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    refused(folder)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("change", [{"lora_alpha": 0}, {"lora_alpha": -8}, {"r": 0}, {"r": "x"}, {"r": None}])
def test_a_peft_checkpoint_with_impossible_settings_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    write_module(a_module(), HOST, tmp_path / "peft", "peft")
    assert format_of(tmp_path / "peft") == "peft"
    read_module(tmp_path / "peft", HOST)
    config = tmp_path / "peft" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | change), encoding="utf-8")
    refused(tmp_path / "peft", origin=HOST)
