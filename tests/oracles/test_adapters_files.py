"""Folders of the `adapters` library: it loads ours with every tensor in place, and we read those it saves."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from oracles.agreement import TOLERANCE, batch, outputs_with, random_module, worst_output
from oracles.library import ask_library, need_oracle, save_host
from oracles.test_adapters import untied
from peftport.core.errors import BadRequest
from peftport.core.hashing import rng_for
from peftport.hosts.host import Host
from peftport.modules.folders import format_of, read_module, write_module
from peftport.modules.module import check_fits
from peftport.modules.record import AdaptersRecord
from peftport.porting import PORTERS
from peftport.techniques.adapter import AdapterSpec
from peftport.techniques.base import TechniqueSpec
from peftport.techniques.compacter import CompacterSpec
from peftport.techniques.lora import LoraSpec
from peftport.techniques.prefix import PrefixSpec
from pico import pico_host

CONFIG, TENSORS = "adapter_config.json", "adapter.safetensors"
ENCODERS = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")
HOSTS: dict[str, Callable[[], Host]] = {
    **{name: lambda name=name: pico_host(name) for name in (*ENCODERS, "bart", "llama", "mistral", "gpt2")},  # type: ignore[misc]
    "t5": lambda: untied(pico_host("t5", tie_word_embeddings=False)),
    "mt5": lambda: untied(pico_host("mt5", tie_word_embeddings=False)),
}
host_of = cache(lambda name: HOSTS[name]())  # shared: nothing may change it
BOTTLENECKS: dict[str, TechniqueSpec] = {
    "houlsby": AdapterSpec(placement="houlsby", reduction_factor=4, activation="swish"),
    "pfeiffer": AdapterSpec(placement="pfeiffer", reduction_factor=3, activation="relu"),
    "compacter": CompacterSpec(reduction_factor=4),
}
OURS: dict[str, tuple[str, TechniqueSpec]] = {
    **{f"{host}-{name}": (host, spec) for host in HOSTS for name, spec in BOTTLENECKS.items()},
    **{f"{host}-prefix": (host, PrefixSpec(length=5, hidden=7)) for host in ENCODERS},
    # A width that the library would make of its reduction factor 32 is no multiple of phm_dim: another factor is named.
    "bert-narrow": ("bert", CompacterSpec(phm_dim=2, phm_rank=3, reduction_factor=32, activation="swish")),
}
# The library (1.3.0) forgets to save the rule of a Compacter whose model has no name for its base model.
WITHOUT_THEIR_RULE = ("t5-compacter", "mt5-compacter")
MADE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "made-houlsby": ("bert", "DoubleSeqBnConfig", {}),
    "made-pfeiffer": ("roberta", "SeqBnConfig", {"reduction_factor": 5.0, "non_linearity": "gelu"}),
    "made-compacter": ("distilbert", "CompacterConfig", {"reduction_factor": 4, "phm_rank": 2}),
    "made-prefix": ("bert", "PrefixTuningConfig", {"prefix_length": 4, "flat": True}),
    "made-prefix-mlp": ("distilbert", "PrefixTuningConfig", {"prefix_length": 4, "bottleneck_size": 6}),
    "made-t5": ("t5", "DoubleSeqBnConfig", {"non_linearity": "relu", "dropout": 0.1}),
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@cache
def ask(folder: Path) -> CompletedProcess[str]:
    """Write every case and ask the library once."""
    for name in HOSTS:
        save_host(host_of(name), folder / "hosts" / name)
    requests = []
    for name, (host, spec) in OURS.items():
        write_module(flat(host, spec), host_of(host), folder / f"{name}.ours", "adapters")
        requests.append({"name": name, "host": host, "folder": str(folder / f"{name}.ours")})
    for name, (host, config, settings) in MADE.items():
        requests.append({"name": name, "host": host, "config": config, "settings": settings})
    for request in requests:
        inputs = batch(host_of(request["host"]), shift=0)
        tensors = {f"input/{key}": value for key, value in inputs.items() if torch.is_tensor(value)}
        save_file(tensors, folder / f"{request['name']}.safetensors")
    (folder / "files.json").write_text(json.dumps(requests))
    return ask_library("oracle_adapter_files.py", folder)


def asked(folder: Path) -> Path:
    need_oracle()
    done = ask(folder)
    if done.returncode:
        pytest.fail(f"the oracle failed:\n{done.stderr[-3000:]}", pytrace=False)
    return folder


def flat(host: str, spec: TechniqueSpec) -> Any:
    """A module of random numbers; of a prefix, keys and values."""
    plain = spec.model_copy(update={"hidden": 0}) if isinstance(spec, PrefixSpec) else spec
    return random_module(host_of(host), plain)


def theirs(folder: Path, name: str) -> dict[str, Tensor]:
    answer = load_file(folder / f"{name}.answer.safetensors")
    return {key.removeprefix("output/"): tensor for key, tensor in answer.items()}


def ours(name: str, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Inputs and outputs of a folder on a host, read by us."""
    host = HOSTS[name]()  # afresh: the first call decides whether hidden states are taken before or after our hooks
    module = read_module(path, host)
    check_fits(module, host)
    inputs = batch(host, shift=0)
    return inputs, outputs_with(host, module, inputs)


@pytest.mark.parametrize("name", OURS)
def test_the_library_loads_what_we_write_and_we_read_what_it_saves(name: str, folder: Path) -> None:
    """The same outputs there; saved by it and read again, the same module."""
    path = asked(folder)
    host_name, spec = OURS[name]
    host, module = host_of(host_name), flat(host_name, spec)
    inputs, outputs = ours(host_name, path / f"{name}.ours")
    assert worst_output(inputs, outputs, theirs(path, name)) <= TOLERANCE
    assert worst_output(inputs, outputs, outputs_with(HOSTS[host_name](), None, inputs)) > 1e-2
    if name in WITHOUT_THEIR_RULE:
        return refused(path / f"{name}.saved", host_name, r"found none called shared_parameters.peftport.phm_rule")
    again = read_module(path / f"{name}.saved", host)
    assert again.matrices.keys() == module.matrices.keys()
    for slot, own in module.matrices.items():
        assert all(torch.equal(again.matrices[slot][matrix], tensor) for matrix, tensor in own.items())
    assert read_module(path / f"{name}.ours", host).spec == again.spec


@pytest.mark.parametrize("name", MADE)
def test_we_read_what_the_library_made_and_write_it_again(name: str, folder: Path, tmp_path: Path) -> None:
    path = asked(folder)
    host = host_of(MADE[name][0])
    assert format_of(path / f"{name}.saved") == "adapters"
    inputs, outputs = ours(MADE[name][0], path / f"{name}.saved")
    assert worst_output(inputs, outputs, theirs(path, name)) <= TOLERANCE
    module = read_module(path / f"{name}.saved", host)
    said = json.loads((path / f"{name}.saved" / CONFIG).read_text())
    assert module.file == AdaptersRecord(name="oracle", config=said, host=host.fingerprint)
    write_module(module, host, tmp_path / "again", "adapters")
    of_an_mlp = {"flat": True} if "mlp" in name else {}  # what comes out of the MLP is written, not the MLP
    expected = {**said, "config": {**said["config"], **of_an_mlp}}
    assert json.loads((tmp_path / "again" / CONFIG).read_text()) == expected
    before, after = load_file(path / f"{name}.saved" / TENSORS), load_file(tmp_path / "again" / TENSORS)
    if "mlp" not in name:
        assert {key for key in before if ".pool." not in key} == after.keys()
        assert all(torch.equal(before[key], tensor) for key, tensor in after.items())
    assert worst_output(inputs, ours(MADE[name][0], tmp_path / "again")[1], theirs(path, name)) <= TOLERANCE


ODD = {"dropout": 0.25, "init_weights": "mam_adapter", "stochastic_depth": 0.1, "non_linearity": "SiLU"}


def test_settings_that_came_in_go_out_but_for_those_of_the_host(tmp_path: Path) -> None:
    """On the same host everything; on another of its type what names the host changes, and the rank's factor stays."""
    made, host = written(tmp_path, "bert", BOTTLENECKS["houlsby"]), host_of("bert")
    (made / "peftport.json").unlink()
    edit(made, lambda c: {**c, "model_class": "BertForMaskedLM", "later": None, "config": {**c["config"], **ODD}})
    said = json.loads((made / CONFIG).read_text())
    module = read_module(made, host)
    write_module(module, host, tmp_path / "same", "adapters")
    assert json.loads((tmp_path / "same" / CONFIG).read_text()) == said
    other = pico_host("bert", seed=1)
    write_module(PORTERS["copy"].port(module, other, rng_for(0, "test")), other, tmp_path / "other", "adapters")
    assert json.loads((tmp_path / "other" / CONFIG).read_text()) == {**said, "model_name": other.name}
    of_another_type = pico_host("roberta")
    ported = PORTERS["copy"].port(module, of_another_type, rng_for(0, "test"))
    write_module(ported, of_another_type, tmp_path / "roberta", "adapters")
    got = json.loads((tmp_path / "roberta" / CONFIG).read_text())
    assert got["config"] == said["config"] and got["later"] is None
    assert (got["model_type"], got["model_class"]) == ("roberta", type(of_another_type.model).__name__)


# --- what is refused, by name ---------------------------------------------------------------------------------------


def written(tmp_path: Path, host: str, spec: TechniqueSpec) -> Path:
    write_module(flat(host, spec), host_of(host), tmp_path / "module", "adapters")
    return tmp_path / "module"


SETTINGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "parallel": ("houlsby", {"is_parallel": True}, "is_parallel = True"),
    "scaled": ("houlsby", {"scaling": 4.0}, "scaling = 4.0"),
    "learned scale": ("houlsby", {"scaling": "learned"}, "scaling = 'learned'"),
    "gated": ("houlsby", {"use_gating": True}, "use_gating = True"),
    "layer norm": ("houlsby", {"ln_before": True}, "ln_before = True"),
    "invertible": ("pfeiffer", {"inv_adapter": "nice"}, "inv_adapter = 'nice'"),
    "layers left out": ("houlsby", {"leave_out": [0]}, r"leave_out = \[0\]"),
    "another residual": ("pfeiffer", {"residual_before_ln": "post_add"}, "residual_before_ln = 'post_add'"),
    "another place": ("pfeiffer", {"mh_adapter": True}, "mh_adapter = True"),
    "factors by layer": ("houlsby", {"reduction_factor": {"0": 2, "default": 4}}, "reduction_factor"),
    "a factor that no whole one gives": ("houlsby", {"reduction_factor": 2.5}, "reduction_factor = 2.5"),
    "an approximate gelu": ("houlsby", {"non_linearity": "gelu_new"}, "non_linearity = 'gelu_new'"),
    "a rule of its own": ("compacter", {"shared_phm_rule": False}, "shared_phm_rule = False"),
    "the other compacter": ("compacter", {"mh_adapter": False, "original_ln_before": True}, "mh_adapter = False"),
    "an unknown setting": ("houlsby", {"use_magic": True}, "use_magic = True"),
    "another technique": ("houlsby", {"architecture": "reft"}, "architecture 'reft'"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_would_be_lost_are_refused_by_name(name: str, tmp_path: Path) -> None:
    kind, change, says = SETTINGS[name]
    folder = written(tmp_path, "bert", BOTTLENECKS[kind])
    edit(folder, lambda c: {**c, "config": {**c["config"], **change}})
    refused(folder, "bert", says)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a head": (lambda f: (f / "head_config.json").write_text("{}"), "head_config.json: .*with_head=False"),
    "another kind of host": (lambda f: edit(f, lambda c: {**c, "model_type": "t5"}), "model_type: expected bert"),
    "another width": (lambda f: edit(f, lambda c: {**c, "hidden_size": 32}), "hidden_size: expected 16"),
    "no name": (lambda f: edit(f, lambda c: {**c, "name": None}), "expected a configuration of the adapters library"),
    "another name": (lambda f: edit(f, lambda c: {**c, "name": "other"}), "adapters.peftport.*would be lost"),
    "settings by name": (lambda f: edit(f, lambda c: {**c, "config": "seq_bn"}), "settings in full"),
    "gelu of old": (lambda f: edit(f, lambda c: {k: c[k] for k in c if k != "version"}), "non_linearity = 'gelu'"),
    "a tensor less": (lambda f: save_file(dict(list(load_file(f / TENSORS).items())[1:]), f / TENSORS), "found none"),
    "a tensor more": (lambda f: save_file({**load_file(f / TENSORS), "more": torch.ones(1)}, f / TENSORS), "got more"),
    "pickles": (lambda f: (f / TENSORS).rename(f / "pytorch_adapter.bin"), "pickled weights, which are never loaded"),
    "tensors": (lambda f: (f / TENSORS).unlink(), "expected adapter.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_folder_that_is_not_whole_is_refused(name: str, tmp_path: Path) -> None:
    change, says = CHANGES[name]
    folder = written(tmp_path, "bert", AdapterSpec(reduction_factor=4, activation="gelu"))
    read_module(folder, host_of("bert"))
    (folder / "peftport.json").unlink()
    change(folder)
    refused(folder, "bert", says)


@pytest.mark.parametrize(
    ("host", "spec", "says"),
    [
        ("bert", LoraSpec(), "got lora; use peft"),
        ("llama", PrefixSpec(length=3, hidden=0), "a prefix on llama is not the same there"),
        ("t5", PrefixSpec(length=3, hidden=0), "a prefix on t5 is not the same there"),
    ],
)
def test_what_the_library_has_not_or_computes_otherwise_is_refused(
    host: str, spec: TechniqueSpec, says: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest, match=says):
        write_module(flat(host, spec), host_of(host), tmp_path / "out", "adapters")
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_the_library_has_not_is_refused(tmp_path: Path) -> None:
    host = pico_host("qwen2")
    with pytest.raises(BadRequest, match="expected a host of a type the adapters library has.*got qwen2"):
        write_module(random_module(host, BOTTLENECKS["houlsby"]), host, tmp_path / "out", "adapters")


def test_the_host_must_be_given(tmp_path: Path) -> None:
    folder = written(tmp_path, "bert", BOTTLENECKS["houlsby"])
    with pytest.raises(BadRequest, match="an adapters checkpoint needs the host it was trained on; give --from HOST"):
        read_module(folder)


def edit(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    (folder / CONFIG).write_text(json.dumps(change(json.loads((folder / CONFIG).read_text()))))


def refused(folder: Path, host: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as refusal:
        read_module(folder, host_of(host))
    assert len(str(refusal.value).splitlines()) == 1 and refusal.value.exit_code == 2
