"""What users call a module: a folder, a folder around one, a hub id; hosts without a tokenizer; tensors in files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub.file_download import repo_folder_name
from safetensors.torch import load_file, save_file

from modules.made import HOST, a_module, host_of
from peftport.core.errors import HostRefused, ModuleRefused
from peftport.core.hashing import rng_for
from peftport.hosts.load import load_host
from peftport.hosts.opening import open_host
from peftport.hosts.sources import find_host
from peftport.modules.folders import read_module, write_module
from peftport.modules.sources import module_folder
from peftport.porting import porter_named
from pico import pico_model, word_tokenizer

REVISION = "1" * 40


@pytest.fixture
def cached(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the hub's cache, under its revision and in a subfolder, as huggingface_hub leaves it."""
    cache = tmp_path / "cache"
    repository = cache / repo_folder_name(repo_id="org/name", repo_type="model")
    shutil.copytree(folder, repository / "snapshots" / REVISION / "best")
    shutil.copytree(folder, repository / "snapshots" / REVISION, dirs_exist_ok=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return repository / "snapshots" / REVISION


def test_a_hub_id_is_read_from_the_cache(cached: Path) -> None:
    for ref in ("org/name", f"org/name@{REVISION}"):
        assert module_folder(ref).resolve() == cached.resolve()
    assert module_folder("org/name/best").resolve() == (cached / "best").resolve()
    assert read_module(module_folder("org/name/best")).parameters == a_module().parameters
    for ref in ("org/other", "org/name@main2"):
        with pytest.raises(ModuleRefused, match=f"^{ref}: expected a module folder, or a module on the hub") as refusal:
            module_folder(ref)
        assert len(str(refusal.value).splitlines()) == 1


def test_a_typing_error_in_a_path_asks_no_hub(folder: Path) -> None:
    for wrong in (folder.parent / "modul", "../nothing/there"):
        assert module_folder(wrong) == Path(wrong)


def test_a_folder_around_one_module_is_that_module(folder: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(folder, runs / "checkpoint-500")
    assert module_folder(runs) == runs / "checkpoint-500"
    shutil.copytree(folder, runs / "checkpoint-1000")
    with pytest.raises(ModuleRefused, match=r"got 2 in it \(checkpoint-500, checkpoint-1000\); give one .*-1000$"):
        module_folder(runs)


def test_tensors_in_several_files_are_read_by_their_index(tmp_path: Path) -> None:
    host = host_of("bert", view="body")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    write_module(a_module(host=host), host, whole, "peft")
    shutil.copytree(whole, parts)
    flat = load_file(parts / "adapter_model.safetensors")
    files = {name: f"adapter_model-0000{1 + place % 2}-of-00002.safetensors" for place, name in enumerate(flat)}
    for file in set(files.values()):
        save_file({name: flat[name] for name in flat if files[name] == file}, parts / file)
    index = parts / "adapter_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (parts / "adapter_model.safetensors").unlink()
    (parts / "peftport.json").unlink()
    one, other = read_module(whole, host).matrices, read_module(parts, host).matrices
    assert all(other[slot][name].equal(tensor) for slot, own in one.items() for name, tensor in own.items())
    index.write_text(json.dumps({"weight_map": {**files, "lost": "../../secret.safetensors"}}))
    with pytest.raises(ModuleRefused, match="expected file names inside the folder"):
        read_module(parts, host)


def test_packed_weights_of_llama_cpp_are_no_host(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "model-Q4_K_M.gguf"
    file.parent.mkdir()
    file.write_bytes(b"GGUF")
    for ref in (file, file.parent):
        with pytest.raises(HostRefused, match="packed as GGUF; give the base that they were made of"):
            find_host(str(ref))


def test_a_host_without_a_tokenizer_takes_a_copy(tmp_path: Path) -> None:
    pico_model("bert", view="body", seed=4).save_pretrained(tmp_path / "host")
    receiver = open_host(str(tmp_path / "host"))
    ported = porter_named("copy").port(a_module(), receiver, rng_for(0, "porting"))
    write_module(ported, receiver, tmp_path / "ported", "peft")
    with pytest.raises(HostRefused, match="expected a tokenizer in its folder, found none"):
        receiver.tokenizer("a text")
    with pytest.raises(HostRefused, match="expected a tokenizer in its folder, found none"):
        load_host(str(tmp_path / "host"))
    word_tokenizer().save_pretrained(tmp_path / "host")
    assert load_host(str(tmp_path / "host")).slots.keys() == HOST.slots.keys()
